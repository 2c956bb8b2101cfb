"""Probes, checked: against the operands that they are to be measured on, and by themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.integers import LARGEST, MOST_LISTED, checked_count, whole_numbers
from interp_kernels.once import Once
from interp_kernels.operands import Operands
from interp_kernels.tensors import DTYPES, check_tensor, describe, is_readable

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

_finite = Once(keeps_tensors=False)


def fitting_probe(probe: P.Probe, ops: Operands) -> P.Probe:
    """``checked_probe``, whose tensors fit the operands too."""
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
    if not isinstance(probe.reduce, str) or probe.reduce not in ("none", "mean"):
        raise ValueError(f"{where}reduce: expected 'none' or 'mean', got {describe(probe.reduce)}")
    if probe.reduce != "none" and isinstance(probe, P.Received | P.Pooled):
        each, use = ("key", "weights= or queries=") if isinstance(probe, P.Received) else ("square", "queries=")
        raise ValueError(f"{where}reduce: it has a value per {each} and no query axis to average; use {use}")
    _check_fields(probe)
    # A branch on the values would break the graph of torch.compile.
    if not torch.compiler.is_compiling():
        _finite.of(probe, None, lambda: _check_values(probe))
    if isinstance(probe, P.OffsetMass):
        return replace(probe, offsets=_checked_offsets(f"{where}offsets", probe.offsets))
    if isinstance(probe, P.DistanceHistogram):
        return replace(probe, edges=_checked_edges(f"{where}edges", probe.edges))
    if isinstance(probe, P.Distance) and probe.window is not None:
        return replace(probe, window=checked_count(f"{where}window", probe.window, expected="None or an integer"))
    if isinstance(probe, P.TopK):
        return replace(probe, k=checked_count(f"{where}k", probe.k, MOST_LISTED))
    if isinstance(probe, P.Pooled):
        if not isinstance(probe.op, str) or probe.op not in ("mean", "max"):
            raise ValueError(f"{where}op: expected 'mean' or 'max', got {describe(probe.op)}")
        return replace(probe, block=checked_count(f"{where}block", probe.block))
    return probe


def _check_kind(probe: P.Probe) -> None:
    if type(probe) not in PROBES:
        raise ValueError(f"probes: expected instances of Entropy, Peak, KeyMass, ..., got {describe(probe)}")


def _check_fields(probe: P.Probe) -> None:
    """Refuse what is no tensor, or neither True nor False, where one is due."""
    where = f"{type(probe).__name__}."
    for field, is_optional in TENSORS_OF.get(type(probe), ()):
        x = getattr(probe, field)
        if not (x is None and is_optional) and (not isinstance(x, Tensor) or not is_readable(x)):
            raise ValueError(f"{where}{field}: expected a tensor, got {describe(x)}")
    for field in ("strict", "normalize"):
        if not isinstance(value := getattr(probe, field, False), bool):
            raise ValueError(f"{where}{field}: expected True or False, got {describe(value)}")


def _check_values(probe: P.Probe) -> None:
    """Refuse a tensor with NaN or infinity in it, which would make NaN of every sum."""
    for field, _ in TENSORS_OF.get(type(probe), ()):
        x = getattr(probe, field)
        if x is None or not x.is_floating_point() or x.numel() == 0 or x.is_meta:
            continue
        x = x if x.dtype in DTYPES else x.float()
        # NaN is the least and the largest of numbers here; what an expanded tensor repeats is looked at once.
        ends = torch.stack(torch.aminmax(x[tuple(slice(None) if step else slice(1) for step in x.stride())]))
        if not bool(ends.isfinite().all()):
            kind = "NaN" if bool(ends.isnan().any()) else "infinity"
            where = f"{type(probe).__name__}.{field}"
            raise ValueError(f"{where}: expected finite numbers, got {kind} in a tensor of shape {list(x.shape)}")


def check_probe_fits(probe: P.Probe, batch: int, heads: int, queries: int, keys: int, device: torch.device) -> None:
    """Refuse a probe whose tensors are not of the shape, kind and device for operands of that size.

    Raises:
        ValueError: names the tensor, what was expected and what came.
    """
    b, t, k, where = batch, queries, keys, f"{type(probe).__name__}."
    if probe.queries is not None:
        check_tensor(f"{where}queries", probe.queries, [(t,), (b, t)], device, kind="a bool")
    if isinstance(probe, P.KeyMass):
        shapes = [(k, None), (b, k, None), (b, heads, k, None)]
        check_tensor(f"{where}weights", probe.weights, shapes, device, kind="a real")
    if isinstance(probe, P.LabelMatch):
        check_tensor(f"{where}query_labels", probe.query_labels, [(t,), (b, t)], device, kind="an integer")
        check_tensor(f"{where}key_labels", probe.key_labels, [(k,), (b, k)], device, kind="an integer")
    if isinstance(probe, P.Received) and probe.weights is not None:
        check_tensor(f"{where}weights", probe.weights, [(t,), (b, t), (b, heads, t)], device)


def _checked_offsets(name: str, offsets) -> tuple[int, ...]:
    found = whole_numbers(offsets)
    if not found:
        raise ValueError(f"{name}: expected a non-empty tuple of integers, got {offsets!r}")
    if max(map(abs, found)) > LARGEST:
        raise ValueError(f"{name}: expected integers from -2^62 to 2^62, got {offsets!r}")
    return tuple(found)


def _checked_edges(name: str, edges) -> tuple[float, ...]:
    is_array = hasattr(edges, "tolist") and getattr(edges, "ndim", 0) == 1
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
