"""The inputs that detectors are measured on: equal recipes are run once and shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from interp.errors import InputError

RANDOM_WINDOW = 512
"""Longest window of random tokens that stands in where there is no text."""


@dataclass(frozen=True, eq=False)
class Source:
    """What samples are made from.

    text      token ids of the text without special tokens, None where there is none
    longest   positions of the longest sequence to make
    before, after  special tokens around each window of text, as the model's tokenizer puts them
    bos       what random sequences begin with: the BOS token where the model has one
    ordinary  ids of the vocabulary without special tokens, [V]
    count     how many random sequences to draw
    """

    text: Tensor | None
    longest: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    bos: tuple[int, ...]
    ordinary: Tensor
    seed: int
    count: int


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token ids of each sequence, how many special tokens stand in front, and the recipe in words with its numbers."""

    ids: list[Tensor]
    prefix: int
    described: str


class Samples(Protocol):
    """A recipe for inputs: frozen and hashable, so that detectors can share it."""

    def make(self, source: Source) -> Sequences: ...


@dataclass(frozen=True)
class RepeatedRandom:
    """BOS, then ``span`` random tokens, twice. Tokens are drawn without replacement where the vocabulary allows it.

    The input of the induction score of Olsson et al. (arXiv 2209.11895). A model with a shorter context gets a shorter span.
    """

    span: int = 50

    def make(self, source: Source) -> Sequences:
        span = min(self.span, (source.longest - len(source.bos)) // 2)
        if span < 2:
            raise InputError(f"repeated random tokens need at least 5 positions, there are {source.longest}")
        sequences = []
        for number in range(source.count):
            # One generator a sequence, so that the n-th sequence does not depend on how many are drawn.
            generator = torch.Generator().manual_seed(source.seed * 1_000_003 + number)
            size = source.ordinary.numel()
            if size >= span:
                drawn = torch.randperm(size, generator=generator)[:span]
            else:
                drawn = torch.randint(size, (span,), generator=generator)
            tokens = source.ordinary[drawn]
            sequences.append(torch.cat([torch.tensor(source.bos, dtype=torch.int64), tokens, tokens]))
        described = f"{source.count} sequences of {span} random tokens, twice (seed {source.seed})"
        return Sequences(sequences, len(source.bos), described)


@dataclass(frozen=True)
class Windows:
    """The text in consecutive windows of ``length`` positions, special tokens included (None: the longest allowed).

    A last window shorter than half of the others is left out; with a given length every window has just that length.
    Without a text, random tokens take its place.
    """

    length: int | None = None

    def make(self, source: Source) -> Sequences:
        length = source.longest if self.length is None else self.length
        if length > source.longest:
            raise InputError(f"windows of {length} positions are longer than the {source.longest} that are allowed")
        if source.text is None:
            return self._random(source, min(length, RANDOM_WINDOW))
        size = length - len(source.before) - len(source.after)
        needed = size if self.length is not None else 2
        if source.text.numel() < needed:
            raise InputError(
                f"the text has {source.text.numel()} tokens, fewer than the {needed} that a window of {length} positions "
                "needs; give a longer text"
            )
        pieces = [p for p in source.text.split(size) if p.numel() >= (size if self.length is not None else size / 2)]
        if not pieces:
            pieces = [source.text]
        before, after = (torch.tensor(special, dtype=torch.int64) for special in (source.before, source.after))
        ids = [torch.cat([before, piece, after]) for piece in pieces]
        described = f"{len(ids)} windows of the text, {ids[0].numel()} positions each"
        if ids[-1].numel() < ids[0].numel():
            described += f", the last {ids[-1].numel()}"
        return Sequences(ids, len(source.before), described)

    @staticmethod
    def _random(source: Source, length: int) -> Sequences:
        size = length - len(source.bos)
        generator = torch.Generator().manual_seed(source.seed)
        drawn = source.ordinary[torch.randint(source.ordinary.numel(), (source.count, size), generator=generator)]
        bos = torch.tensor(source.bos, dtype=torch.int64).expand(source.count, -1)
        described = (
            f"{source.count} windows of {length} positions of random tokens (seed {source.seed}), for want of a text"
        )
        return Sequences(list(torch.cat([bos, drawn], dim=1)), len(source.bos), described)
