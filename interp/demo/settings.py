"""What a training run is made of: everything that decides its weights, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.demo.windows import Shares
from interp.errors import InputError

SHORTEST_CONTEXT = 128
"""Shorter windows would not hold a needle and its question (about 60 tokens) among prose."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the run. It lasts until the share `until` of all steps; windows hold `context` tokens, a step `tokens`."""

    until: float
    context: int
    tokens: int
    repeat: float
    needle: float

    @property
    def shares(self) -> Shares:
        """Shares of windows by kind."""
        return Shares(self.repeat, self.needle)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `train_demo`; the defaults are those of the committed model.

    Rates: linear warmup over `warmup` of the steps, constant, then linear to 0 over the last `decay` of the steps.
    `held_out`: names of books (file names without .txt) that are not trained on; None takes every twelfth.
    """

    steps: int = 3000
    seed: int = 0
    vocabulary: int = 1024
    layers: int = 4
    width: int = 192
    mlp_width: int = 512
    heads: int = 6
    kv_heads: int = 3
    head_width: int = 32
    context: int = 1024
    # 0.3178 (step 954): the shares were changed while the committed run was under way; this is what it did.
    phases: tuple[Phase, ...] = (
        Phase(until=0.3, context=128, tokens=2048, repeat=0.8, needle=0.1),
        Phase(until=0.3178, context=256, tokens=2048, repeat=0.35, needle=0.25),
        Phase(until=0.5, context=256, tokens=2048, repeat=0.25, needle=0.35),
        Phase(until=0.7, context=512, tokens=3072, repeat=0.2, needle=0.3),
        Phase(until=1.0, context=1024, tokens=4096, repeat=0.2, needle=0.3),
    )
    matrix_rate: float = 0.004
    other_rate: float = 0.004
    weight_decay: float = 0.3
    warmup: float = 0.006
    decay: float = 0.5
    random_weight: float = 0.1
    answer_weight: float = 4.0
    clip: float = 1.0
    held_out: tuple[str, ...] | None = None
    measure_every: int = 10
    save_every: int = 50
    keep_weights_every: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained; raises InputError that names the setting."""
        positive = (
            "steps",
            "layers",
            "width",
            "mlp_width",
            "heads",
            "kv_heads",
            "head_width",
            "measure_every",
            "save_every",
        )
        for name in positive:
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("matrix_rate", "other_rate", "answer_weight", "clip"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("warmup", "decay", "random_weight", "weight_decay"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must lie in 0..1, not {getattr(self, name)}")
        _require(self.seed >= 0, f"seed must not be negative, not {self.seed}")
        _require(
            self.keep_weights_every >= 0, f"keep_weights_every must not be negative, not {self.keep_weights_every}"
        )
        _require(320 <= self.vocabulary <= 65536, f"vocabulary must lie in 320..65536, not {self.vocabulary}")
        _require(
            self.heads % self.kv_heads == 0, f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
        )
        _require(self.head_width % 2 == 0, f"head_width must be even (rotary positions), not {self.head_width}")
        _require(len(self.phases) > 0 and self.phases[-1].until == 1.0, "the last phase must last until 1.0")
        before = 0.0
        for phase in self.phases:
            _require(phase.until > before, "phases must end one after the other")
            before = phase.until
            _require(
                SHORTEST_CONTEXT <= phase.context <= self.context,
                f"a phase's context must lie in {SHORTEST_CONTEXT}..{self.context} (context), not {phase.context}",
            )
            _require(
                phase.tokens >= phase.context and phase.tokens % phase.context == 0,
                f"a phase's tokens ({phase.tokens}) must be a multiple of its context ({phase.context})",
            )
            _require(
                phase.repeat >= 0 and phase.needle >= 0 and phase.repeat + phase.needle <= 1,
                f"shares of a phase must not be negative nor exceed 1 together, not {phase.repeat} and {phase.needle}",
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Settings from plain data (JSON, TOML, command line). Raises InputError for keys that do not exist."""
        data = _known(cls, values)
        if "phases" in data:
            data["phases"] = tuple(Phase(**_known(Phase, phase)) for phase in data["phases"])
        if data.get("held_out") is not None:
            data["held_out"] = tuple(data["held_out"])
        try:
            return cls(**data)
        except TypeError as error:
            raise InputError(f"training settings: {error}") from error

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` takes."""
        return dataclasses.asdict(self)

    def phase(self, step: int) -> Phase:
        """The phase of step `step`, counted from 0."""
        return next(phase for phase in self.phases if step < phase.until * self.steps or phase is self.phases[-1])

    def rate(self, step: int) -> float:
        """The factor on both learning rates at step `step`: warmup, 1, linear decay to 0 after the last step."""
        place = (step + 1) / self.steps
        rise = place / self.warmup if self.warmup else 1.0
        fall = (1 - step / self.steps) / self.decay if self.decay else 1.0
        return min(1.0, rise, fall)


def _known(cls: type[TrainSettings | Phase], values: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"unknown training settings {unknown}; known: {names}")
    return dict(values)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"training settings: {message}")
