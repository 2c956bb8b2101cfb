"""Which heads to ablate for comparison: as many others, of the same layers as far as these have others."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import InputError
from interp.models.heads import Head, HeadCounts
from interp.models.layers import LayerKey

LISTED = 5000
"""Up to so many sets are listed, so that they are drawn without replacement, or all taken; beyond, they are drawn one by one."""
TRIES = 50
"""Draws for each set that is wanted, before it is given up to find one that is new."""


@dataclass(frozen=True)
class Controls:
    """Distinct sets of heads, none of them found.

    sets      each in the order of the model
    is_all    there are no others by this rule
    borrowed  layer -> how many of its found heads have no counterpart in it, so that a set takes one from the nearest layers
    """

    sets: tuple[tuple[Head, ...], ...]
    is_all: bool
    borrowed: Mapping[LayerKey, int]


def control_sets(
    heads: Sequence[Head],
    found: Sequence[Head],
    counts: HeadCounts,
    draws: int,
    rng: np.random.Generator,
    *,
    strict: bool = False,
) -> Controls:
    """Up to ``draws`` sets of as many heads as ``heads``, in the same layers, without any of ``found``.

    Of a layer with n of ``heads`` and f heads that are not ``found``, a set has min(n, f) of the f, each choice alike. What is
    missing, n - f, it has from the nearest layers of the same stack: those one layer away (before and after alike), then two, ...

    Args:
        heads: what is ablated.
        found: all that no set may hold; ``heads`` are some of them.
        strict: refuse to take heads of other layers.

    Raises:
        InputError: a layer has too few others and ``strict`` is set; or so has its whole stack.
    """
    others = _others(counts, found)
    wanted = Counter(layer for layer, _ in heads)
    borrowed = {layer: n - len(others[layer]) for layer, n in wanted.items() if n > len(others[layer])}
    _check(heads, others, wanted, borrowed, strict)
    listed = list(itertools.islice(_distinct(_all(others, wanted, counts)), LISTED + 1))
    if len(listed) > LISTED:
        drawn = (_one(others, wanted, counts, rng) for _ in range(TRIES * draws))
        sets = list(itertools.islice(_distinct(drawn), draws))
    elif len(listed) > draws:
        sets = [listed[i] for i in np.sort(rng.choice(len(listed), draws, replace=False))]
    else:
        sets = listed
    order = {layer: place for place, layer in enumerate(counts)}
    named = (tuple(sorted(each, key=lambda head: (order[head[0]], head[1]))) for each in sets)
    return Controls(tuple(named), len(listed) <= draws, borrowed)


def _others(counts: HeadCounts, found: Sequence[Head]) -> dict[LayerKey, list[Head]]:
    taken, others = set(found), {}
    for layer, count in counts.items():
        if count is None:
            raise InputError(
                f"controls: layer {layer!r} does not say how many heads it has, so that none can be drawn from it"
            )
        others[layer] = [(layer, head) for head in range(count) if (layer, head) not in taken]
    return others


def _check(
    heads: Sequence[Head],
    others: Mapping[LayerKey, list[Head]],
    wanted: Mapping[LayerKey, int],
    borrowed: Mapping[LayerKey, int],
    strict: bool,
) -> None:
    if borrowed and strict:
        layer = next(iter(borrowed))
        free = len(others[layer])
        raise InputError(
            f"controls: layer {layer!r} has {free} heads neither found nor excluded, {wanted[layer]} are needed; ablate "
            f"at most {free} of its heads (sizes=), or allow heads of the nearest layers (strict=False)"
        )
    for stack in {_stack(layer) for layer in wanted}:
        free = sum(len(each) for layer, each in others.items() if _stack(layer) == stack)
        need = sum(n for layer, n in wanted.items() if _stack(layer) == stack)
        if free < need:
            where = f"the stack {stack!r}" if stack else "the model"
            raise InputError(
                f"controls: {need} of the {len(heads)} heads need as many others to be compared with, and {where} has {free} "
                "that were neither found nor excluded; give fewer heads"
            )


def _stack(layer: LayerKey) -> str:
    return str(layer).rpartition(".")[0]


def _nearest(layer: LayerKey, counts: HeadCounts) -> list[list[LayerKey]]:
    """The other layers of its stack by distance in the stack's order: those one away, those two away, ..."""
    stack = [each for each in counts if _stack(each) == _stack(layer)]
    at = stack.index(layer)
    around = [[stack[i] for i in (at - d, at + d) if 0 <= i < len(stack)] for d in range(1, len(stack))]
    return [each for each in around if each]


def _all(
    others: Mapping[LayerKey, list[Head]], wanted: Mapping[LayerKey, int], counts: HeadCounts
) -> Iterator[frozenset[Head]]:
    own = [(others[layer], min(n, len(others[layer]))) for layer, n in wanted.items()]
    missing = [(layer, n - len(others[layer])) for layer, n in wanted.items() if n > len(others[layer])]
    for chosen in _picked(frozenset(), own):
        yield from _lent(chosen, missing, others, counts)


def _picked(chosen: frozenset[Head], pools: Sequence[tuple[list[Head], int]]) -> Iterator[frozenset[Head]]:
    """``chosen`` and so many of each pool, in every way, one after the other: there may be more than can be held."""
    if not pools:
        yield chosen
        return
    (pool, take), *rest = pools
    for more in itertools.combinations(pool, take):
        yield from _picked(chosen | frozenset(more), rest)


def _lent(
    chosen: frozenset[Head],
    missing: Sequence[tuple[LayerKey, int]],
    others: Mapping[LayerKey, list[Head]],
    counts: HeadCounts,
) -> Iterator[frozenset[Head]]:
    """``chosen`` and what is missing, in every way."""
    if not missing:
        yield chosen
        return
    (layer, lacking), *rest = missing
    certain, pool, take = _pool(chosen, layer, lacking, others, counts)
    for more in itertools.combinations(pool, take):
        yield from _lent(chosen | certain | frozenset(more), rest, others, counts)


def _one(
    others: Mapping[LayerKey, list[Head]], wanted: Mapping[LayerKey, int], counts: HeadCounts, rng: np.random.Generator
) -> frozenset[Head]:
    chosen: frozenset[Head] = frozenset()
    for layer, n in wanted.items():
        chosen |= _some(others[layer], min(n, len(others[layer])), rng)
    for layer, n in wanted.items():
        if n > len(others[layer]):
            certain, pool, take = _pool(chosen, layer, n - len(others[layer]), others, counts)
            chosen |= certain | _some(pool, take, rng)
    return chosen


def _pool(
    chosen: frozenset[Head],
    layer: LayerKey,
    lacking: int,
    others: Mapping[LayerKey, list[Head]],
    counts: HeadCounts,
) -> tuple[frozenset[Head], list[Head], int]:
    """Of the nearest layers: heads that are all needed, and the farthest ones that are needed with how many of them."""
    certain: frozenset[Head] = frozenset()
    for ring in _nearest(layer, counts):
        pool = [head for each in ring for head in others[each] if head not in chosen]
        if lacking <= len(pool):
            return certain, pool, lacking
        certain, lacking = certain | frozenset(pool), lacking - len(pool)
    raise AssertionError("there are fewer heads than were counted")


def _some(pool: Sequence[Head], count: int, rng: np.random.Generator) -> frozenset[Head]:
    return frozenset(pool[i] for i in rng.choice(len(pool), count, replace=False)) if count else frozenset()


def _distinct(sets: Iterator[frozenset[Head]]) -> Iterator[frozenset[Head]]:
    seen: set[frozenset[Head]] = set()
    for each in sets:
        if each not in seen:
            seen.add(each)
            yield each
