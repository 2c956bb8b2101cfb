"""Attention whose output carries gradients, outside of torch.compile: one autograd function over any backend."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from interp_kernels import backends
from interp_kernels.gradient import Wanted, gradients
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe

GIVEN_TO_FUNCTION = ("q", "k", "v", "sinks")
OF_OPERANDS = ("alibi", "bias", "relative_bias", "class_values", "classes")
OF_MASK = ("keep", "documents")
"""The tensors of the operands, by field: the backward pass reads all of them."""


def run_with_gradients(
    backend: str, ops: Operands, probes: tuple[Probe, ...]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the backend of that name gives, with gradients from the output to q, k, v and the sinks where these ask for them.

    For the backward pass it keeps q, k, v, the output and the log-sum-exp: O(T) memory; and refers to the mask and the biases,
    whose change before that pass is an error of torch's. The log-sum-exp and the statistics carry no gradient, and there
    are no second derivatives.
    """
    return _Attention.apply(ops.q, ops.k, ops.v, ops.sinks, backend, ops, probes)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        backend: str,
        ops: Operands,
        probes: tuple[Probe, ...],
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        output, lse, stats = backends.run(backend, ops, probes)
        # torch may move, recompute or check what it keeps. It cannot keep what was made in inference mode.
        of_operands = {name: getattr(ops, name) for name in OF_OPERANDS}
        of_mask = {name: getattr(ops.mask, name) for name in OF_MASK}
        ctx.of_operands, ctx.of_mask = (
            [name for name, x in given.items() if _is_kept(x)] for given in (of_operands, of_mask)
        )
        kept = [*(of_operands[name] for name in ctx.of_operands), *(of_mask[name] for name in ctx.of_mask)]
        ctx.save_for_backward(q, k, v, sinks, output, lse, *kept)
        ctx.mark_non_differentiable(lse)
        ctx.mask = replace(ops.mask, **dict.fromkeys(ctx.of_mask))
        left = {f.name for f in fields(ops)} - {*GIVEN_TO_FUNCTION, "mask", *ctx.of_operands}
        ctx.settings = {name: getattr(ops, name) for name in left}
        return output, lse, stats

    @staticmethod
    def backward(ctx: Any, *given_gradients: Any) -> tuple[Tensor | None, ...]:
        output_gradient = given_gradients[0]
        q, k, v, sinks, output, lse, *kept = ctx.saved_tensors
        of_operands = dict(zip(ctx.of_operands, kept, strict=False))
        mask = replace(ctx.mask, **dict(zip(ctx.of_mask, kept[len(of_operands) :], strict=True)))
        ops = Operands(q=q, k=k, v=v, sinks=sinks, mask=mask, **of_operands, **ctx.settings)
        given = gradients(ops, output, lse, output_gradient, Wanted(*ctx.needs_input_grad[:4]))
        results: list[Tensor | None] = [given.q, given.k, given.v, given.sinks]
        if torch.is_grad_enabled():
            results = [x if x is None else _Once.apply(x, q, k, v, sinks, output_gradient) for x in results]
        return *results, None, None, None


def _is_kept(x: Tensor | None) -> bool:
    return x is not None and not x.is_inference()


class _Once(torch.autograd.Function):
    """A gradient that depends on ``sources``, and says so to whoever differentiates it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("attend has no second derivatives: its gradients cannot be differentiated again")
