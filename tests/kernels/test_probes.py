"""What TopK, DistanceHistogram and Pooled give where the answer is known without an oracle: ties, ends of rows, long rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.backends import tiled
from interp_kernels.backends.tiled.largest import largest
from tests.kernels.cases import BACKENDS, Case
from tests.kernels.oracle import Sight


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def causal(scores: Tensor) -> Case:
    """One head of T queries, each of which gives key j the score ``scores[j]``, exactly."""
    k = scores[None, None, :, None]
    return Case(torch.ones_like(k), k, k, Mask.causal(), Sight(0, causal=True))


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_scores_are_listed_from_the_lowest_key_on(backend: str, k: int) -> None:
    stats = causal(torch.zeros(300)).attend(backend, (ik.TopK(k),)).stats
    for i in (0, 1, 2, 128, 299):
        seen = min(k, i + 1)
        assert stats["top_k_index"][0, 0, i].tolist() == list(range(seen)) + [-1] * (k - seen)
        expected = torch.tensor([1 / (i + 1)] * seen + [0.0] * (k - seen))
        torch.testing.assert_close(stats["top_k"][0, 0, i], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_within_and_across_key_tiles_go_to_the_lower_key(backend: str) -> None:
    scores = torch.zeros(300)
    scores[[7, 60, 190, 290]] = 3.0
    scores[[100, 270]] = 4.0
    index = causal(scores).attend(backend, (ik.TopK(5),)).stats["top_k_index"][0, 0]
    assert index[299].tolist() == [100, 270, 7, 60, 190]
    assert index[250].tolist() == [100, 7, 60, 190, 0]
    assert index[99].tolist() == [7, 60, 0, 1, 2]
    assert index[6].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_whose_probability_vanishes_are_named_in_the_order_of_their_scores(backend: str) -> None:
    # Less their maximum, 0 and 2^-14 are the same float32 here.
    scores = torch.tensor([0.0, 2.0**14, 2.0**-14, 1.0])
    stats = causal(scores).attend(backend, (ik.TopK(5),)).stats
    assert stats["top_k"][0, 0, 3].tolist() == [1, 0, 0, 0, 0]
    assert stats["top_k_index"][0, 0].tolist() == [
        [0, -1, -1, -1, -1],
        [1, 0, -1, -1, -1],
        [1, 2, 0, -1, -1],
        [1, 3, 2, 0, -1],
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sink_that_takes_all_mass_leaves_the_keys_their_order(backend: str) -> None:
    case = causal(torch.arange(200.0))
    case = Case(case.q, case.k, case.v, case.mask, case.sight, sinks=torch.tensor([1e4]))
    stats = case.attend(backend, (ik.TopK(3),)).stats
    assert (stats["top_k"] == 0).all()
    assert stats["top_k_index"][0, 0, 150].tolist() == [150, 149, 148]


@pytest.mark.parametrize("backend", BACKENDS)
def test_hidden_keys_are_never_named(backend: str) -> None:
    keep = torch.zeros(1, 200, dtype=torch.bool)
    keep[0, [20, 77, 180]] = True
    x = normal(1, 2, 200, 8)
    case = Case(x, x, x, Mask.from_padding(keep), Sight(0, keeps=(keep.numpy(),)))
    stats = case.attend(backend, (ik.TopK(4),)).stats
    assert (stats["top_k_index"].sort(dim=-1).values == torch.tensor([-1, 20, 77, 180])).all()
    torch.testing.assert_close(stats["top_k"].sum(-1), torch.ones(1, 2, 200))
    assert (stats["top_k"][..., 3] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_are_minus_one_at_queries_that_do_not_count(backend: str) -> None:
    queries = torch.arange(200) % 3 == 0
    probes = (ik.Peak(queries=queries), ik.TopK(2, queries=queries), ik.Peak(name="all"))
    stats = causal(normal(200)).attend(backend, probes).stats
    assert (stats["peak_index"][..., ~queries] == -1).all()
    assert (stats["top_k_index"][..., ~queries, :] == -1).all()
    assert stats["peak"].isnan()[0, 0].tolist() == (~queries).tolist()
    assert stats["top_k"].isnan().all(-1)[0, 0].tolist() == (~queries).tolist()
    assert torch.equal(stats["peak_index"][..., queries], stats["all_index"][..., queries])
    assert torch.equal(stats["top_k_index"][..., queries, 0], stats["all_index"][..., queries])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_average_of_the_largest_has_no_index_and_counts_missing_places_as_zero(backend: str) -> None:
    probes = (ik.TopK(3, reduce="mean"), ik.Peak(name="peak", reduce="mean"))
    stats = causal(torch.zeros(4)).attend(backend, probes).stats
    assert list(stats) == ["top_k", "peak"]
    expected = [(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 / 2 + 1 / 3 + 1 / 4) / 4, (1 / 3 + 1 / 4) / 4]
    torch.testing.assert_close(stats["top_k"][0, 0], torch.tensor(expected))


@pytest.mark.parametrize("k", [1, 2, 5, 30, 64, 1000])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 997])
@pytest.mark.parametrize("levels", [1, 2, 10, 10_000])
def test_the_largest_of_a_row_are_those_of_a_stable_sort(levels: int, n: int, k: int) -> None:
    x = torch.randint(levels, (5, 2, n), generator=torch.Generator().manual_seed(levels * n + k)).float()
    x[0, 0, n // 2] = math.nan
    values, places = largest(x, k)
    expected = x.sort(dim=-1, descending=True, stable=True)
    torch.testing.assert_close(values, expected.values[..., :k], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(places, expected.indices[..., :k])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bins_are_closed_on_the_left_and_open_on_the_right(backend: str) -> None:
    stats = causal(torch.zeros(10)).attend(backend, (ik.DistanceHistogram((1, 3, 4, 9)),)).stats
    # Query 9 sees distances 0 to 9, a tenth each: 0 and 9 lie in no bin.
    torch.testing.assert_close(stats["distance_histogram"][0, 0, 9], torch.tensor([0.2, 0.1, 0.5]))
    torch.testing.assert_close(stats["distance_histogram"][0, 0, 2], torch.tensor([2 / 3, 0.0, 0.0]))
    assert (stats["distance_histogram"][0, 0, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_ahead_count_by_their_distance_too(backend: str) -> None:
    x = torch.zeros(1, 1, 200, 1)
    case = Case(x, x, x, Mask.full(), Sight(0))
    histogram = case.attend(backend, (ik.DistanceHistogram((0, 1, 50, math.inf)),)).stats["distance_histogram"]
    distance = (torch.arange(200)[:, None] - torch.arange(200)).abs()
    near = ((distance >= 1) & (distance < 50)).sum(-1)
    expected = torch.stack([torch.ones(200), near, 199 - near], dim=-1) / 200
    torch.testing.assert_close(histogram[0, 0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bins_of_one_token_are_the_offset_masses(backend: str) -> None:
    x = normal(1, 2, 200, 8)
    case = Case(x, x, x, Mask.causal(), Sight(0, causal=True))
    probes = (ik.DistanceHistogram(tuple(range(131))), ik.OffsetMass(tuple(range(130))))
    stats = case.attend(backend, probes).stats
    torch.testing.assert_close(stats["distance_histogram"], stats["offset_mass"], rtol=0, atol=0)


@pytest.mark.parametrize("keys", [131_072, 100_003])
def test_the_bins_of_a_very_long_uniform_row_keep_their_digits(keys: int) -> None:
    q, k = torch.zeros(1, 1, 3, 8), normal(1, 1, keys, 8)
    edges = (0, 1, 2, 1000, 65_000, math.inf)
    got = ik.attend(q, k, k, probes=(ik.DistanceHistogram(edges),), backend="cpu").stats["distance_histogram"][0, 0]
    for row, seen in enumerate((keys - 2, keys - 1, keys)):
        expected = torch.tensor([1.0, 1.0, 998.0, 64_000.0, seen - 65_000.0]).double() / seen
        torch.testing.assert_close(got[row].double(), expected, rtol=4 * torch.finfo(torch.float32).eps, atol=0)


def test_a_small_mass_far_away_is_exact_beside_a_large_one() -> None:
    # A difference of cumulative sums would give 0 or the rounding of 1.
    scores = torch.full((3000,), -60.0)
    scores[2999] = 0.0
    x = scores[None, None, :, None]
    probe = ik.DistanceHistogram((0, 1, 2000, 3000))
    got = ik.attend(torch.ones(1, 1, 1, 1), x, x, probes=(probe,), backend="cpu").stats["distance_histogram"]
    far = math.exp(-60)
    torch.testing.assert_close(got[0, 0, 0].double(), torch.tensor([1.0, 1999 * far, 1000 * far]).double())


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_pooled_is_what_the_lazy_map_pools(backend: str, block: int, op) -> None:
    x = normal(2, 2, 150, 8)
    case = Case(x, x, x, Mask.causal(window=40), Sight(0, causal=True, windows=(40,)))
    got = case.attend(backend, (ik.Pooled(block, op),))
    torch.testing.assert_close(got.stats["pooled"], got.map.pool(block, op))


@pytest.mark.parametrize("backend", BACKENDS)
def test_squares_leave_out_queries_that_do_not_count(backend: str) -> None:
    queries = torch.ones(200, dtype=torch.bool)
    queries[:90] = False
    probes = (ik.Pooled(60, queries=queries), ik.Pooled(60, "max", name="largest", queries=queries))
    stats = causal(torch.zeros(200)).attend(backend, probes).stats
    for name in ("pooled", "largest"):
        assert stats[name].shape == (1, 1, 4, 4)
        assert (stats[name][0, 0, 0] == 0).all()
        assert (stats[name][0, 0].triu(1) == 0).all()
    share = 1 / torch.arange(1.0, 201)
    torch.testing.assert_close(stats["pooled"][0, 0, 1, 0], share[90:120].mean())
    torch.testing.assert_close(stats["largest"][0, 0, 1, 0], share[90])


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_of_a_query_that_does_not_count_stays_out_of_its_square(backend: str, op) -> None:
    x = normal(1, 1, 20, 4)
    q = x.clone()
    q[0, 0, 5] = math.nan
    queries = torch.arange(20) != 5
    case = Case(q, x, x, Mask.causal(), Sight(0, causal=True))
    got = case.attend(backend, (ik.Pooled(10, op, queries=queries), ik.Pooled(10, op, name="all"))).stats
    assert got["pooled"].isfinite().all()
    assert got["all"][0, 0, 0, 0].isnan()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_key_and_one_query(backend: str) -> None:
    x = torch.ones(1, 1, 1, 1)
    case = Case(x, x, x, Mask.causal(), Sight(0, causal=True))
    stats = case.attend(
        backend, (ik.TopK(2), ik.DistanceHistogram((0, 1)), ik.Pooled(3), ik.Pooled(1, name="one"))
    ).stats
    assert stats["top_k"].tolist() == [[[[1, 0]]]]
    assert stats["top_k_index"].tolist() == [[[[0, -1]]]]
    assert stats["distance_histogram"].tolist() == stats["pooled"].tolist() == stats["one"].tolist() == [[[[1]]]]


def test_a_tile_that_cannot_change_the_largest_is_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_rows = []

    def counted(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sorted_rows.append(x[..., 0].numel())
        return largest(x, k)

    monkeypatch.setattr("interp_kernels.backends.tiled.accumulate.largest", counted)
    case = causal(torch.zeros(2000))
    operands = case.attend("reference").map.operands
    index = tiled.run(operands, (ik.TopK(3),), tile_cells=1)[2]["top_k_index"]
    assert sum(sorted_rows) == 2000
    assert (index[0, 0, 2:] == torch.arange(3)).all()
