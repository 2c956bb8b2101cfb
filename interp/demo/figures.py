"""The figures of an evaluated demo model, as plain data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prose:
    """Loss on a held-out book: windows of full context, each with BOS, every token after it scored."""

    book: str
    tokens: int
    nats_per_token: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Head:
    """Scores of one head. previous_token: held-out prose, T = 128; induction: BOS + 50 random tokens twice, mean and standard
    error over seeds; first_token: mean over samples of alpha_0 at T = 64, and the share of samples in which it exceeds 0.3."""

    layer: int
    head: int
    previous_token: float
    induction: float
    induction_stderr: float
    first_token: float
    first_token_share: float


@dataclass(frozen=True)
class Copy:
    """Mean loss (nats per token) on a random span and on its copy that follows at once; the copy's first token is left out.
    `uniform`: the loss of guessing uniformly among the tokens that were drawn from."""

    span: int
    first_copy: float
    second_copy: float
    second_copy_accuracy: float
    uniform: float


@dataclass(frozen=True)
class Recall:
    """Share of trials in which greedy decoding gives the needle's whole value, by depth (0 start, 1 end of the context)."""

    distractors: int
    trials_per_depth: int
    depths: list[float]
    recall: list[float]
    recall_numbers: float
    recall_words: float


@dataclass(frozen=True)
class Evaluation:
    """The figures of the parts that were asked for; the others are empty. `chance`: the scores of uniform attention."""

    prose: list[Prose]
    heads: list[Head]
    chance: dict[str, float]
    copies: list[Copy]
    needles: list[Recall]
    sample: str

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> Evaluation:
        """What `to_mapping` gave."""
        return cls(
            [Prose(**row) for row in data["prose"]],
            [Head(**row) for row in data["heads"]],
            data["chance"],
            [Copy(**row) for row in data["copies"]],
            [Recall(**row) for row in data["needles"]],
            data["sample"],
        )
