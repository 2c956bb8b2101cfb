"""A sink for each row: what it equals where it is one for all, what it leaves where it is -inf, in every backend."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import interp_kernels as ik
from tests.kernels.cases import Case
from tests.kernels.test_class_bias import EVERYWHERE, HEADS, PROBES, T, call, check_same, normal


def asking(case: Case, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of sinks of this shape, and the output."""
    sinks = normal(HEADS, seed=5)[:, None].expand(HEADS, T) if len(shape) > 1 else normal(HEADS, seed=5)
    sinks = sinks.expand(shape).clone().requires_grad_()
    output = replace(case, sinks=sinks).attend("cpu", ()).output
    output.sin().sum().backward()
    assert sinks.grad is not None
    return sinks.grad, output.detach()


@pytest.mark.parametrize("backend", EVERYWHERE)
def test_equal_ones_are_the_sink_of_a_head(backend: str) -> None:
    of_heads = normal(HEADS, seed=5)
    of_rows = of_heads[:, None].expand(1, HEADS, T)
    check_same(call(sinks=of_rows).attend(backend), call(sinks=of_heads).attend("reference"))


@pytest.mark.parametrize("backend", EVERYWHERE)
def test_minus_infinity_is_none(backend: str) -> None:
    some = torch.arange(T) % 3 == 0
    sinks = torch.where(some, normal(1, HEADS, T), -math.inf)
    given = (sinks, None, sinks.nan_to_num(neginf=0.0))
    found, without, everywhere = (call(sinks=x, probes=PROBES[:2]).attend(backend) for x in given)
    for name in ("entropy", "peak"):
        torch.testing.assert_close(found.stats[name][..., ~some], without.stats[name][..., ~some])
        torch.testing.assert_close(found.stats[name][..., some], everywhere.stats[name][..., some])
    torch.testing.assert_close(found.output[:, :, ~some], without.output[:, :, ~some])
    torch.testing.assert_close(found.lse[..., ~some], without.lse[..., ~some])
    assert (found.lse > without.lse)[..., some].all()
    torch.testing.assert_close(found.map.rows([1])[0, :, 0].sum(-1), torch.ones(HEADS))


def test_their_gradients_are_the_terms_of_that_of_a_head() -> None:
    of_head, output = asking(call(), (HEADS,))
    of_rows, same = asking(call(), (1, HEADS, T))
    torch.testing.assert_close(output, same)
    assert of_rows.shape == (1, HEADS, T)
    assert (of_rows != 0).all()
    torch.testing.assert_close(of_rows.sum(dim=(0, 2)), of_head)


def test_one_of_minus_infinity_has_the_gradient_zero_also_in_a_row_that_sees_no_key() -> None:
    sinks = normal(1, HEADS, T)
    sinks[..., ::2] = -math.inf
    sinks.requires_grad_()
    case = call(sinks=sinks, mask=ik.Mask.causal(offset=-4))
    case.attend("cpu", PROBES[:1]).output.sin().sum().backward()
    assert sinks.grad is not None
    assert sinks.grad.isfinite().all()
    assert (sinks.grad[..., ::2] == 0).all()
    assert (sinks.grad[..., :4] == 0).all()
    assert (sinks.grad[..., 5::2] != 0).all()
