"""``attend`` as an operator of torch: torch's own checks of it, and the same results in a compiled function, in one graph."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask, library
from interp_kernels.results import value_shape

B, HQ, HKV, T, D, DV = 2, 4, 2, 7, 8, 6

COMPILERS = ("eager", "aot_eager")
"""Without a C++ compiler: dynamo alone, and dynamo with torch's tracing of the backward pass."""


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaves(queries: int = T, keys: int = T) -> list[Tensor]:
    """q, k, v and sinks that ask for gradients."""
    shapes = [(B, HQ, queries, D), (B, HKV, keys, D), (B, HKV, keys, DV), (HQ,)]
    return [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def keep(kind: torch.dtype = torch.bool) -> Tensor:
    return (torch.arange(T) >= torch.tensor([[2], [0]])).to(kind)


def every_probe() -> tuple[ik.Probe, ...]:
    labels = torch.arange(T) % 3
    return (
        ik.Entropy(),
        ik.Entropy(name="mean entropy", reduce="mean", queries=keep()),
        ik.Peak(),
        ik.Peak(name="mean peak", reduce="mean"),
        ik.TopK(2),
        ik.TopK(9, name="mean top", reduce="mean"),
        ik.KeyMass(random(T, 3).requires_grad_()),
        ik.LabelMatch(labels, labels.expand(B, T), strict=True),
        ik.OffsetMass((0, -1, 3)),
        ik.Distance(3),
        ik.DistanceHistogram((0, 1, 2, math.inf)),
        ik.DistanceHistogram((1, 4), name="mean histogram", reduce="mean"),
        ik.Received(torch.ones(B, T), normalize=True),
        ik.Pooled(3, "max"),
        ik.Pooled(2, name="pooled means"),
    )


PROBE_SETS = {
    "none": (),
    "rows": every_probe()[:6],
    "columns": (ik.Received(), ik.Pooled(4)),
    # Keys that nobody sees receive NaN when it is normalised, and opcheck takes no NaN for equal.
    "all": tuple(probe for probe in every_probe() if not isinstance(probe, ik.Received)),
}
CALLS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window and padding": {"mask": Mask.causal(window=3) & Mask.from_padding(keep())},
    "documents": {"mask": Mask.causal() & Mask.from_documents((torch.arange(T) // 3).expand(B, T))},
    "offset": {"mask": Mask.causal(offset=-2), "scale": -0.3},
    "features": {
        "mask": Mask.full(window=4),
        "softcap": 2.0,
        "alibi": torch.ones(HQ),
        "bias": random(HQ, 2 * T - 1),
    },
    "cut edges": {
        "class_bias": ik.ClassBias(
            random(T, 2).masked_fill(torch.arange(T)[:, None] > 4, -math.inf), torch.arange(T) % 2
        ),
        "bias": random(T, T),
    },
    "classes of each head": {
        "class_bias": ik.ClassBias(random(1, HQ, T, 3), (torch.arange(B * HQ * T) % 3).view(B, HQ, T)),
    },
    "bias that asks for a gradient": {"bias": random(T, T).requires_grad_()},
}


@pytest.mark.parametrize("probes", PROBE_SETS.values(), ids=PROBE_SETS)
@pytest.mark.parametrize("call", ["causal", "window and padding", "features", "cut edges"])
def test_torch_finds_no_fault_with_the_operator(call: str, probes: tuple[ik.Probe, ...]) -> None:
    q, k, v, sinks = leaves()
    if call == "cut edges":
        sinks = random(B, HQ, T).requires_grad_()
    ops = ik.attend(q, k, v, **CALLS[call]).map.operands
    for asks in (replace(ops, q=q, k=k, v=v, sinks=sinks), replace(ops, k=k), ops):
        torch.library.opcheck(library.attend, library.arguments("cpu", asks, probes))


@pytest.mark.parametrize("wanted", [(True, True, True, True), (False, True, False, False), (False, False, False, True)])
@pytest.mark.parametrize("call", ["features", "cut edges"])
def test_torch_finds_no_fault_with_the_backward_operator(call: str, wanted: tuple[bool, ...]) -> None:
    q, k, v, sinks = (x.detach() for x in leaves())
    sinks = random(B, HQ, T) if call == "cut edges" else sinks
    attended = ik.attend(q, k, v, sinks=sinks, **CALLS[call])
    given = library.arguments("cpu", attended.map.operands, ())
    described, numbers = given[4:7], given[10:13]
    gradient = random(B, HQ, T, DV)
    arguments = (gradient, q, k, v, sinks, *described, attended.output, attended.lse, *numbers, wanted)
    torch.library.opcheck(library.attend_backward, arguments)


def test_the_stated_shapes_are_those_of_the_values() -> None:
    q, k, v, _ = leaves()
    probes = every_probe()
    stats = ik.attend(q, k, v, probes=probes).stats
    for probe in probes:
        for label in probe.labels:
            assert value_shape(probe, B, HQ, T, T) == stats[label].shape


def results(attended: ik.Attended) -> dict[str, Tensor]:
    return {"output": attended.output, "lse": attended.lse, **attended.stats}


def check_compiled(function: Callable[..., ik.Attended], compiler: str, given: list[Any]) -> None:
    """Compiled, the function gives the same bits: results and gradients."""
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    expected, found = function(*given), compiled(*given)
    assert results(found).keys() == results(expected).keys()
    for name, value in results(found).items():
        torch.testing.assert_close(value, results(expected)[name], rtol=0, atol=0, equal_nan=True)
        assert value.requires_grad == (name == "output")
    torch.testing.assert_close(found.map.dense(), expected.map.dense(), rtol=0, atol=0)
    asking = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
    wanted = torch.autograd.grad(expected.output.sin().sum(), asking, allow_unused=True)
    for got, want in zip(torch.autograd.grad(found.output.sin().sum(), asking, allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_compiled_function_gives_the_same_results_and_gradients(call: dict[str, Any], compiler: str) -> None:
    probes = every_probe()

    def function(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> ik.Attended:
        return ik.attend(q, k, v, sinks=sinks, probes=probes, **call)

    check_compiled(function, compiler, leaves())


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_sink_for_each_row_and_a_bias_by_class_may_be_made_in_the_graph(compiler: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor, ids: Tensor) -> ik.Attended:
        cut = ik.ClassBias(torch.stack([ids * 0.0, ids * -1.0], dim=-1), (ids > 2).int())
        return ik.attend(q, k, v, sinks=of_rows * 2, class_bias=cut, probes=[ik.Entropy(), ik.Received()])

    of_rows = random(B, HQ, T, seed=9).masked_fill(torch.arange(T) == 3, -math.inf).requires_grad_()
    check_compiled(function, compiler, [*leaves()[:3], of_rows, torch.arange(T)])


@pytest.mark.parametrize("compiler", COMPILERS)
def test_masks_and_probes_may_be_made_in_the_graph(compiler: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, ids: Tensor) -> ik.Attended:
        mask = (
            Mask.from_padding(kept) & Mask.from_documents(ids) & Mask.from_documents(ids // 2) & Mask.causal(window=5)
        )
        probes = [ik.Entropy(queries=kept.bool()), ik.LabelMatch(ids[0], ids, name="same"), ik.OffsetMass((1,))]
        return ik.attend(q * 2, k, v, mask=mask.with_offset(0), probes=probes)

    check_compiled(function, compiler, [*leaves()[:3], keep(torch.int64), (torch.arange(T) // 2).expand(B, T)])


def test_lengths_windows_offsets_and_scales_may_change_from_call_to_call() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> tuple[Tensor, ...]:
        probes = [ik.OffsetMass((window, 1)), ik.TopK(window), ik.Pooled(window), ik.DistanceHistogram((0, window))]
        attended = ik.attend(
            q, k, v, mask=Mask.causal(window, offset=window), scale=scale, softcap=scale, probes=probes
        )
        return attended.output, *attended.stats.values()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for length in (3, 4, 5, 9):
        given = (*leaves(length, length + 2)[:3], length - 1, 0.5 * length)
        for found, expected in zip(compiled(*given), function(*given), strict=True):
            assert torch.equal(found, expected)


def test_nothing_asks_for_a_gradient_where_none_is_recorded() -> None:
    compiled = torch.compile(lambda *x: ik.attend(*x).output, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert not compiled(*leaves()[:3]).requires_grad
    assert compiled(*leaves()[:3]).requires_grad


def test_a_predicate_is_refused_in_a_graph_and_taken_outside_of_one() -> None:
    mask = Mask.from_predicate(lambda batch, i, j: (j <= i) & (batch >= 0))
    given = [x.detach() for x in leaves()[:3]]
    compiled = torch.compile(lambda *x: ik.attend(*x, mask=mask).output, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"mask: a predicate is a Python function, which torch\.compile cannot take"):
        compiled(*given)
    outside = torch.compiler.disable(ik.attend)
    broken = torch.compile(lambda *x: outside(*x, mask=mask).output + 1, backend="eager")
    torch.testing.assert_close(broken(*given), ik.attend(*given).output + 1)


def test_a_bad_argument_is_named_in_a_compiled_function_too() -> None:
    q, k, v = (x.detach() for x in leaves()[:3])
    compiled = torch.compile(
        lambda *x: ik.attend(*x, probes=[ik.KeyMass(torch.ones(3, 1))]), fullgraph=True, backend="eager"
    )
    message = "KeyMass.weights: expected a tensor of shape [7, C] or [2, 7, C] or [2, 4, 7, C], got torch.float32 of shape [3, 1]"
    with pytest.raises(Exception, match=re.escape(message)):
        compiled(q, k, v)


def test_a_second_derivative_is_refused_in_the_operator() -> None:
    q, k, v, _ = leaves()
    given = library.arguments("cpu", replace(ik.attend(q, k, v).map.operands, q=q), ())
    (found,) = torch.autograd.grad(library.attend(*given)[0].sin().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        found.sum().backward()


@pytest.mark.parametrize("given", [2, -1, 10**6])
def test_a_class_without_values_is_refused_when_the_graph_runs(given: int) -> None:
    """Else a compiled sweep would read it from beyond the end of the values."""

    def function(q: Tensor, k: Tensor, v: Tensor, classes: Tensor) -> Tensor:
        return ik.attend(q, k, v, class_bias=ik.ClassBias(torch.ones(T, 2), classes)).output

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    q, k, v = (x.detach() for x in leaves()[:3])
    classes = torch.arange(T) % 2
    assert torch.equal(compiled(q, k, v, classes), function(q, k, v, classes))
    with pytest.raises(
        ValueError, match=rf"^class_bias\.classes: expected integers from 0 to 1, .*; got integers from .*{given}"
    ):
        compiled(q, k, v, classes.masked_fill(classes == 1, given))


@pytest.mark.parametrize("sinks", [(HQ,), (B, HQ, T)])
@pytest.mark.parametrize("bias", [(HQ, 2 * T - 1), (B, 1, T, T)])
def test_lengths_may_be_unknown_whatever_is_in_the_call(sinks: tuple[int, ...], bias: tuple[int, ...]) -> None:
    probes = every_probe()

    def function(
        q: Tensor, k: Tensor, v: Tensor, given: Tensor, alibi: Tensor, added: Tensor, x: Tensor
    ) -> ik.Attended:
        cut = ik.ClassBias(x, torch.arange(x.shape[2]) % 2)
        mask = Mask.causal() & Mask.from_padding(keep())
        return ik.attend(
            q, k, v, mask=mask, sinks=given, alibi=alibi, bias=added, class_bias=cut, probes=probes, softcap=5.0
        )

    given = [*leaves()[:3], random(*sinks).requires_grad_(), random(HQ).abs(), random(*bias), random(B, HQ, T, 2)]
    expected = function(*given)
    found = torch.compile(function, fullgraph=True, backend="eager", dynamic=True)(*given)
    for name, value in results(expected).items():
        torch.testing.assert_close(results(found)[name], value, rtol=0, atol=0, equal_nan=True)
