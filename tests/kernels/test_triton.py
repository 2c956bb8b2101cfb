"""The Triton kernels against the oracle: on a GPU in every configuration and type, else small calls in the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.backends import triton
from interp_kernels.backends.triton import tuning
from interp_kernels.backends.triton.availability import MAX_TOP
from interp_kernels.backends.triton.mapping import MapKernels
from interp_kernels.backends.triton.tuning import Config, configurations, fixed
from tests.kernels import oracle
from tests.kernels import test_adversarial as adversarial
from tests.kernels.cases import Case, cases, randomised
from tests.kernels.on_device import DEVICE, moved, needs_gpu, needs_triton
from tests.kernels.oracle import Sight
from tests.kernels.rounding import check_index, excess
from tests.kernels.test_rounding import check, map_bound

pytestmark = [
    needs_triton,
    # Overflow and NaN in the interpreter's numpy, where a GPU says nothing: a bias of the least float32, say.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]

DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
SMALL = Config(block_m=16, block_n=16, num_warps=4, num_stages=1)
"""Tiles so small that short sequences take several."""


def suited(case: Case) -> Case:
    """The case with as many places in TopK as the kernels keep."""
    probes = (replace(p, k=min(p.k, MAX_TOP)) if isinstance(p, ik.TopK) else p for p in case.probes)
    return replace(case, probes=tuple(probes))


def served(**options: bool):
    return cases(**options).filter(lambda case: not case.mask.predicates).map(suited)


def every_configuration() -> list[Config]:
    """Each that some call may get on the device at hand. In the interpreter, which knows no warps, each pair of block sizes of
    either architecture."""
    capabilities = [80, 90]
    if DEVICE == "cuda":
        major, minor = torch.cuda.get_device_capability()
        capabilities = [10 * major + minor]
    kinds: tuple[tuning.Kind, ...] = ("forward", "decode", "columns", "rows")
    found = {
        config: None
        for capability in capabilities
        for kind in kinds
        for size in (2, 4)
        for width in (64, 128, 256)
        for config in configurations(kind, capability, size, width)
    }
    if DEVICE == "cpu":
        return [Config(m, n, 4, 1) for m, n in dict.fromkeys((config.block_m, config.block_n) for config in found)]
    return list(found)


def one_call(dtype: torch.dtype, queries: int = 70, width: int = 20) -> Case:
    """Several tiles of every configuration, a window and all probes."""
    torch.manual_seed(0)
    keys, heads = queries + 100, 1 if DEVICE == "cpu" else 2
    mask = Mask.causal(window=100)
    labels = torch.randint(-1, 4, (keys,))
    probes = (
        ik.Entropy(),
        ik.Peak(),
        ik.TopK(5),
        ik.KeyMass(torch.randn(keys, 2)),
        ik.LabelMatch(labels[:queries], labels, strict=True),
        ik.OffsetMass((0, 1, 90)),
        ik.Distance(),
        ik.DistanceHistogram((0, 1, 30, math.inf)),
        ik.Received(normalize=True),
        ik.Pooled(16),
        ik.Pooled(50, op="max", name="large"),
    )
    q = torch.randn(1, heads, queries, width).double()
    k, v = torch.randn(2, 1, 1, keys, width).double().unbind()
    return Case(q, k, v, mask, Sight(100, causal=True, windows=(100,)), probes=probes).rounded(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@randomised(8)
@given(case=served())
def test_results_err_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype, case: Case) -> None:
    with fixed(SMALL) if DEVICE == "cpu" else nullcontext():
        check(case.rounded(dtype), ("triton",))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@randomised(2)
@given(case=served(long=True))
def test_results_over_many_tiles_err_at_most_twice_as_much(dtype: torch.dtype, case: Case) -> None:
    check(case.rounded(dtype), ("triton",))


@pytest.mark.parametrize("config", every_configuration(), ids=str)
def test_every_configuration_gives_the_same_results(config: Config) -> None:
    for dtype in DTYPES if DEVICE == "cuda" else [torch.float16]:
        with fixed(config):
            check(one_call(dtype), ("triton",))


@needs_gpu
@pytest.mark.parametrize("width", [32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_configuration_serves_every_width(dtype: torch.dtype, width: int) -> None:
    major, minor = torch.cuda.get_device_capability()
    size, padded = torch.empty((), dtype=dtype).element_size(), max(16, 1 << (width - 1).bit_length())
    case = one_call(dtype, queries=600, width=width)
    for config in configurations("forward", 10 * major + minor, size, padded):
        with fixed(config):
            check(case, ("triton",))
    check(case, ("triton",))


@pytest.mark.parametrize("lengths", [(1, 1), (1, 70), (3, 64), (17, 5)], ids=str)
def test_odd_lengths(lengths: tuple[int, int]) -> None:
    queries, keys = lengths
    torch.manual_seed(queries)
    q, k, v = (torch.randn(2, 2, n, 9).double() for n in (queries, keys, keys))
    case = Case(q, k, v, Mask.causal(), Sight(keys - queries, causal=True), probes=(ik.Entropy(), ik.Received()))
    check(case.rounded(torch.float32), ("triton",))


def by_class(batch: int, heads: int, queries: int, per_head: bool = False) -> ik.ClassBias:
    """Three classes of 50 keys, one of them cut from every other head."""
    values = torch.randn(batch, heads, queries, 3).double()
    values[:, ::2, :, 1] = -math.inf
    return ik.ClassBias(values, torch.randint(0, 3, (1, heads, 50) if per_head else (50,)))


@pytest.mark.parametrize("splits", [1, 2, 7])
@pytest.mark.parametrize("queries", [1, 5])
def test_few_queries_share_the_keys_out(queries: int, splits: int) -> None:
    """Decoding: the heads of a KV head in one block, keys in several ranges, of which some may be empty."""
    torch.manual_seed(splits)
    q = torch.randn(2, 4, queries, 12).double()
    k, v = torch.randn(2, 2, 2, 50, 12).double().unbind()
    keep = torch.arange(50) >= torch.tensor([[0], [35]])
    labels = torch.randint(0, 3, (50,))
    probes = (
        ik.Entropy(),
        ik.LabelMatch(labels[:queries], labels),
        ik.KeyMass(torch.randn(50, 2)),
        ik.Distance(7),
        ik.OffsetMass((0, 20)),
        ik.Received(),
    )
    mask, sight = Mask.causal() & Mask.from_padding(keep), Sight(50 - queries, causal=True, keeps=(keep.numpy(),))
    edits: tuple[dict, ...] = (
        {},
        {"sinks": torch.randn(2, 4, queries).double(), "class_bias": by_class(2, 4, queries)},
        {"sinks": torch.randn(4).double(), "class_bias": by_class(2, 4, queries, per_head=True)},
    )
    calls = [Case(q, k, v, mask, sight, **edit, probes=probes) for edit in edits]
    calls.append(replace(calls[0], probes=(ik.KeyMass(torch.randn(2, 4, 50, 1)), ik.Peak())))
    for case in calls:
        with fixed(SMALL, splits):
            check(case.rounded(torch.float32), ("triton",))


def test_a_tie_across_ranges_of_keys_goes_to_the_lower_key() -> None:
    k = torch.zeros(1, 1, 64, 1)
    k[0, 0, [20, 60]] = 3.0
    case = Case(torch.ones(1, 1, 1, 1), k, k, Mask.full(), Sight(63), probes=(ik.Peak(),))
    with fixed(SMALL, splits=4):
        assert case.attend("triton").stats["peak_index"].item() == 20


@pytest.mark.parametrize(
    "property_of_a_backend",
    [
        adversarial.test_scores_of_ten_thousand_give_one_key_all_the_mass,
        adversarial.test_a_tie_across_key_tiles_goes_to_the_lower_key,
        adversarial.test_pairs_that_lie_in_different_key_tiles_all_count_in_an_average,
        adversarial.test_a_single_visible_key_gets_exactly_all_the_mass,
        adversarial.test_a_needle_with_all_the_mass_is_found_wherever_it_lies,
        adversarial.test_the_peak_under_a_sink_that_takes_all_lies_in_the_window,
        adversarial.test_a_result_does_not_depend_on_what_else_is_in_the_call,
    ],
    ids=lambda check: check.__name__,
)
def test_adversarial(property_of_a_backend: Callable[[str], None]) -> None:
    property_of_a_backend("triton")


@pytest.mark.parametrize("sink", [None, -1.5, -math.inf])
def test_rows_without_keys(sink: float | None) -> None:
    adversarial.test_a_row_that_sees_no_key_has_defined_values("triton", sink)


@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_nan_is_never_hidden(where: str) -> None:
    adversarial.test_nan_is_never_hidden("triton", where)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_huge_sinks(dtype: torch.dtype) -> None:
    adversarial.test_huge_sinks_take_the_mass_without_overflow("triton", dtype)


def test_labels_far_beyond_the_exact_integers_of_float32_are_told_apart() -> None:
    case = adversarial.random_case()
    keys = torch.arange(200) + (1 << 40)
    probes = (ik.LabelMatch(keys, keys), ik.OffsetMass((0,)))
    stats = case.attend("triton", probes).stats
    torch.testing.assert_close(stats["label_match"], stats["offset_mass"][..., 0])


def test_the_same_input_gives_the_same_bits() -> None:
    case = one_call(torch.float16, queries=60)
    first, second = case.attend("triton"), case.attend("triton")
    assert torch.equal(first.output, second.output)
    for name, value in first.stats.items():
        assert torch.equal(value.nan_to_num(7), second.stats[name].nan_to_num(7)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float64}, "the Triton kernels take float16, bfloat16 and float32, got float64"),
        ({"mask": Mask.from_predicate(lambda b, i, j: i >= j)}, "a mask's predicate is a Python function"),
        ({"width": 264}, "the Triton kernels take widths of at most 256, got 264 and 264"),
        ({"probes": (ik.TopK(65),)}, "TopK.k: the Triton kernels keep at most 64 keys, got 65"),
        ({"mask": Mask.causal(offset=1 << 24)}, "the Triton kernels take positions below 16,777,216"),
    ],
    ids=["float64", "predicate", "width", "top 65", "position"],
)
def test_what_the_kernels_cannot_serve_is_refused_by_name_and_served_by_auto(change: dict, message: str) -> None:
    q = torch.randn(1, 1, 4, change.get("width", 8), dtype=change.get("dtype", torch.float32), device=DEVICE)
    given = {"mask": change.get("mask", Mask.causal()), "probes": change.get("probes", ())}
    with pytest.raises(ValueError, match="backend: " + message):
        ik.attend(q, q, q, backend="triton", **given)
    expected = ik.attend(q, q, q, backend="cpu", **given)
    assert torch.equal(ik.attend(q, q, q, **given).output, expected.output)


@pytest.mark.skipif(DEVICE == "cuda", reason="wants a machine without a CUDA device")
def test_tensors_on_the_cpu_are_refused_where_the_interpreter_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(1, 1, 4, 8)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="run on a CUDA device, got tensors on cpu; use backend='cpu', or set TRITON_"):
        ik.attend(q, q, q, backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="the Triton interpreter computes wrong bfloat16 products"):
        ik.attend(q.bfloat16(), q.bfloat16(), q.bfloat16(), backend="triton")


@needs_gpu
def test_auto_takes_the_kernels_for_tensors_on_a_gpu() -> None:
    case = one_call(torch.bfloat16)
    q, k, v = (x.cuda() for x in (case.q, case.k, case.v))
    assert triton.refusal(ik.attend(q, k, v).map.operands, ()) is None
    assert torch.equal(ik.attend(q, k, v).output, ik.attend(q, k, v, backend="triton").output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@randomised(4)
@given(case=served(probes=False))
def test_the_kernels_of_the_lazy_map_err_at_most_twice_as_much_as_scores_less_their_log_sum_exp(
    dtype: torch.dtype, case: Case
) -> None:
    """Sums of n cells may err n times as much as one, times the largest factor."""
    case = case.rounded(dtype)
    golden = case.golden()
    bound, p = map_bound(case, golden), torch.from_numpy(golden.p)
    on_cpu = case.attend("cpu").map
    batch, heads, queries, keys = on_cpu.shape
    x, w = torch.randn(batch, heads, keys, 3), torch.randn(batch, heads, queries, 5)
    index = torch.tensor([queries - 1, 0])
    with fixed(SMALL) if DEVICE == "cpu" else nullcontext():
        kernels = MapKernels(moved(on_cpu.operands, DEVICE), on_cpu.lse.to(DEVICE))
        cells = kernels.cells(slice(0, queries), slice(0, keys)).cpu()
        assert excess(cells, golden.p) <= bound
        assert torch.equal(
            kernels.cells(index.to(DEVICE), slice(keys // 2, keys)).cpu(), cells[:, :, index, keys // 2 :]
        )
        d = case.sight.offset
        diagonal = np.diagonal(golden.p, axis1=-2, axis2=-1)
        assert excess(kernels.diagonal(d).cpu()[..., : diagonal.shape[-1]], diagonal) <= bound
        expected = oracle.pooled(ik.Pooled(5, "max"), golden)
        assert excess(kernels.pool(5, "max").cpu(), expected) <= bound
        late = slice(queries // 2, queries)
        part = MapKernels(moved(on_cpu.operands.some_rows(late), DEVICE), on_cpu.lse[:, :, late].to(DEVICE))
        assert excess(part.cells(slice(0, queries - late.start), slice(0, keys)).cpu(), golden.p[:, :, late]) <= bound
        check_index(kernels.topk(3)[1].cpu(), oracle.measure(ik.TopK(3), golden)["top_k_index"], golden, bound)
        for sums, expected, n in (
            (kernels.matmul(x.to(DEVICE)), p @ x.double(), keys * x.abs().max()),
            (kernels.matmul(x[..., :1].to(DEVICE)), p @ x[..., :1].double(), keys * x.abs().max()),
            (kernels.rmatmul(w.to(DEVICE)), (p.mT @ w.double()).mT, queries * w.abs().max()),
        ):
            assert excess(sums.cpu(), expected.numpy()) <= bound * float(n)


@needs_gpu
def test_the_lazy_map_of_tensors_on_a_gpu_runs_in_the_kernels() -> None:
    case = one_call(torch.bfloat16)
    on_cpu, on_gpu = case.attend("cpu").map, ik.attend(case.q.cuda(), case.k.cuda(), case.v.cuda(), mask=case.mask).map
    w = torch.randn(on_cpu.shape[2])
    torch.testing.assert_close(on_gpu.dense().cpu(), on_cpu.dense())
    torch.testing.assert_close(on_gpu.rmatmul(w.cuda()).cpu(), on_cpu.rmatmul(w))
