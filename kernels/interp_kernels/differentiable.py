"""Attention whose output carries gradients, outside of torch.compile: one autograd function over any backend."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from interp_kernels import backends
from interp_kernels.gradient import Wanted, gradients
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe


def run_with_gradients(
    backend: str, ops: Operands, probes: tuple[Probe, ...]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the backend of that name gives, with gradients from the output to q, k, v and the sinks where these ask for them.

    For the backward pass it keeps q, k, v, the output and the log-sum-exp: O(T) memory. The log-sum-exp and the
    statistics carry no gradient, and there are no second derivatives.
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
        ctx.save_for_backward(q, k, v, sinks, output, lse)
        ctx.mark_non_differentiable(lse)
        # Not q, k, v and the sinks: torch keeps those, and may move or recompute them.
        ctx.settings = {f.name: getattr(ops, f.name) for f in fields(ops) if f.name not in ("q", "k", "v", "sinks")}
        return output, lse, stats

    @staticmethod
    def backward(ctx: Any, *given_gradients: Any) -> tuple[Tensor | None, ...]:
        output_gradient = given_gradients[0]
        q, k, v, sinks, output, lse = ctx.saved_tensors
        ops = Operands(q=q, k=k, v=v, sinks=sinks, **ctx.settings)
        given = gradients(ops, output, lse, output_gradient, Wanted(*ctx.needs_input_grad[:4]))
        results: list[Tensor | None] = [given.q, given.k, given.v, given.sinks]
        if torch.is_grad_enabled():
            results = [x if x is None else _Once.apply(x, q, k, v, sinks, output_gradient) for x in results]
        return *results, None, None, None


class _Once(torch.autograd.Function):
    """A gradient that depends on ``sources``, and says so to whoever differentiates it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("attend has no second derivatives: its gradients cannot be differentiated again")
