"""Parts: however a corpus is divided, they put the same dossiers together; what is kept of it is what the definition says."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.dossiers import DossierSettings, Part, Passage, measure_part, merge, passages_of
from interp.dossiers.moments import Moments
from interp.dossiers.sampling import Kept, priority
from interp.dossiers.tokens import TokenSums
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, token_ids

COUNT, STRONGEST, SAMPLES, POOL = 40, 3, 2, 20


@cache
def model() -> HookedModel:
    return interp.load(ARCHITECTURES["llama"].build().double())


@cache
def asked() -> DossierSettings:
    given = DossierSettings(length=16, by="distance", strongest=STRONGEST, samples=SAMPLES, pool=POOL, seed=3)
    return given.resolved(model())


@cache
def corpus() -> tuple[Passage, ...]:
    """Forty of three lengths; the last four are there a second time."""
    texts = [token_ids((6 + 5 * (n % 3),), seed=n).tolist() for n in range(COUNT - 4)]
    return tuple(passages_of(model(), texts + texts[:4], 16))


@cache
def single() -> tuple[Part, ...]:
    """A part for each passage."""
    return tuple(measure_part(model(), [passage], asked()) for passage in corpus())


@cache
def whole() -> Part:
    return measure_part(model(), corpus(), asked())


def assert_same(found: Part, expected: Part) -> None:
    """Counts and kept passages exactly. Sums of n float64 in another order: n ulp of the sum of magnitudes, and ten more where a
    product of matrices went in other blocks."""
    bound = (COUNT + 10) * np.finfo(np.float64).eps
    assert (found.passages, found.tokens) == (expected.passages, expected.tokens)
    assert (found.histograms == expected.histograms).all()
    assert [(p.text, p.start, p.digest) for p in found.kept.passages] == [
        (p.text, p.start, p.digest) for p in expected.kept.passages
    ]
    for name in ("scores", "chance", "by_distance", "by_distance_chance"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours.count == theirs.count).all()
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=100 * bound, atol=bound, err_msg=name)
        np.testing.assert_allclose(ours.squares, theirs.squares, rtol=1000 * bound, atol=1000 * bound, err_msg=name)
    assert (found.by_token.ids == expected.by_token.ids).all()
    assert (found.by_token.counts == expected.by_token.counts).all()
    np.testing.assert_allclose(found.by_token.sums, expected.by_token.sums, rtol=100 * bound, atol=bound)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_any_division_into_parts_in_any_order_gives_the_same(seed: int) -> None:
    generator = random.Random(seed)
    parts = list(single())
    generator.shuffle(parts)
    while len(parts) > 1:
        take = generator.randint(2, max(2, len(parts) // 2))
        at = generator.randrange(max(1, len(parts) - take + 1))
        parts[at : at + take] = [merge(parts[at : at + take])]
    assert_same(parts[0], whole())


def test_parts_measured_together_are_those_measured_apart() -> None:
    by_eight = [measure_part(model(), corpus()[n : n + 8], asked()) for n in range(0, COUNT, 8)]
    assert_same(merge(by_eight), whole())


def test_the_same_part_is_measured_and_merged_to_the_last_bit() -> None:
    halves = [corpus()[:20], corpus()[20:]]
    first, second = (merge([measure_part(model(), half, asked()) for half in halves]).to_tables() for _ in range(2))
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, second[name], check_exact=True)


def test_tables_give_the_part_back_through_parquet(tmp_path) -> None:
    for name, table in whole().to_tables().items():
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
    read = {path.stem: pd.read_parquet(path) for path in tmp_path.glob("*.parquet")}
    again = Part.of_tables(read)
    for name, table in whole().to_tables().items():
        pd.testing.assert_frame_equal(again.to_tables()[name], table, check_exact=True)
    assert again.settings == asked()


def test_a_missing_table_is_named() -> None:
    tables = whole().to_tables()
    del tables["kept"]
    with pytest.raises(InputError, match="a part of head dossiers lacks the tables kept"):
        Part.of_tables(tables)


def test_parts_of_different_settings_are_not_merged() -> None:
    other = measure_part(model(), corpus()[:2], replace(asked(), seed=4))
    with pytest.raises(
        InputError, match=r"parts: they do not belong together, settings is .*seed=3.* in one and .*seed=4"
    ):
        merge([whole(), other])


def test_the_pool_is_the_passages_of_smallest_priority_each_once() -> None:
    first = {}
    for passage in corpus():
        first.setdefault(passage.digest, (passage.text, passage.start))
    assert len(first) == COUNT - 4
    expected = sorted(first, key=lambda digest: priority(3, digest))[:POOL]
    assert [passage.digest for passage in whole().kept.passages[:POOL]] == expected
    assert all(first[each.digest] == (each.text, each.start) for each in whole().kept.passages)


def test_the_strongest_passages_are_those_of_the_largest_value_over_the_whole_corpus() -> None:
    values = {p.digest: part.scores.mean[part.by] for p, part in zip(corpus(), single(), strict=True)}
    kept = whole().kept
    places = kept.strongest(STRONGEST, whole().by)
    for layer in range(LAYERS):
        for head in range(HEADS):
            ranked = sorted(values, key=lambda digest: -values[digest][layer, head])
            found = [kept.passages[place].digest for place in places[:, layer, head]]
            assert found == ranked[:STRONGEST]


def test_samples_stand_in_their_fifth_of_the_pool() -> None:
    kept, by = whole().kept, whole().by
    cuts = kept.cuts(POOL, by)
    for layer in range(LAYERS):
        for head in range(HEADS):
            values = np.sort(kept.values[:POOL, by, layer, head])
            fifths = kept.fifths(POOL, SAMPLES, by, layer, head)
            for n, places in enumerate(fifths):
                among = values[4 * n : 4 * n + 4]  # twenty in five
                assert len(places) == SAMPLES
                assert np.isin(kept.values[places, by, layer, head], among).all()
            np.testing.assert_array_equal(cuts[:, layer, head], values[[3, 7, 11, 15]])


def test_of_each_fifth_the_smallest_priorities_are_taken() -> None:
    kept = whole().kept
    order = np.argsort(kept.values[:POOL, whole().by, 1, 2], kind="stable")
    for n, places in enumerate(kept.fifths(POOL, SAMPLES, whole().by, 1, 2)):
        assert sorted(places) == sorted(order[4 * n : 4 * n + 4])[:SAMPLES]


def test_another_seed_draws_other_samples_and_leaves_the_rest() -> None:
    other = measure_part(model(), corpus(), replace(asked(), seed=4))
    pools = [{passage.digest for passage in part.kept.passages[:POOL]} for part in (whole(), other)]
    assert pools[0] != pools[1]
    assert (other.histograms == whole().histograms).all()
    assert (other.scores.mean == whole().scores.mean).all()


def test_priorities_are_spread_evenly() -> None:
    """Eight equal classes of 4,000 hashes: chi squared of seven degrees is above 24.3 once in a thousand."""
    drawn = [priority(0, f"{n:032x}") for n in range(4000)]
    counts = np.bincount([each >> 61 for each in drawn], minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


def test_passages_without_a_value_are_in_no_fifth_and_come_last() -> None:
    passages = [Passage(n, 0, np.array([n, n + 1], dtype=np.int32)) for n in range(12)]
    values = np.arange(12.0)[:, None, None, None].copy()
    values[[2, 5]] = np.nan
    kept = Kept.of(passages, values, seed=0)
    drawn = np.concatenate(kept.fifths(12, 12, 0, 0, 0))
    assert sorted(kept.values[drawn, 0, 0, 0]) == [n for n in range(12) if n not in (2, 5)]
    ranked = kept.values[kept.strongest(12, 0)[:, 0, 0], 0, 0, 0]
    assert ranked[:10].tolist() == [11, 10, 9, 8, 7, 6, 4, 3, 1, 0]
    assert np.isnan(ranked[10:]).all()


@given(
    st.lists(
        st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(float("nan"))), min_size=1, max_size=6), min_size=1, max_size=5
    )
)
@settings(max_examples=60, deadline=None)
def test_merged_moments_are_those_of_all_values(groups: list[list[float]]) -> None:
    merged = Moments.merged([Moments.of(np.array(group)) for group in groups])
    every = np.array([value for group in groups for value in group])
    known = every[~np.isnan(every)]
    assert merged.count == known.size
    if known.size:
        np.testing.assert_allclose(merged.means, known.mean(), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(merged.squares, ((known - known.mean()) ** 2).sum(), rtol=1e-9, atol=1e-9)
    else:
        assert np.isnan(merged.means)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_dropped_tokens_are_undercounted_by_no_more_than_is_said(seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts, exact = [], np.zeros((2, 60, 2, 3))
    for _ in range(6):
        ids = np.sort(generator.choice(60, size=25, replace=False))
        part = TokenSums.zeros(ids, 2, 3)
        part.sums[:] = generator.exponential(size=part.sums.shape) * generator.choice([0.1, 1, 20], size=(1, 25, 1, 1))
        exact[:, ids] += part.sums
        parts.append(part)
    merged = TokenSums.merged(parts, rows=16)
    assert len(merged.ids) == 16
    found = np.zeros_like(exact)
    found[:, merged.ids] = merged.sums
    assert (found <= exact + 1e-9).all()
    assert (exact - found <= merged.error[:, None] + 1e-9).all()
    assert (merged.error > 0).all()


def test_nothing_is_dropped_where_there_is_room() -> None:
    assert (whole().by_token.error == 0).all()
    assert whole().by_token.ids.tolist() == sorted({i for passage in corpus() for i in passage.ids.tolist()})


def test_what_is_dropped_is_the_smallest_shares_and_stands_in_the_error() -> None:
    small = measure_part(model(), corpus(), replace(asked(), token_rows=16))
    assert len(small.by_token.ids) == 16
    shares = whole().by_token.sums / whole().by_token.sums.sum(axis=1, keepdims=True)
    largest = shares.max(axis=(0, 2, 3))
    at = np.nonzero(~np.isin(whole().by_token.ids, small.by_token.ids))[0]
    assert largest[at].max() <= np.delete(largest, at).min()
    np.testing.assert_array_equal(small.by_token.error, whole().by_token.sums[:, at].max(axis=1))


def test_a_passage_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match=r"passages: one has 16 positions, settings.length is 8"):
        measure_part(model(), corpus(), replace(asked(), length=8))


def test_no_map_is_ever_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the statistics of a layer none has a query and a key axis."""
    from interp.dossiers import measure

    seen: list[tuple[int, ...]] = []
    values_of = measure.values_of

    def watched(metrics, stats):
        seen.extend(tuple(value.shape) for value in stats.values())
        return values_of(metrics, stats)

    monkeypatch.setattr(measure, "values_of", watched)
    ids = np.arange(3, 53, dtype=np.int32)
    measure_part(model(), [Passage(0, 0, ids)], DossierSettings(length=64).resolved(model()))
    assert seen
    assert not [shape for shape in seen if shape.count(50) > 1]


def test_models_of_several_stacks_are_refused() -> None:
    from tests.interp.tiny import tiny_t5

    with pytest.raises(InputError, match="head dossiers"):
        interp.head_dossiers(interp.load(tiny_t5()), [[5, 6, 7]], progress=False)
    assert torch.is_grad_enabled()
