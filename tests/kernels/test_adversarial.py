"""Inputs chosen to break a fused softmax: huge and equal scores, rows without keys, NaN, huge sinks, very long rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask
from tests.kernels.cases import BACKENDS, Case
from tests.kernels.oracle import Sight, output

PROBES = (
    ik.Entropy(),
    ik.Peak(),
    ik.OffsetMass((0, 1)),
    ik.Distance(),
    ik.KeyMass(torch.ones(200, 1)),
    ik.LabelMatch(torch.zeros(200, dtype=torch.int64), torch.zeros(200, dtype=torch.int64)),
    ik.Received(),
    ik.TopK(3),
    ik.DistanceHistogram((0, 1, 70, math.inf)),
    ik.Pooled(50),
    ik.Pooled(64, "max", name="pooled_max"),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def causal(q: Tensor, k: Tensor, v: Tensor, probes: tuple[ik.Probe, ...] = PROBES, **features: Any) -> Case:
    """A causal call over T queries and as many keys; T = 200 makes "tiles" walk over two key tiles."""
    return Case(q, k, v, Mask.causal(), Sight(k.shape[2] - q.shape[2], causal=True), probes=probes, **features)


def random_case(**features: Any) -> Case:
    return causal(normal(1, 2, 200, 8), normal(1, 2, 200, 8, seed=1), normal(1, 2, 200, 4, seed=2), **features)


def finite(attended: ik.Attended) -> bool:
    return all(bool(x.isfinite().all()) for x in (attended.output, attended.lse, *attended.stats.values()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_of_ten_thousand_give_one_key_all_the_mass(backend: str) -> None:
    # Small integers times a power of two: the scores are exact, and the largest stands out by at least 2048.
    q = torch.ones(1, 1, 200, 1)
    k = 2048.0 * torch.randperm(200, generator=torch.Generator().manual_seed(0)).float()[None, None, :, None] / 8
    case = causal(q, k, normal(1, 1, 200, 4))
    got, best = case.attend(backend), k[0, 0, :, 0].cummax(dim=0).indices
    assert k.max() > 1e4
    assert finite(got)
    assert got.stats["peak_index"][0, 0].tolist() == best.tolist()
    assert (got.stats["peak"] == 1).all()
    assert (got.stats["entropy"] == 0).all()
    torch.testing.assert_close(got.output[0, 0], case.v[0, 0, best], rtol=0, atol=0)
    torch.testing.assert_close(got.lse[0, 0], k[0, 0, best, 0], rtol=0, atol=0)
    # Negated, every score lies below -0, far below the sum that an unshifted exponential could hold.
    got = causal(-q, k + 30000, case.v).attend(backend)
    assert finite(got)
    assert got.stats["peak_index"][0, 0].tolist() == k[0, 0, :, 0].cummin(dim=0).indices.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_scores_share_the_mass_and_the_lowest_key_is_the_peak(backend: str) -> None:
    q = torch.zeros(1, 2, 200, 8)
    got = causal(q, normal(1, 2, 200, 8), torch.ones(1, 2, 200, 3)).attend(backend)
    seen = torch.arange(1, 201).float().expand(1, 2, 200)
    torch.testing.assert_close(got.stats["entropy"], seen.log())
    torch.testing.assert_close(got.stats["peak"], 1 / seen)
    assert (got.stats["peak_index"] == 0).all()
    torch.testing.assert_close(got.stats["distance"], (seen - 1) / 2)
    torch.testing.assert_close(got.stats["offset_mass"][..., 0], 1 / seen)
    torch.testing.assert_close(got.output, torch.ones_like(got.output))
    windowed = ik.attend(q, normal(1, 2, 200, 8), q, mask=Mask.causal(window=5), probes=PROBES, backend="reference")
    assert windowed.stats["peak_index"][0, 0].tolist() == [max(0, i - 4) for i in range(200)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tie_across_key_tiles_goes_to_the_lower_key(backend: str) -> None:
    k = torch.zeros(1, 1, 200, 1)
    k[0, 0, [60, 190]] = 3.0
    got = causal(torch.ones(1, 1, 200, 1), k, k).attend(backend)
    assert got.stats["peak_index"][0, 0].tolist() == [0] * 60 + [60] * 140


@pytest.mark.parametrize("backend", BACKENDS)
def test_pairs_that_lie_in_different_key_tiles_all_count_in_an_average(backend: str) -> None:
    pairs, offsets = random_case(), (0, 1, 100, 150, -1)
    probes = (ik.OffsetMass(offsets), ik.OffsetMass(offsets, name="mean", reduce="mean"))
    stats = pairs.attend(backend, probes).stats
    for c, d in enumerate(offsets):
        expected = stats["offset_mass"][:, :, d:, c].mean(-1) if d >= 0 else torch.full((1, 2), math.nan)
        torch.testing.assert_close(stats["mean"][..., c], expected, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_visible_key_gets_exactly_all_the_mass(backend: str) -> None:
    case = random_case()
    keep = torch.zeros(1, 200, dtype=torch.bool)
    keep[0, 77] = True
    case = Case(case.q, case.k, case.v, Mask.from_padding(keep), Sight(0, keeps=(keep.numpy(),)), probes=PROBES)
    got = case.attend(backend)
    assert (got.stats["peak"] == 1).all()
    assert (got.stats["entropy"] == 0).all()
    assert (got.stats["peak_index"] == 77).all()
    torch.testing.assert_close(got.output, case.v[:, :, 77:78].expand(1, 2, 200, 4), rtol=0, atol=0)
    torch.testing.assert_close(got.lse, (case.q * case.k[:, :, 77:78]).sum(-1) / 8**0.5)
    assert (got.stats["received"][..., 77] == 200).all()
    assert got.stats["received"].sum() == 400


@pytest.mark.parametrize("sink", [None, -1.5, -math.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_sees_no_key_has_defined_values(backend: str, sink: float | None) -> None:
    keep = torch.ones(2, 200, dtype=torch.bool)
    keep[0, :150] = False  # so rows 0 to 149 of the first sequence see nothing
    mask = Mask.causal() & Mask.from_padding(keep)
    sinks = None if sink is None else torch.full((2,), sink)
    q, k, v = normal(2, 2, 200, 8), normal(2, 2, 200, 8, seed=1), normal(2, 2, 200, 4, seed=2)
    probes = (*PROBES, ik.Peak(name="mean", reduce="mean"), ik.OffsetMass((1,), name="pairs", reduce="mean"))
    sight = Sight(0, causal=True, keeps=(keep.numpy(),))
    got = Case(q, k, v, mask, sight, sinks=sinks, probes=probes).attend(backend)
    empty = (slice(0, 1), slice(None), slice(0, 150))
    assert (got.output[empty] == 0).all()
    assert (got.lse[empty] == (-math.inf if sink is None else sink)).all()
    for name in (
        "entropy",
        "peak",
        "top_k",
        "offset_mass",
        "distance",
        "distance_histogram",
        "key_mass",
        "label_match",
    ):
        assert (got.stats[name][empty] == 0).all(), name
    assert (got.stats["peak_index"][empty] == -1).all()
    assert (got.stats["top_k_index"][empty] == -1).all()
    assert (got.stats["pooled"][0, :, :3] == 0).all()
    assert (got.stats["received"][0, :, :150] == 0).all()
    assert (got.map.rows([0, 149])[0] == 0).all()
    assert (got.map.topk(2)[1][empty] == -1).all()
    # They are left out of averages, and the pair of query 150 and key 149 does not exist.
    torch.testing.assert_close(got.stats["mean"][0], got.stats["peak"][0, :, 150:].mean(-1))
    torch.testing.assert_close(got.stats["pairs"][0, :, 0], got.stats["offset_mass"][0, :, 151:, 1].mean(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_averages_over_no_query_are_nan(backend: str) -> None:
    nobody = torch.zeros(200, dtype=torch.bool)
    probes = (ik.Entropy(queries=nobody, reduce="mean"), ik.OffsetMass((200,), reduce="mean"))
    stats = random_case().attend(backend, probes).stats
    assert stats["entropy"].isnan().all()
    assert stats["offset_mass"].isnan().all()


@pytest.mark.parametrize("value", [-math.inf, torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min])
@pytest.mark.parametrize("backend", BACKENDS)
def test_biases_of_minus_infinity_hide_keys_as_a_mask_does(backend: str, value: float) -> None:
    case = random_case()
    hidden = torch.rand(1, 1, 200, 200, generator=torch.Generator().manual_seed(3)) < 0.5
    hidden[..., 20, :] = True
    rows = hidden[0, 0]
    bias = torch.zeros(1, 1, 200, 200).masked_fill(hidden, value)
    biased = ik.attend(case.q, case.k, case.v, bias=bias, probes=PROBES, backend="cpu")
    got = random_case(bias=bias).attend(backend)
    masked = ik.attend(
        case.q, case.k, case.v, mask=Mask.causal() & Mask.from_predicate(lambda b, i, j: ~rows[i, j]), probes=PROBES
    )
    assert got.stats["peak_index"][0, 0, 20] == biased.stats["peak_index"][0, 0, 20] == -1
    torch.testing.assert_close(got.output, masked.output)
    torch.testing.assert_close(got.lse, masked.lse)
    for name, expected in masked.stats.items():
        torch.testing.assert_close(got.stats[name], expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("keys", [131_072, 100_003])
def test_uniform_attention_over_a_very_long_row_has_entropy_ln_of_its_length(keys: int) -> None:
    q, k, v = torch.zeros(1, 1, 3, 8), normal(1, 1, keys, 8), normal(1, 1, keys, 2)
    got = ik.attend(q, k, v, mask=Mask.full(), probes=(ik.Entropy(), ik.Peak()), backend="cpu")
    ulp = np.spacing(np.float32(math.log(keys)))
    assert (got.stats["entropy"].double() - math.log(keys)).abs().max() <= ulp
    assert (got.lse.double() - math.log(keys)).abs().max() <= ulp
    assert (got.stats["peak"] == torch.tensor(1 / keys)).all()
    torch.testing.assert_close(got.output[0, 0, 0].double(), v[0, 0].double().mean(0), rtol=0, atol=1e-7)


def test_the_entropy_of_a_very_long_row_with_random_scores_keeps_its_digits() -> None:
    keys = 131_072
    q, k = normal(1, 1, 2, 16), normal(1, 1, keys, 16)
    got = ik.attend(q, k, k, mask=Mask.full(), probes=(ik.Entropy(),), backend="cpu").stats["entropy"]
    p = (q.double() @ k.double().mT / 4).softmax(-1)
    torch.testing.assert_close(got.double(), torch.special.entr(p).sum(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_needle_with_all_the_mass_is_found_wherever_it_lies(backend: str) -> None:
    k = torch.zeros(1, 1, 200, 4)
    k[0, 0, 131, 0] = 400.0
    q = torch.zeros(1, 1, 200, 4)
    q[..., 0] = 1.0
    case = causal(q, k, normal(1, 1, 200, 4))
    got = case.attend(backend)
    assert (got.stats["peak"][..., 131:] == 1).all()
    assert (got.stats["peak_index"][..., 131:] == 131).all()
    # Of the others each holds e^-200 and no float32; what is left of the entropy is theirs.
    assert (got.stats["entropy"][..., 131:] < 1e-30).all()
    torch.testing.assert_close(got.output[0, 0, 131:], case.v[0, 0, 131].expand(69, 4), rtol=0, atol=0)
    assert got.stats["distance"][0, 0, 131:].tolist() == list(range(69))


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_never_hidden(backend: str, where: str) -> None:
    case = random_case()
    {"q": case.q, "k": case.k, "v": case.v}[where][0, 1, 150, 0] = math.nan
    got = case.attend(backend)
    # Query 150 alone for q; every query that sees key 150 for k and v.
    touched = torch.zeros(200, dtype=torch.bool)
    touched[150 : 151 if where == "q" else 200] = True
    assert got.output[0, 1, touched].isnan().any(-1).all()
    assert got.output[0, 0].isfinite().all()
    if where == "v":
        assert got.lse.isfinite().all()
        return
    assert got.lse[0, 1].isnan().tolist() == touched.tolist()
    for name in ("entropy", "peak", "offset_mass", "distance", "key_mass", "label_match"):
        value = got.stats[name][0, 1].reshape(200, -1)
        assert value[touched].isnan().all(), name
        assert value[~touched].isfinite().all(), name
    for name in ("top_k", "distance_histogram"):
        assert got.stats[name][0, 1].isnan().any(-1).tolist() == touched.tolist(), name
    assert got.stats["pooled"][0, 1, 3, :3].isnan().all()
    assert got.stats["pooled"][0, 1, :3].isfinite().all()
    assert got.stats["pooled_max"][0, 1, 2, :2].isnan().all()
    assert got.stats["received"][0, 1, :150].isnan().all()
    row = got.map.rows(150)[0, 1, 0]
    assert row[:151].isnan().all()
    assert (row[151:] == 0).all()
    assert got.map.matmul(torch.ones(200, 1))[0, 1, touched].isnan().all()
    assert got.map.rmatmul(torch.ones(200))[0, 1, 0].isnan()
    assert got.map.pool(200)[0, 1].isnan().all()
    assert got.map.pool(200, op="max")[0, 1].isnan().all()
    assert got.map.topk(1)[0][0, 1, touched].isnan().all()
    means = (ik.Entropy(reduce="mean"), ik.OffsetMass((0,), reduce="mean"))
    for name, value in case.attend(backend, means).stats.items():
        assert value[0, 1].isnan().all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_sinks_take_the_mass_without_overflow(backend: str, dtype: torch.dtype) -> None:
    case = random_case(sinks=torch.tensor([1e4, -1e4])).rounded(dtype)
    got = case.attend(backend)
    assert finite(got)
    sink = case.sinks
    assert sink is not None
    assert (got.output[0, 0] == 0).all()
    assert (got.lse[0, 0] == sink[0].float()).all()
    assert all(
        (got.stats[name][0, 0] == 0).all() for name in ("entropy", "peak", "top_k", "distance", "received", "pooled")
    )
    # The peak is still a key that is seen, though its probability is 0 in float32.
    assert (got.stats["peak_index"][0, 0] <= torch.arange(200)).all()
    without = causal(case.q, case.k, case.v).attend(backend)
    torch.testing.assert_close(got.output[0, 1], without.output[0, 1])
    torch.testing.assert_close(got.stats["entropy"][0, 1], without.stats["entropy"][0, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_peak_under_a_sink_that_takes_all_lies_in_the_window(backend: str) -> None:
    case = random_case(sinks=torch.full((2,), 1e4))
    mask, sight = Mask.causal(window=10), Sight(0, causal=True, windows=(10,))
    index = Case(case.q, case.k, case.v, mask, sight, sinks=case.sinks, probes=PROBES).attend(backend)
    i = torch.arange(200)
    found = index.stats["peak_index"][0]
    assert ((found <= i) & (found > i - 10)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_denormal_probabilities_neither_vanish_into_nan_nor_disturb_the_rest(backend: str) -> None:
    # e^-95 is denormal in float32, e^-120 is 0.
    k = torch.tensor([0.0, -95.0, -120.0])[None, None, :, None]
    case = causal(torch.ones(1, 1, 3, 1), k, torch.tensor([1.0, 2.0, 3.0])[None, None, :, None], probes=(ik.Entropy(),))
    got = case.attend(backend)
    assert finite(got)
    torch.testing.assert_close(got.output[0, 0], torch.ones(3, 1), rtol=0, atol=0)
    assert (got.stats["entropy"] < 1e-35).all()
    assert (got.stats["entropy"] >= 0).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_input_gives_the_same_bits(backend: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    case = random_case(sinks=normal(2, seed=5))
    first, second = case.attend(backend), case.attend(backend)
    torch.set_num_threads(before)
    assert torch.equal(first.output, second.output)
    assert torch.equal(first.lse, second.lse)
    assert all(torch.equal(first.stats[name], second.stats[name]) for name in first.stats)
    assert torch.equal(first.map.rmatmul(torch.ones(200)), second.map.rmatmul(torch.ones(200)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_does_not_depend_on_what_else_is_in_the_call(backend: str) -> None:
    """One sequence of a batch, one head of several, one query of many: the same numbers but for rounding."""
    case = random_case()
    whole = case.attend(backend)
    one = Case(
        case.q[:, 1:, 120:121],
        case.k[:, 1:],
        case.v[:, 1:],
        Mask.causal(offset=120),
        Sight(120, causal=True),
        probes=(),
    ).attend(backend, (ik.Entropy(), ik.Peak()))
    torch.testing.assert_close(one.output, whole.output[:, 1:, 120:121])
    torch.testing.assert_close(one.stats["entropy"], whole.stats["entropy"][:, 1:, 120:121])
    assert one.stats["peak_index"].item() == whole.stats["peak_index"][0, 1, 120].item()


def test_the_output_is_the_product_of_the_lazy_map_and_the_values() -> None:
    case = random_case()
    got = case.attend("cpu")
    torch.testing.assert_close(got.map.matmul(case.v), got.output)
    np.testing.assert_allclose(got.output, output(case.golden(), case.v.double().numpy()), atol=1e-5)
