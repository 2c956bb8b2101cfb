"""A bias by class of the key: what it equals, what it hides, and that nothing but the scores changes, in every backend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import ClassBias, Mask
from tests.kernels.cases import BACKENDS, Case
from tests.kernels.on_device import needs_triton
from tests.kernels.oracle import Sight

T, HEADS = 150, 2
"""Over two key tiles of the smallest tiles."""

EVERYWHERE = [*BACKENDS, pytest.param("triton", marks=needs_triton)]

PROBES = (
    ik.Entropy(),
    ik.Peak(),
    ik.TopK(2),
    ik.OffsetMass((0, 1), reduce="mean"),
    ik.Received(normalize=True),
    ik.Pooled(16),
    ik.Pooled(40, "max", name="pooled_max"),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes_of(count: int, *leading: int) -> Tensor:
    return torch.randint(0, count, (*leading, T), generator=torch.Generator().manual_seed(7))


def call(mask: Mask | None = None, probes: tuple[ik.Probe, ...] = PROBES, **features: Any) -> Case:
    """Two query heads on one KV head. What is asked here wants no ``Sight``: the oracle has its own tests."""
    q, k, v = normal(1, HEADS, T, 8), normal(1, 1, T, 8, seed=1), normal(1, 1, T, 4, seed=2)
    return Case(q, k, v, mask or Mask.causal(), Sight(0, causal=True), probes=probes, **features)


def check_same(found: ik.Attended, expected: ik.Attended) -> None:
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.lse, expected.lse)
    for name, value in expected.stats.items():
        torch.testing.assert_close(
            found.stats[name], value, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("leading", [(), (1, HEADS)], ids=["shared classes", "classes of each head"])
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_it_adds_what_the_dense_bias_that_it_stands_for_adds(backend: str, leading: tuple[int, ...]) -> None:
    values, bias = 2 * normal(1, HEADS, T, 3, seed=3), normal(HEADS, 2 * T - 1, seed=4)
    case = call(class_bias=ClassBias(values, classes_of(3, *leading)), bias=bias)
    i, j = torch.arange(T)[:, None], torch.arange(T)
    dense = bias[:, j - i + T - 1] + case.added_by_class()
    assert dense.std() > 2
    check_same(case.attend(backend), call(bias=dense).attend("reference"))


@pytest.mark.parametrize(
    ("backend", "value"),
    [
        *((backend, -math.inf) for backend in BACKENDS),
        *((backend, torch.finfo(torch.float32).min) for backend in BACKENDS),
        pytest.param("triton", torch.finfo(torch.bfloat16).min, marks=needs_triton),
    ],
)
def test_a_hiding_class_is_cut_as_a_mask_cuts_it(backend: str, value: float) -> None:
    classes = classes_of(2)
    chosen = torch.rand(T, generator=torch.Generator().manual_seed(5)) < 0.5
    values = torch.zeros(T, 2)
    values[chosen, 1] = value
    values[33] = value  # this row sees nothing
    sees_nothing = torch.arange(T) == 33
    mask = Mask.causal() & Mask.from_predicate(lambda _, i, j: ~((chosen[i] & (classes[j] == 1)) | sees_nothing[i]))
    found = call(class_bias=ClassBias(values, classes)).attend(backend)
    check_same(found, call(mask=mask).attend("reference"))
    i, j = torch.arange(T)[:, None], torch.arange(T)
    cut = chosen[:, None] & (classes == 1) & (j <= i)
    assert cut.sum() > T
    assert (found.map.dense()[0, :, cut] == 0).all()
    assert found.lse[0, 0, 33] == -math.inf
    assert (found.output[0, :, 33] == 0).all()
    assert (found.stats["entropy"][0, :, 33] == 0).all()
    assert (found.stats["peak_index"][0, :, 33] == -1).all()


@pytest.mark.parametrize("backend", EVERYWHERE)
def test_a_row_whose_every_class_is_hidden_leaves_all_mass_to_its_sink(backend: str) -> None:
    values = torch.zeros(T, 2)
    values[[40, 41]] = -math.inf
    sinks = torch.zeros(1, HEADS, T)
    sinks[..., 41] = -math.inf
    found = call(class_bias=ClassBias(values, classes_of(2)), sinks=sinks).attend(backend)
    assert found.lse[0, :, 40].tolist() == [0.0] * HEADS
    assert found.lse[0, :, 41].tolist() == [-math.inf] * HEADS
    for row in (40, 41):
        assert (found.output[0, :, row] == 0).all()
        assert (found.stats["entropy"][0, :, row] == 0).all()
        assert (found.stats["peak"][0, :, row] == 0).all()
        assert (found.stats["top_k_index"][0, :, row] == -1).all()
    assert found.map.rows([40, 41]).abs().sum() == 0
    assert not any(x.isnan().any() for x in (found.output, found.lse, found.stats["received"], found.stats["pooled"]))


@pytest.mark.parametrize("backend", EVERYWHERE)
def test_one_class_shifts_every_score_of_a_row_and_no_probability(backend: str) -> None:
    values = 3 * normal(T, 1)
    found = call(class_bias=ClassBias(values, torch.zeros(T, dtype=torch.uint8)), probes=PROBES[:2]).attend(backend)
    plain = call(probes=PROBES[:2]).attend("reference")
    torch.testing.assert_close(found.output, plain.output)
    torch.testing.assert_close(found.lse, plain.lse + values[:, 0])
    torch.testing.assert_close(found.stats["entropy"], plain.stats["entropy"])


# Of numpy, by which the interpreter takes a maximum.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_a_value_of_nan_shows_in_its_row(backend: str) -> None:
    values = torch.zeros(T, 2)
    values[60, 1] = math.nan
    found = call(class_bias=ClassBias(values, classes_of(2)), probes=PROBES[:1]).attend(backend)
    is_nan = torch.arange(T) == 60
    assert found.lse.isnan().tolist() == [[is_nan.tolist()] * HEADS]
    assert found.stats["entropy"].isnan().tolist() == [[is_nan.tolist()] * HEADS]
    assert found.output.isnan().any(-1).tolist() == [[is_nan.tolist()] * HEADS]


@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_sums_over_queries_leave_out_hidden_keys_where_all_others_are_open(backend: str) -> None:
    """Keys and queries far from the diagonal, whose tiles a causal mask leaves whole."""
    values = torch.zeros(T, 2)
    values[100:, 1] = -math.inf
    classes = (torch.arange(T) % 5 == 0).long()
    stats = call(class_bias=ClassBias(values, classes)).attend(backend).stats
    sums = call(class_bias=ClassBias(values, classes), probes=(ik.Received(),)).attend("reference").stats["received"]
    seen_by = torch.tensor([max(0, (100 if j % 5 == 0 else T) - j) for j in range(T)])
    torch.testing.assert_close(stats["received"], sums / seen_by, equal_nan=True)
    assert stats["received"][..., 105].isnan().all()


@pytest.mark.parametrize("asking", ["values", "values and q"])
def test_values_that_ask_for_a_gradient_are_taken_and_get_none(asking: str) -> None:
    values = normal(T, 2).requires_grad_()
    case = call(class_bias=ClassBias(values, classes_of(2)))
    if asking == "values":
        assert not case.attend("cpu").output.requires_grad
        return
    case.q.requires_grad_()
    attended = case.attend("cpu")
    attended.output.sum().backward()
    assert values.grad is None
    assert case.q.grad is not None
    held = attended.map.operands.class_values
    assert held is not None
    assert not held.requires_grad


def test_the_map_of_one_head_takes_that_heads_values_and_classes() -> None:
    values = normal(2, HEADS, T, 3)
    shape = (2, HEADS, T)
    classes = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1))
    one = call()
    q, k, v = (x.repeat(2, 1, 1, 1) for x in (one.q, one.k, one.v))
    lazy = ik.attend(q, k, v, sinks=normal(*shape), class_bias=ClassBias(values, classes)).map
    whole = lazy.dense()
    for b, h in ((0, 1), (1, 0), (1, 1)):
        torch.testing.assert_close(lazy.head(b, h).dense()[0, 0], whole[b, h])
        gradient = normal(2, HEADS, T, 4)
        weighted = lazy.weighted_by(gradient)
        torch.testing.assert_close(weighted.head(b, h).dense()[0, 0], weighted.dense()[b, h])
