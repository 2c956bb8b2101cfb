"""Attention as operators of torch, so that torch.compile(fullgraph=True) keeps it in one graph, forward and backward.

    interp_kernels::attend            -> [output, log-sum-exp, every probe's value (and index)]
    interp_kernels::attend_backward   -> the gradients of those of q, k, v and the sinks that ask for one, in this order

Outside of a compiled function ``attend`` does not go through them, since crossing into an operator costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_kernels import backends
from interp_kernels.arguments import check_classes
from interp_kernels.description import Described, describe_map, describe_probes, read_map, read_probes
from interp_kernels.gradient import Wanted, gradients
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe
from interp_kernels.results import value_shape


def run_in_graph(backend: str, ops: Operands, probes: tuple[Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the backend of that name gives, as one node of the graph that torch.compile traces. Carries gradients."""
    output, lse, *values = attend(*arguments(backend, ops, probes))
    labels = [label for probe in probes for label in probe.labels]
    return output, lse, dict(zip(labels, values, strict=True))


def arguments(backend: str, ops: Operands, probes: tuple[Probe, ...]) -> tuple[Any, ...]:
    """The arguments of the operator below that stand for these."""
    of_map, of_probes = describe_map(ops), describe_probes(probes)
    # No gradients reach the tensors of masks, biases and probes; asking for one, they would make every result ask for it.
    map_tensors, probe_tensors = ([x.detach() for x in each.tensors] for each in (of_map, of_probes))
    described = (of_map.text, map_tensors, of_map.integers, of_probes.text, probe_tensors, of_probes.integers)
    return ops.q, ops.k, ops.v, ops.sinks, *described, ops.scale, ops.softcap, ops.mask.offset, backend


@torch.library.custom_op("interp_kernels::attend", mutates_args=())
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    map_text: str,
    map_tensors: Sequence[Tensor],
    map_integers: Sequence[int],
    probe_text: str,
    probe_tensors: Sequence[Tensor],
    probe_integers: Sequence[int],
    scale: float,
    softcap: float | None,
    offset: int | None,
    backend: str,
) -> list[Tensor]:
    """``interp_kernels.attend`` of checked arguments; see ``description`` for the strings."""
    ops = read_map(Described(map_text, list(map_tensors), list(map_integers)), q, k, v, sinks, scale, softcap, offset)
    probes = read_probes(Described(probe_text, list(probe_tensors), list(probe_integers)))
    if ops.class_values is not None and ops.classes is not None:
        check_classes(ops.class_values, ops.classes)
    output, lse, stats = backends.run(backend, ops, probes)
    return [x.contiguous() for x in (output, lse, *(stats[label] for probe in probes for label in probe.labels))]


@attend.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    map_text: str,
    map_tensors: Sequence[Tensor],
    map_integers: Sequence[int],
    probe_text: str,
    probe_tensors: Sequence[Tensor],
    probe_integers: Sequence[int],
    scale: float,
    softcap: float | None,
    offset: int | None,
    backend: str,
) -> list[Tensor]:
    ops = read_map(Described(map_text, list(map_tensors), list(map_integers)), q, k, v, sinks, scale, softcap, offset)
    sizes = (ops.batch, ops.heads, ops.queries, ops.keys)
    results = [v.new_empty(*sizes[:3], v.shape[-1]), v.new_empty(sizes[:3], dtype=ops.compute_dtype)]
    for probe in read_probes(Described(probe_text, list(probe_tensors), list(probe_integers))):
        dtypes = (ops.compute_dtype, torch.int64)[: len(probe.labels)]
        results += [v.new_empty(value_shape(probe, *sizes), dtype=dtype) for dtype in dtypes]
    return results


@torch.library.custom_op("interp_kernels::attend_backward", mutates_args=())
def attend_backward(
    output_gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    map_text: str,
    map_tensors: Sequence[Tensor],
    map_integers: Sequence[int],
    output: Tensor,
    lse: Tensor,
    scale: float,
    softcap: float | None,
    offset: int | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of a scalar, given that of the output; see ``gradient``."""
    ops = read_map(Described(map_text, list(map_tensors), list(map_integers)), q, k, v, sinks, scale, softcap, offset)
    given = gradients(ops, output, lse, output_gradient, Wanted(*wanted))
    return [x for x in (given.q, given.k, given.v, given.sinks) if x is not None]


@attend_backward.register_fake
def _(
    output_gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    map_text: str,
    map_tensors: Sequence[Tensor],
    map_integers: Sequence[int],
    output: Tensor,
    lse: Tensor,
    scale: float,
    softcap: float | None,
    offset: int | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, ask in zip((q, k, v, sinks), wanted, strict=True) if ask and x is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, sinks, map_text, map_tensors, map_integers, _, probe_tensors, probe_integers, *numbers, _ = inputs
    ctx.save_for_backward(q, k, v, sinks, output[0], output[1], *map_tensors)
    ctx.mark_non_differentiable(*output[1:])
    ctx.map_text, ctx.map_integers, ctx.numbers = map_text, map_integers, numbers
    # torch wants a list of None for a list of tensors, and takes an empty list of integers for one of tensors.
    ctx.lists = [[None] * len(x) for x in (map_tensors, probe_tensors)]
    ctx.lists += [None if x else [] for x in (map_integers, probe_integers)]


def _backward(ctx: Any, given_gradients: list[Tensor]) -> tuple[Any, ...]:
    q, k, v, sinks, output, lse, *map_tensors = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:4])
    of_map = (ctx.map_text, map_tensors, ctx.map_integers)
    found = iter(attend_backward(given_gradients[0], q, k, v, sinks, *of_map, output, lse, *ctx.numbers, wanted))
    tensors = [next(found) if ask else None for ask in wanted]
    map_tensors, probe_tensors, map_integers, probe_integers = ctx.lists
    return *tensors, None, map_tensors, map_integers, None, probe_tensors, probe_integers, None, None, None, None


attend.register_autograd(_backward, setup_context=_keep)
