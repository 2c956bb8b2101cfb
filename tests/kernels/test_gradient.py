"""Gradients through ``attend`` against float64 autograd through a dense map that is written out here.

The bound is that of ``rounding``: twice the error of autograd through plain dense attention in the same precision, plus
4 ulp of the scale, which is the sum of the magnitudes of the terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import interp_kernels as ik
from interp_kernels.gradient import Wanted, gradients
from tests.kernels import rounding
from tests.kernels.cases import Case, cases, randomised
from tests.kernels.oracle import Sight
from tests.kernels.test_memory import Allocations

NAMES = ("q", "k", "v", "sinks")


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def dense(case: Case, visible: Tensor, evaluation: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Output, P and P of the sink by plain torch in the inputs' dtype, the softmax in float32 or more.

    ``evaluation`` numbers an order of summation.
    """
    dtype, wide = case.q.dtype, torch.promote_types(case.q.dtype, torch.float32)
    (_, heads, queries, width), keys = case.q.shape, case.k.shape[2]
    widths, columns = rounding._order(width, evaluation), rounding._order(keys, evaluation)
    k, v = (x[:, :, columns].repeat_interleave(heads // x.shape[1], dim=1) for x in (case.k, case.v))
    q, k = case.q[..., widths], k[..., widths]
    scale = width**-0.5 if case.scale is None else case.scale
    # Odd evaluations, as fused kernels do, scale the queries, by the soft cap too: its tanh is rounded by a chance of its own.
    copies, cap = (1 if evaluation % 2 == 0 else rounding.COPIES), case.softcap
    factor = scale if cap is None or copies == 1 else scale / cap
    s = q @ k.mT * factor if copies == 1 else ((q * factor).repeat(1, 1, copies, 1) @ k.mT)[:, :, :queries]
    if cap is not None:
        s = torch.tanh(s / cap if copies == 1 else s) * cap
    row = torch.arange(queries)[:, None]
    if case.alibi is not None:
        s = s - case.alibi[:, None, None] * (row + case.sight.offset - columns).abs()
    if case.bias is not None and case.bias.shape == (heads, queries + keys - 1):
        s = s + case.bias[:, columns - row + queries - 1]
    elif case.bias is not None:
        s = s + case.bias.expand(*s.shape[:2], queries, keys)[..., columns]
    if case.class_bias is not None:
        s = s + case.added_by_class()[..., columns]
    # A finite fill, so that a row without a key has gradients of 0 instead of NaN; its P is set to 0 here.
    s = s.to(wide).masked_fill(~visible[..., columns], -1e30)
    s = torch.cat([s, case.row_sinks().to(wide)[..., None]], dim=-1)
    p, p_sink = s.softmax(dim=-1).split([keys, 1], dim=-1)
    p = (p * visible[..., columns]).to(dtype)
    return (p.repeat(1, 1, copies, 1) @ v)[:, :, :queries], p[..., columns.argsort()], p_sink


def autograd(case: Case, visible: Tensor, output_gradient: Tensor, evaluation: int = 0) -> dict[str, Tensor]:
    case = asking(case)
    output, _, _ = dense(case, visible, evaluation)
    return {name: x.grad for name, x in leaves(case, output, output_gradient).items() if x.grad is not None}


def asking(case: Case, names: tuple[str, ...] = NAMES) -> Case:
    """The same call with fresh leaves that ask for a gradient."""
    given = {name: getattr(case, name) for name in names}
    return replace(case, **{n: x.detach().clone().requires_grad_() for n, x in given.items() if x is not None})


def leaves(case: Case, output: Tensor, output_gradient: Tensor) -> dict[str, Tensor]:
    output.backward(output_gradient.to(output.dtype))
    return {name: x for name in NAMES if (x := getattr(case, name)) is not None and x.requires_grad}


def scales(case: Case, visible: Tensor, output_gradient: Tensor) -> dict[str, float]:
    """The largest sum of the magnitudes of the terms of each gradient."""
    group = case.q.shape[1] // case.k.shape[1]
    k, v = (x.abs().repeat_interleave(group, dim=1) for x in (case.k, case.v))
    _, p, p_sink = dense(case, visible)
    scale = abs(case.q.shape[-1] ** -0.5 if case.scale is None else case.scale)
    dp = output_gradient.abs() @ v.mT
    delta = (p * dp).sum(dim=-1, keepdim=True)
    ds = scale * p * (dp + delta)

    def grouped(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, group)).sum(dim=2)

    found = {"q": ds @ k, "k": grouped(ds.mT @ case.q.abs()), "v": grouped(p.mT @ output_gradient.abs())}
    of_rows = p_sink * delta
    found["sinks"] = of_rows if case.sinks is not None and case.sinks.ndim == 3 else of_rows.sum(dim=(0, 2, 3))
    return {name: float(x.max()) for name, x in found.items()}


def check(case: Case, found: dict[str, Tensor], output_gradient: Tensor) -> None:
    wide = case.rounded(torch.float64)
    visible = torch.from_numpy(case.golden().visible)
    expected = autograd(wide, visible, output_gradient)
    plain = [autograd(case, visible, output_gradient, each) for each in range(rounding.EVALUATIONS)]
    magnitudes = scales(wide, visible, output_gradient)
    assert set(found) == set(expected)
    for name, value in expected.items():
        error = max(float((other[name].double() - value).abs().max()) for other in plain)
        bound = 2 * error + 4 * rounding._ulp(magnitudes[name], case.q.dtype)
        assert found[name].dtype == case.q.dtype
        assert found[name].shape == value.shape
        assert rounding.excess(found[name], value.numpy()) <= bound, f"gradient of {name}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@randomised(60)
@given(case=cases(probes=False))
def test_gradients_lie_as_near_to_float64_as_those_of_plain_attention(dtype: torch.dtype, case: Case) -> None:
    case = case.rounded(dtype)
    output_gradient = random(*case.q.shape[:3], case.v.shape[-1]).to(dtype).double()
    leaf = asking(case)
    attended = leaf.attend("cpu")
    found = leaves(leaf, attended.output, output_gradient)
    check(case, {name: x.grad for name, x in found.items() if x.grad is not None}, output_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@randomised(10)
@given(case=cases(long=True, probes=False))
def test_gradients_over_many_tiles_do_too(dtype: torch.dtype, case: Case) -> None:
    case = case.rounded(dtype)
    output_gradient = random(*case.q.shape[:3], case.v.shape[-1]).to(dtype)
    attended = case.attend("tiles")
    given = gradients(attended.map.operands, attended.output, attended.lse, output_gradient, Wanted(), tile_cells=1)
    found = {name: x for name in NAMES if (x := getattr(given, name)) is not None}
    check(case, found, output_gradient.double())


@randomised(40)
@given(case=cases(probes=False))
def test_gradients_in_float64_are_those_of_autograd(case: Case) -> None:
    gradient = random(*case.q.shape[:3], case.v.shape[-1])
    expected = autograd(case, torch.from_numpy(case.golden().visible), gradient)
    leaf = asking(case)
    for name, x in leaves(leaf, leaf.attend("cpu").output, gradient).items():
        torch.testing.assert_close(x.grad, expected[name], rtol=1e-9, atol=1e-11)


@randomised(15)
@given(case=cases(probes=False), names=st.sets(st.sampled_from(NAMES), min_size=1))
def test_only_those_that_ask_get_a_gradient_and_it_is_the_same_one(case: Case, names: set[str]) -> None:
    gradient = random(*case.q.shape[:3], case.v.shape[-1])
    whole, part = asking(case), asking(case, tuple(names))
    expected = leaves(whole, whole.attend("cpu").output, gradient)
    if all(getattr(case, name) is None for name in names):
        assert not part.attend("cpu").output.requires_grad
        return
    found = leaves(part, part.attend("cpu").output, gradient)
    assert set(found) == names & set(expected)
    for name, x in found.items():
        assert x.grad is not None
        assert torch.equal(x.grad, expected[name].grad)  # pyright: ignore[reportArgumentType]


def small(dtype: torch.dtype = torch.float64) -> Case:
    """Groups of heads, padding, a row without keys, sinks, a soft cap, ALiBi and a bias."""
    keep = torch.tensor([[True] * 6, [False, True, True, False, True, True]])
    return Case(
        q=random(2, 4, 5, 3, seed=1),
        k=random(2, 2, 6, 3, seed=2),
        v=random(2, 2, 6, 2, seed=3),
        mask=ik.Mask.causal(window=4, offset=0) & ik.Mask.from_padding(keep),
        sight=Sight(0, causal=True, windows=(4,), keeps=(keep.numpy(),)),
        softcap=1.5,
        sinks=random(4, seed=4),
        alibi=random(4, seed=5).abs(),
        bias=random(4, 5, 6, seed=6),
    ).rounded(dtype)


def edited() -> Case:
    """The same with a sink for each row, and edges cut by class."""
    values = random(1, 4, 5, 2, seed=8)
    values[:, 1::2, 2:, 1] = -torch.inf
    return replace(small(), sinks=random(2, 4, 5, seed=7), class_bias=ik.ClassBias(values, torch.arange(6) % 2))


@pytest.mark.parametrize("make", [small, edited])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_finite_differences_agree(backend: str, make: Callable[[], Case]) -> None:
    case = asking(make())
    given = [getattr(case, name) for name in NAMES]

    def output(*x: Tensor) -> Tensor:
        return replace(case, **dict(zip(NAMES, x, strict=True))).attend(backend).output

    assert torch.autograd.gradcheck(output, given)


def test_rows_without_keys_give_zero_gradients() -> None:
    case = asking(replace(small(), sinks=None))
    assert not small().golden().visible[1, :, 0].any()
    leaves(case, case.attend("cpu").output, random(2, 4, 5, 2))
    assert case.q.grad is not None
    assert case.q.grad[1, :, 0].abs().max() == 0
    assert all(bool(x.grad.isfinite().all()) for x in (case.q, case.k, case.v) if x.grad is not None)


def test_a_sink_of_minus_infinity_has_no_gradient_and_changes_none() -> None:
    case = asking(replace(small(), sinks=torch.full((4,), -torch.inf).double()))
    without = asking(replace(small(), sinks=None))
    for each in (case, without):
        leaves(each, each.attend("cpu").output, random(2, 4, 5, 2))
    assert case.sinks is not None
    assert case.sinks.grad is not None
    assert case.sinks.grad.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(case.q.grad, without.q.grad)
    torch.testing.assert_close(case.k.grad, without.k.grad)


@pytest.mark.parametrize("name", ["q", "k", "v", "output_gradient"])
def test_nan_shows_in_the_gradients(name: str) -> None:
    case, gradient = asking(small(torch.float32)), random(2, 4, 5, 2).float()
    broken = gradient if name == "output_gradient" else getattr(case, name)
    with torch.no_grad():
        broken[0, 1, 3, 1] = torch.nan
    leaves(case, case.attend("cpu").output, gradient)
    assert case.k.grad is not None
    assert case.k.grad[0].isnan().any()
    assert not case.k.grad[1].isnan().any()


def test_the_same_bits_come_run_after_run() -> None:
    gradient = random(2, 4, 5, 2)
    runs = [asking(small(torch.bfloat16)) for _ in range(3)]
    for case in runs:
        leaves(case, case.attend("cpu").output, gradient)
    for name in NAMES:
        first, *others = (getattr(case, name).grad for case in runs)
        assert all(torch.equal(first, other) for other in others)


def test_the_backward_pass_never_builds_the_map() -> None:
    t, width = 16_384, 8
    q, k, v = (random(1, 1, t, width, seed=seed).float().requires_grad_() for seed in (1, 2, 3))
    class_bias = ik.ClassBias(torch.zeros(t, 2), torch.arange(t) % 2)
    sinks = torch.zeros(1, 1, t, requires_grad=True)
    output = ik.attend(q, k, v, softcap=5.0, sinks=sinks, class_bias=class_bias).output
    gradient = torch.ones_like(output)
    with Allocations(q, k, v, output, gradient) as seen:
        output.backward(gradient)
    tile = 4 << 20
    assert tile <= seen.largest <= 3 * tile
    assert seen.peak <= 12 * tile < 4 * t * t / 20


def test_the_layout_of_inputs_and_gradients_does_not_matter() -> None:
    case = replace(small(), q=random(2, 5, 4, 3).transpose(1, 2), k=random(2, 6, 2, 3).transpose(1, 2))
    case = replace(case, v=random(2, 2, 2, 6).mT)
    apart, packed = asking(case), asking(replace(case, **{n: getattr(case, n).contiguous() for n in NAMES}))
    gradient = random(2, 5, 2, 4).permute(0, 3, 1, 2)
    assert not gradient.is_contiguous()
    assert not apart.q.is_contiguous()
    leaves(apart, apart.attend("cpu").output, gradient)
    leaves(packed, packed.attend("cpu").output, gradient.contiguous())
    for name in NAMES:
        torch.testing.assert_close(getattr(apart, name).grad, getattr(packed, name).grad, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_autocast_changes_neither_results_nor_gradients_nor_the_map(backend: str) -> None:
    plain, under = asking(small(torch.float32)), asking(small(torch.float32))
    gradient = random(2, 4, 5, 2)
    expected = plain.attend(backend, probes=(ik.Entropy(),))
    leaves(plain, expected.output, gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = under.attend(backend, probes=(ik.Entropy(),))
        leaves(under, found.output, gradient)
        x = found.map.matmul(random(6, 1))
    assert torch.equal(found.output, expected.output)
    assert torch.equal(found.stats["entropy"], expected.stats["entropy"])
    assert torch.equal(x, expected.map.matmul(random(6, 1)))
    for name in NAMES:
        assert torch.equal(getattr(under, name).grad, getattr(plain, name).grad)
