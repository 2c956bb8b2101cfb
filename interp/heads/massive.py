"""Massive activations: single numbers of the residual stream that are far larger than all others.

    x is massive where |x| > 100 and |x| >= 1000 times the median of |x| over the hidden state [T, d] of its sequence

of Sun et al., Massive Activations in Large Language Models (arXiv 2402.17762), who say "at least or around 1,000 times". The
stream is looked at where it enters each block and where it leaves the last one, block by block while the model runs: no
hidden state outlives its block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.blocks import block_paths

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class Activation:
    """One number of the residual stream.

    place     0, 1, ...: the stream as it enters that block; the number of blocks: as it leaves the last one. Of a hybrid
              blocks that attend are counted, and no others
    rank      1 for the largest of its sequence at this place, 2 for the next
    sample    number of the sequence; position counts from its first token that is no padding
    median    of |x| over the sequence at this place; of an even number of them the lower of the two in the middle
    ratio     |value| / median
    """

    place: int
    rank: int
    sample: int
    position: int
    token: str
    dimension: int
    value: float
    median: float
    ratio: float
    is_massive: bool


@dataclass
class Place:
    """What was found at one place over all sequences: the median of each, how many are massive in it, and of each rank the
    activation that is the largest."""

    medians: list[float] = field(default_factory=list)
    massive: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    largest: dict[int, Activation] = field(default_factory=dict)


@dataclass
class Stream:
    """Watches the residual stream of a model, run after run.

    size, ratio  what a massive activation exceeds, and how many medians it has at least
    top          how many ranks to keep at each place
    """

    size: float
    ratio: float
    top: int
    places: list[Place] = field(default_factory=list)
    sequences: int = 0

    @contextmanager
    def watching(self, model: HookedModel, keep: Tensor) -> Iterator[None]:
        """While it lasts, one run over sequences with keep [B, T] is looked at, in this thread. ``named`` must follow.

        Raises:
            InputError: the model has no blocks that can be told, or hands other things from block to block.
        """
        here = threading.get_ident()
        at = 0

        def seen(x: Any) -> None:
            nonlocal at
            if not isinstance(x, Tensor) or x.shape[:-1] != keep.shape:
                raise InputError(
                    f"massive activations: expected a hidden state [B, T, d] between the blocks of {model.name}; "
                    "leave them out with massive=False"
                )
            self._look(at, x.detach(), keep)

        def entering(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            if threading.get_ident() == here:
                seen(given[0] if given else named.get("hidden_states"))

        def leaving(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            nonlocal at
            if threading.get_ident() == here:
                at += 1
                if at == total:
                    seen(output[0] if isinstance(output, tuple | list) else output)

        blocks, total = _blocks(model)
        handles = [block.register_forward_pre_hook(entering, with_kwargs=True) for block in blocks]
        handles += [block.register_forward_hook(leaving) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def named(self, tokens: Sequence[Sequence[str]]) -> None:
        """The tokens of the sequences of the run that was watched last."""
        first = self.sequences
        for place in self.places:
            for rank, found in place.largest.items():
                if found.sample >= first:
                    place.largest[rank] = replace(found, token=tokens[found.sample - first][found.position])
        self.sequences += len(tokens)

    def _look(self, number: int, x: Tensor, keep: Tensor) -> None:
        if number == len(self.places):
            self.places.append(Place())
        place = self.places[number]
        wide = torch.promote_types(x.dtype, torch.float32)
        for row, (state, kept) in enumerate(zip(x, keep, strict=True)):
            values = state[kept].to(wide).flatten()
            sizes, width = values.abs(), x.shape[-1]
            median = float(sizes.median())
            massive = (sizes > self.size) & (sizes >= self.ratio * median)
            place.medians.append(median)
            place.massive.append(int(massive.sum()))
            for rank, index in enumerate(sizes.topk(min(self.top, sizes.numel())).indices.tolist(), start=1):
                size = float(sizes[index])
                ratio = size / median if median > 0 else float("inf") if size > 0 else float("nan")
                if rank == 1:
                    place.ratios.append(ratio)
                if rank in place.largest and abs(place.largest[rank].value) >= size:
                    continue
                position, dimension = divmod(index, width)
                rest = float(values[index]), median, ratio, bool(massive[index])
                place.largest[rank] = Activation(number, rank, self.sequences + row, position, "", dimension, *rest)


def _blocks(model: HookedModel) -> tuple[list[nn.Module], int]:
    """The blocks that hold the attention layers of the language model, and how many of them run, one after the other.

    Raises:
        InputError: an attention module stands in none.
    """
    inner = model.host.inner
    paths = block_paths(inner, model.host.layers)
    blocks: dict[str, int] = {}
    for served in model.host.layers.values():
        if not isinstance(served[0].key, int):
            continue
        path = paths[served[0].key]
        if path is None:
            raise InputError(
                f"massive activations: the blocks of {model.name} cannot be told from its components; leave them out with "
                "massive=False"
            )
        blocks[path] = max(blocks.get(path, 0), len(served))
    return [inner.get_submodule(path) for path in blocks], sum(blocks.values())
