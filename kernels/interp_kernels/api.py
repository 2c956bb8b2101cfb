"""The one entrance: arguments are checked here and nowhere else, then handed to a backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp_kernels import backends
from interp_kernels import probes as P
from interp_kernels.arguments import checked_operands
from interp_kernels.backends import BACKENDS, triton
from interp_kernels.class_bias import ClassBias
from interp_kernels.differentiable import run_with_gradients
from interp_kernels.library import run_in_graph
from interp_kernels.map import AttentionMap
from interp_kernels.mask import Mask
from interp_kernels.operands import Operands
from interp_kernels.probe_arguments import fitting_probe
from interp_kernels.tensors import describe

Backend = Literal["auto", "reference", "cpu", "triton"]

CAUSAL = Mask.causal()


@dataclass(frozen=True, eq=False)
class Attended:
    """What ``attend`` returns.

    output  [B, Hq, Tq, Dv], in the dtype of v; carries gradients to q, k, v and the sinks
    lse     [B, Hq, Tq], natural log of the sum of exponentials, sink logits included; -inf for a row that sees no key.
            float32 (float64 for float64 inputs); carries no gradient
    stats   {probe name: value}, see each probe; they carry no gradient
    map     the lazy map; it refers to q, k and v, not to the T x T map, and to no graph of theirs
    backend which one ran: "reference", "cpu" or "triton"
    """

    output: Tensor
    lse: Tensor
    stats: dict[str, Tensor]
    map: AttentionMap
    backend: str


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask = CAUSAL,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi: Tensor | None = None,
    bias: Tensor | None = None,
    class_bias: ClassBias | None = None,
    probes: Sequence[P.Probe] = (),
    backend: Backend = "auto",
) -> Attended:
    """Attention that also measures declared statistics of its map, without building the map.

        s_ij = softcap(scale q_i . k_j) - slope_h |i - j| + bias_ij + values_i,class(j),     softcap(x) = c tanh(x / c)
        P_ij = exp(s_ij) / (sum_j exp(s_ij) + exp(sink_h)) over the keys that the mask lets i see
        output_i = sum_j P_ij v_j

    Args:
        q: [B, Hq, Tq, D]; k: [B, Hkv, Tk, D]; v: [B, Hkv, Tk, Dv], of one dtype (float16, bfloat16, float32 or float64)
            and device. Hq is a multiple of Hkv; query head h reads KV head h // (Hq / Hkv). Sums are in float32
            (float64 for float64 inputs).
        mask: who sees whom.
        scale: default 1 / sqrt(D).
        softcap: c of the soft cap of Gemma 2 (arXiv 2408.00118), above 0.
        sinks: [Hq] learned sink logits as in gpt-oss: they take mass, so rows sum to less than 1. Or [B, Hq, Tq], one for
            each row. A sink of -inf is none.
        alibi: [Hq] slopes of ALiBi (arXiv 2108.12409).
        bias: floating, broadcastable to [B, Hq, Tq, Tk], or a relative bias [Hq, Tq + Tk - 1] whose entry
            (key index - query index) + Tq - 1 is added. A bias of -inf hides the key, and so does any below -4.3e37,
            since libraries write the least float32 or bfloat16 for it.
        class_bias: a bias by query and class of the key (``ClassBias``), in O(T) memory; it is added to ``bias`` where both
            are given, and hides keys as that does.
        probes: what to measure; names must differ.
        backend: "reference" (dense, O(T^2) memory, the definition), "cpu" (tiled, O(T) memory, on any device) or "triton"
            (GPU kernels, O(T) memory). "auto" takes "triton" for tensors on a CUDA device where it can serve the call, and
            "cpu" otherwise; a backend asked for by name never falls back on another.

    A row that sees no key has output 0, log-sum-exp -inf (or its sink), entropy 0 and peak 0 with index -1.

    Gradients flow from the output to those of q, k, v and sinks that ask for one, in O(T) memory with "cpu" and "triton"; not
    to alibi, bias and class_bias, and not from the log-sum-exp and the statistics. There are no second derivatives. A row
    that sees no key gives zero gradients.

    Under torch.compile, with fullgraph=True too, it is one operator of torch (interp_kernels::attend), whatever the mask
    and the probes; a mask's predicate, being a Python function, is refused there.

    Raises:
        ValueError: an argument does not fit; the message names it, what was expected and what came.
    """
    ops = checked_operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, class_bias)
    if not isinstance(probes, Iterable) or hasattr(probes, "ndim"):
        raise ValueError(f"probes: expected a sequence of probes, got {describe(probes)}")
    chosen = tuple(fitting_probe(probe, ops) for probe in probes)
    labels = [label for probe in chosen for label in probe.labels]
    if len(set(labels)) < len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise ValueError(f"probes: names must differ, {twice} come twice; give each its own name=")
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: expected one of {['auto', *BACKENDS]}, got {describe(backend)}")
    name = _chosen_backend(backend, ops, chosen)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        output, lse, stats = run_in_graph(name, ops, chosen)
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, sinks)):
        output, lse, stats = run_with_gradients(name, ops, chosen)
    else:
        with torch.no_grad():
            output, lse, stats = backends.run(name, ops, chosen)
    return Attended(output, lse, stats, AttentionMap(ops.detached(), lse), name)


def _chosen_backend(backend: str, ops: Operands, probes: tuple[P.Probe, ...]) -> str:
    if backend == "triton" or (backend == "auto" and ops.q.is_cuda):
        refused = triton.refusal(ops, probes)
        if refused is None:
            return "triton"
        if backend == "triton":
            raise ValueError(f"backend: {refused}")
    return "cpu" if backend == "auto" else backend
