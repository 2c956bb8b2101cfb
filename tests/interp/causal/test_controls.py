"""Control sets against the rule, by going through all sets of heads."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from interp.causal.controls import LISTED, control_sets
from interp.errors import InputError
from interp.models.heads import Head, HeadCounts

DEMO: HeadCounts = dict.fromkeys(range(4), 6)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_rule(heads: list[Head], found: list[Head], counts: HeadCounts, rings: list[list[int]]) -> set[frozenset[Head]]:
    """All sets that have each layer's share, as far as it has others, and the rest from the rings of layers in their order."""
    others = [(layer, head) for layer, n in counts.items() for head in range(n or 0) if (layer, head) not in found]
    free, wanted = Counter(layer for layer, _ in others), Counter(layer for layer, _ in heads)
    sets = set()
    for chosen in itertools.combinations(others, len(heads)):
        has = Counter(layer for layer, _ in chosen)
        if any(has[layer] < min(n, free[layer]) for layer, n in wanted.items()):
            continue
        lacking = len(heads) - sum(min(n, free[layer]) for layer, n in wanted.items())
        for ring in rings:
            share = min(lacking, sum(free[layer] - min(wanted[layer], free[layer]) for layer in ring))
            if sum(has[layer] - min(wanted[layer], free[layer]) for layer in ring) != share:
                break
            lacking -= share
        else:
            if sum(has[layer] for layer in {*wanted, *itertools.chain(*rings)}) == len(heads):
                sets.add(frozenset(chosen))
    return sets


CASES = [
    ([(2, 5)], [(2, 5), (2, 3), (2, 2), (2, 4)], [], 2),
    ([(2, 5), (2, 3)], [(2, 5), (2, 3), (2, 2), (2, 4)], [], 1),
    ([(2, 5), (2, 3), (2, 2)], [(2, 5), (2, 3), (2, 2), (2, 4)], [[1, 3]], 12),
    ([(2, 5), (2, 3), (2, 2), (2, 4)], [(2, 5), (2, 3), (2, 2), (2, 4)], [[1, 3]], 66),
    ([(0, 1), (3, 0)], [(0, 1), (3, 0)], [], 25),
    ([(0, h) for h in range(5)], [(0, h) for h in range(5)], [[1]], 15),
    ([(1, 0), (2, 0), (2, 1), (2, 2), (2, 3)], [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3)], [[1, 3]], None),
]


@pytest.mark.parametrize(("heads", "found", "rings", "count"), CASES)
def test_all_sets_of_the_rule_and_no_others_are_drawn(heads: list, found: list, rings: list, count: int | None):
    drawn = control_sets(heads, found, DEMO, 10_000, rng())
    expected = by_rule(heads, found, DEMO, rings)
    assert {frozenset(each) for each in drawn.sets} == expected
    assert len(drawn.sets) == len(expected)
    assert count is None or len(expected) == count
    assert drawn.is_all
    assert bool(drawn.borrowed) == bool(rings)


def test_a_layer_without_enough_neighbours_takes_from_the_next_but_one():
    counts: HeadCounts = {0: 2, 1: 2, 2: 2, 3: 2}
    heads: list[Head] = [(0, 0), (0, 1), (1, 0), (1, 1)]
    drawn = control_sets(heads, heads, counts, 100, rng())
    assert {frozenset(each) for each in drawn.sets} == {frozenset({(2, 0), (2, 1), (3, 0), (3, 1)})}
    assert drawn.borrowed == {0: 2, 1: 2}


def test_stacks_do_not_lend_to_one_another():
    counts: HeadCounts = {"encoder.0": 2, "decoder.0": 1, "cross.0": 4, "decoder.1": 2}
    drawn = control_sets([("decoder.0", 0)], [("decoder.0", 0)], counts, 100, rng())
    assert set(drawn.sets) == {(("decoder.1", 0),), (("decoder.1", 1),)}
    with pytest.raises(
        InputError, match=r"the stack 'encoder' has 0 that were neither found nor excluded; give fewer heads"
    ):
        control_sets([("encoder.0", 0)], [("encoder.0", 0), ("encoder.0", 1)], counts, 1, rng())


def test_draws_are_distinct_reproducible_and_not_always_the_same():
    heads: list[Head] = [(2, 5), (2, 3), (2, 2), (2, 4)]
    first = control_sets(heads, heads, DEMO, 20, rng(1))
    assert len(set(first.sets)) == 20
    assert not first.is_all
    assert first == control_sets(heads, heads, DEMO, 20, rng(1))
    assert first != control_sets(heads, heads, DEMO, 20, rng(2))


def test_where_there_are_too_many_sets_to_list_they_are_drawn_by_the_same_rule():
    counts: HeadCounts = dict.fromkeys(range(80), 128)
    heads: list[Head] = [(layer, head) for layer in (3, 40) for head in range(100)]
    drawn = control_sets(heads, heads, counts, 30, rng())
    assert len(set(drawn.sets)) == 30
    assert not drawn.is_all
    for each in drawn.sets:
        layers = Counter(layer for layer, _ in each)
        assert (layers[3], layers[40]) == (28, 28)
        assert layers[2] + layers[4] == layers[39] + layers[41] == 72
        assert not set(each) & set(heads)
        assert list(each) == sorted(each)


def test_each_head_of_a_layer_is_drawn_alike():
    """Of 5,001 draws of 3 out of 40 heads each head comes 375 times, give or take five standard deviations."""
    drawn = control_sets([(0, 40), (0, 41), (0, 42)], [(0, 40), (0, 41), (0, 42)], {0: 43}, LISTED, rng())
    count = Counter(head for each in drawn.sets for head in each)
    assert len(drawn.sets) == LISTED
    expected = LISTED * 3 / 40
    assert max(abs(count[0, head] - expected) for head in range(40)) < 5 * (expected * (1 - 3 / 40)) ** 0.5


def test_strict_refuses_other_layers_and_says_what_is_possible():
    heads: list[Head] = [(2, 5), (2, 3), (2, 2), (2, 4)]
    with pytest.raises(
        InputError,
        match=r"layer 2 has 2 heads neither found nor excluded, 4 are needed; ablate at most 2 of its heads",
    ):
        control_sets(heads, heads, DEMO, 20, rng(), strict=True)
    assert len(control_sets(heads[:2], heads, DEMO, 20, rng(), strict=True).sets) == 1


def test_a_model_without_enough_others_is_refused():
    heads: list[Head] = [(layer, head) for layer in (0, 1) for head in range(4)]
    with pytest.raises(
        InputError, match="8 of the 8 heads need as many others to be compared with, and the model has 4"
    ):
        control_sets(heads, heads, {0: 6, 1: 6}, 20, rng())
    with pytest.raises(InputError, match="layer 1 does not say how many heads it has"):
        control_sets([(0, 0)], [(0, 0)], {0: 6, 1: None}, 20, rng())
