"""The one entrance: arguments are checked here and nowhere else, then handed to a backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from interp_kernels import backends
from interp_kernels import probes as P
from interp_kernels.backends import BACKENDS, triton
from interp_kernels.class_bias import ClassBias
from interp_kernels.differentiable import run_with_gradients
from interp_kernels.integers import whole, whole_numbers
from interp_kernels.library import run_in_graph
from interp_kernels.map import AttentionMap
from interp_kernels.mask import Mask, describe
from interp_kernels.operands import Operands

Backend = Literal["auto", "reference", "cpu", "triton"]

CAUSAL = Mask.causal()
PROBES = (
    P.Entropy,
    P.Peak,
    P.TopK,
    P.KeyMass,
    P.LabelMatch,
    P.OffsetMass,
    P.Distance,
    P.DistanceHistogram,
    P.Received,
    P.Pooled,
)
TENSORS_OF: dict[type[P.Probe], tuple[tuple[str, bool], ...]] = {
    P.KeyMass: (("weights", False),),
    P.LabelMatch: (("query_labels", False), ("key_labels", False)),
    P.Received: (("weights", True),),
}
"""The tensors of each probe, by field, and whether it does without."""
LARGEST = 1 << 62
"""Of distances: what int64 holds, with room to count on."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    ops = _operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, class_bias)
    chosen = tuple(_fitting_probe(probe, ops) for probe in probes)
    labels = [label for probe in chosen for label in probe.labels]
    if len(set(labels)) < len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise ValueError(f"probes: names must differ, {twice} come twice; give each its own name=")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: expected one of {['auto', *BACKENDS]}, got {backend!r}")
    name = _chosen_backend(backend, ops, chosen)
    if torch.compiler.is_compiling():
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


def _operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, class_bias) -> Operands:
    _check_projections(q, k, v)
    b, heads, queries, width = q.shape
    keys = k.shape[2]
    scale = _checked_number("scale", 1 / math.sqrt(width) if scale is None else scale)
    if softcap is not None and (softcap := _checked_number("softcap", softcap)) <= 0:
        raise ValueError(f"softcap: expected a number above 0, got {softcap}")
    for name, x, shapes in (("sinks", sinks, [(heads,), (b, heads, queries)]), ("alibi", alibi, [(heads,)])):
        if x is not None:
            _check_tensor(name, x, shapes, q.device)
    relative = values = classes = None
    if bias is not None:
        bias, relative = _checked_bias(bias, b, heads, queries, keys, q)
    if class_bias is not None:
        values, classes = _checked_class_bias(class_bias, b, heads, queries, keys, q)
    _check_mask(mask, b, queries, keys, q)
    return Operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, relative, values, classes)


def _check_projections(q, k, v) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.ndim != 4:
            raise ValueError(f"{name}: expected a tensor of 4 dimensions [B, H, T, D], got {describe(x)}")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name}: expected {q.dtype} on {q.device} as q, got {x.dtype} on {x.device}")
        if 0 in x.shape:
            raise ValueError(f"{name}: no dimension may be 0, got shape {list(x.shape)}")
    b, heads, _, width = q.shape
    kv_heads, keys = k.shape[1:3]
    if k.shape[0] != b or k.shape[3] != width:
        raise ValueError(f"k: expected [{b}, Hkv, Tk, {width}] to fit q {list(q.shape)}, got {list(k.shape)}")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: expected [{b}, {kv_heads}, {keys}, Dv] to fit k {list(k.shape)}, got {list(v.shape)}")
    if heads % kv_heads:
        raise ValueError(f"q, k: the {heads} query heads must be a multiple of the {kv_heads} KV heads")


def _check_mask(mask: Mask, b: int, queries: int, keys: int, q: Tensor) -> None:
    if not isinstance(mask, Mask):
        raise ValueError(f"mask: expected an interp_kernels.Mask, got {describe(mask)}")
    if mask.predicates and torch.compiler.is_compiling():
        raise ValueError(
            "mask: a predicate is a Python function, which torch.compile cannot take into its graph; build the mask from "
            "causal, full, from_padding and from_documents, or leave attend out of the graph with torch.compiler.disable"
        )
    offset = keys - queries if mask.offset is None else mask.offset
    if mask.keep is not None and (mask.keep.shape != (b, keys) or mask.keep.device != q.device):
        raise ValueError(f"mask.keep: expected shape [{b}, {keys}] on {q.device}, got {describe(mask.keep)}")
    if mask.documents is not None:
        positions = max(keys, offset + queries)
        if mask.documents.shape[0] != b or mask.documents.shape[1] < positions or offset < 0:
            raise ValueError(
                f"mask.documents: expected an id for each of the {positions} positions, [{b}, {positions}], with the first "
                f"query at 0 or later; got {list(mask.documents.shape)} and the first query at {offset}"
            )
        if mask.documents.device != q.device:
            raise ValueError(f"mask.documents: expected a tensor on {q.device}, got {mask.documents.device}")


def _checked_bias(bias, b: int, heads: int, queries: int, keys: int, q: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if not isinstance(bias, Tensor) or not bias.is_floating_point() or bias.device != q.device:
        raise ValueError(f"bias: expected a floating tensor on {q.device}, got {describe(bias)}")
    if tuple(bias.shape) == (heads, queries + keys - 1):
        return None, bias
    full = (b, heads, queries, keys)
    padded = (1,) * (4 - bias.ndim) + tuple(bias.shape)
    if len(padded) != 4 or any(got not in (1, want) for got, want in zip(padded, full, strict=True)):
        raise ValueError(
            f"bias: expected a shape broadcastable to {list(full)} or the relative bias [{heads}, {queries + keys - 1}], "
            f"got {list(bias.shape)}"
        )
    return bias.reshape(padded), None


def _checked_class_bias(
    class_bias: ClassBias, b: int, heads: int, queries: int, keys: int, q: Tensor
) -> tuple[Tensor, Tensor]:
    """values [B|1, Hq|1, Tq, C] and classes int64 [B|1, Hq|1, Tk]."""
    if not isinstance(class_bias, ClassBias):
        raise ValueError(f"class_bias: expected an interp_kernels.ClassBias, got {describe(class_bias)}")
    values, classes = class_bias.values, class_bias.classes
    leading = [(i, j) for i in dict.fromkeys((b, 1)) for j in dict.fromkeys((heads, 1))]
    _check_tensor("class_bias.values", values, [*((*x, queries, None) for x in leading), (queries, None)], q.device)
    shapes = [*((*x, keys) for x in leading), (keys,)]
    _check_tensor("class_bias.classes", classes, shapes, q.device, kind="an integer")
    count = values.shape[-1]
    classes = classes.long()
    # A branch on the values would break the graph of torch.compile.
    if not torch.compiler.is_compiling():
        least, largest = (int(x) for x in torch.aminmax(classes))
        if least < 0 or largest >= count:
            raise ValueError(
                f"class_bias.classes: expected integers from 0 to {count - 1}, a column of class_bias.values "
                f"{list(values.shape)} for each; got integers from {least} to {largest}"
            )
    return values[(None,) * (4 - values.ndim)], classes[(None,) * (3 - classes.ndim)]


def _fitting_probe(probe: P.Probe, ops: Operands) -> P.Probe:
    _check_kind(probe)
    check_probe_fits(probe, ops.batch, ops.heads, ops.queries, ops.keys, ops.q.device)
    return checked_probe(probe)


def checked_probe(probe: P.Probe) -> P.Probe:
    """``probe`` with its numbers as plain ints, if it can be measured on operands that its tensors fit.

    Under torch.compile the values of tensors are not checked.

    Raises:
        ValueError: an argument of it is wrong whatever the operands; the message names it.
    """
    _check_kind(probe)
    where = f"{type(probe).__name__}."
    if probe.name is not None and not (isinstance(probe.name, str) and probe.name.strip()):
        raise ValueError(
            f"{where}name: expected a string that is not empty, or None for the default, got {probe.name!r}"
        )
    if probe.reduce not in ("none", "mean"):
        raise ValueError(f"{where}reduce: expected 'none' or 'mean', got {probe.reduce!r}")
    if probe.reduce != "none" and isinstance(probe, P.Received | P.Pooled):
        each, use = ("key", "weights= or queries=") if isinstance(probe, P.Received) else ("square", "queries=")
        raise ValueError(f"{where}reduce: it has a value per {each} and no query axis to average; use {use}")
    for field, is_optional in TENSORS_OF.get(type(probe), ()):
        _check_values(f"{where}{field}", getattr(probe, field), is_optional=is_optional)
    if isinstance(probe, P.LabelMatch):
        return replace(probe, strict=_checked_switch(f"{where}strict", probe.strict))
    if isinstance(probe, P.Received):
        return replace(probe, normalize=_checked_switch(f"{where}normalize", probe.normalize))
    if isinstance(probe, P.OffsetMass):
        return replace(probe, offsets=_checked_offsets(f"{where}offsets", probe.offsets))
    if isinstance(probe, P.DistanceHistogram):
        return replace(probe, edges=_checked_edges(f"{where}edges", probe.edges))
    if isinstance(probe, P.Distance) and probe.window is not None:
        return replace(probe, window=_checked_count(f"{where}window", probe.window, "None or an integer"))
    if isinstance(probe, P.TopK):
        return replace(probe, k=_checked_count(f"{where}k", probe.k))
    if isinstance(probe, P.Pooled):
        if not isinstance(probe.op, str) or probe.op not in ("mean", "max"):
            raise ValueError(f"{where}op: expected 'mean' or 'max', got {probe.op!r}")
        return replace(probe, block=_checked_count(f"{where}block", probe.block))
    return probe


def _check_kind(probe: P.Probe) -> None:
    if type(probe) not in PROBES:
        raise ValueError(f"probes: expected instances of Entropy, Peak, KeyMass, ..., got {describe(probe)}")


def _check_values(name: str, x: Tensor | None, *, is_optional: bool) -> None:
    """Refuse what is no tensor, and one with NaN or infinity in it, which would make NaN of every sum."""
    if x is None and is_optional:
        return
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {describe(x)}")
    # A branch on the values would break the graph of torch.compile.
    if torch.compiler.is_compiling() or not x.is_floating_point() or x.numel() == 0:
        return
    if x.is_meta or x.layout is not torch.strided:
        return  # refused with the device or the layout that is wanted
    # NaN is the least and the largest of numbers here; what an expanded tensor repeats is looked at once.
    ends = torch.stack(torch.aminmax(x[tuple(slice(None) if step else slice(1) for step in x.stride())]))
    if bool(ends.isfinite().all()):
        return
    kind = "NaN" if bool(ends.isnan().any()) else "infinity"
    raise ValueError(f"{name}: expected finite numbers, got {kind} in a tensor of shape {list(x.shape)}")


def check_probe_fits(probe: P.Probe, batch: int, heads: int, queries: int, keys: int, device: torch.device) -> None:
    """Refuse a probe whose tensors are not of the shape, kind and device for operands of that size.

    Raises:
        ValueError: names the tensor, what was expected and what came.
    """
    b, t, k, where = batch, queries, keys, f"{type(probe).__name__}."
    if probe.queries is not None:
        _check_tensor(f"{where}queries", probe.queries, [(t,), (b, t)], device, kind="a bool")
    if isinstance(probe, P.KeyMass):
        shapes = [(k, None), (b, k, None), (b, heads, k, None)]
        _check_tensor(f"{where}weights", probe.weights, shapes, device, kind="a real")
    if isinstance(probe, P.LabelMatch):
        _check_tensor(f"{where}query_labels", probe.query_labels, [(t,), (b, t)], device, kind="an integer")
        _check_tensor(f"{where}key_labels", probe.key_labels, [(k,), (b, k)], device, kind="an integer")
    if isinstance(probe, P.Received) and probe.weights is not None:
        _check_tensor(f"{where}weights", probe.weights, [(t,), (b, t), (b, heads, t)], device)


def _checked_offsets(name: str, offsets) -> tuple[int, ...]:
    found = whole_numbers(offsets)
    if not found:
        raise ValueError(f"{name}: expected a non-empty tuple of integers, got {offsets!r}")
    if max(map(abs, found)) > LARGEST:
        raise ValueError(f"{name}: expected integers from -2^62 to 2^62, got {offsets!r}")
    return tuple(found)


def _checked_count(name: str, value, expected: str = "an integer") -> int:
    count = whole(value)
    if count is None or count < 1:
        raise ValueError(f"{name}: expected {expected} of at least 1, got {value!r}")
    return min(count, LARGEST)  # beyond, nothing changes


def _checked_switch(name: str, value) -> bool:
    is_numpys = getattr(value, "ndim", None) == 0 and getattr(getattr(value, "dtype", None), "kind", "") == "b"
    if not isinstance(value, bool) and not is_numpys:
        raise ValueError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def _checked_edges(name: str, edges) -> tuple[float, ...]:
    is_array = getattr(edges, "ndim", 0) == 1
    given = [*edges] if isinstance(edges, tuple | list) or is_array else []
    ends_open = bool(given) and isinstance(given[-1], float) and given[-1] == math.inf
    finite = whole_numbers(given[:-1] if ends_open else given)
    found = (*(finite or ()), *((math.inf,) if ends_open else ()))
    are_whole = finite is not None and all(0 <= edge <= LARGEST for edge in finite)
    if len(found) < 2 or not are_whole or not all(a < b for a, b in pairwise(found)):
        raise ValueError(
            f"{name}: expected two or more strictly increasing integers from 0 to 2^62, of which the last may be math.inf, "
            f"got {edges!r}"
        )
    return found


def _check_tensor(
    name: str, x, shapes: Sequence[tuple[int | None, ...]], device: torch.device, kind: str = "a floating"
) -> None:
    wanted = " or ".join("[" + ", ".join("C" if n is None else str(n) for n in shape) + "]" for shape in shapes)
    if not isinstance(x, Tensor) or not any(_fits(x, shape) for shape in shapes):
        raise ValueError(f"{name}: expected a tensor of shape {wanted}, got {describe(x)}")
    kinds = {
        "a floating": x.is_floating_point(),
        "a bool": x.dtype == torch.bool,
        "a real": not x.is_complex(),
        "an integer": not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool,
    }
    if not kinds[kind] or x.device != device:
        raise ValueError(f"{name}: expected {kind} tensor on {device}, got {x.dtype} on {x.device}")
    if x.layout is not torch.strided:
        raise ValueError(
            f"{name}: expected a dense tensor, got {str(x.layout).removeprefix('torch.')}; give x.to_dense()"
        )


def _fits(x: Tensor, shape: tuple[int | None, ...]) -> bool:
    """Whether x has the shape; None stands for any length but 0."""
    return x.ndim == len(shape) and all(
        got > 0 if want is None else got == want for want, got in zip(shape, x.shape, strict=True)
    )


def _checked_number(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)
