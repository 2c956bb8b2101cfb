"""What a captured statistic is: the meaning of its axes and columns, and how it was defined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from torch import Tensor

from interp.arguments import items, shown
from interp.errors import InputError
from interp.naming import nearest
from interp_kernels import (
    Distance,
    DistanceHistogram,
    Entropy,
    OffsetMass,
    Peak,
    Pooled,
    Probe,
    Received,
    TopK,
)
from interp_kernels.probe_arguments import checked_probe
from interp_kernels.results import value_shape

PLAIN_PROBES: dict[str, type[Probe]] = {"entropy": Entropy, "peak": Peak, "distance": Distance, "received": Received}
"""Probes that need no arguments and can be asked for by name."""

AXES = ("batch", "head", "kv_head", "query", "key", "query_block", "key_block", "column")
"""What an axis of a value may run over. query and key count the tokens of either side, blocks so many squares of ``Pooled``."""


@dataclass(frozen=True)
class Statistic:
    """One statistic of a capture, the same in every layer.

    axes        what each axis of a layer's value runs over, of ``AXES``; "batch" first, "head" or "kv_head" second
    columns     what the entries of the axis "column" are: offsets, left edges of bins, ranks (from 0), dimensions; None without
                such an axis, or where they are numbered as the user's weights are
    definition  the probe and its arguments, or a formula
    """

    axes: tuple[str, ...]
    columns: tuple[float, ...] | None
    definition: str


def statistics_of(probe: Probe) -> dict[str, Statistic]:
    """The statistics that ``probe`` gives, by name: its value, and its index where there is one."""
    one = Statistic(_axes(probe), _columns(probe), definition(probe))
    return dict.fromkeys(probe.labels, one)


def definition(probe: Probe) -> str:
    """ "OffsetMass(offsets=(0, 1), reduce='mean')": the probe with what is not left at its default, tensors by shape."""
    given = []
    for item in fields(probe):
        value = getattr(probe, item.name)
        if item.name == "name" or value is item.default or (not hasattr(value, "ndim") and value == item.default):
            continue
        shown = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if isinstance(value, Tensor) else value
        given.append(f"{item.name}={shown if isinstance(value, Tensor) else repr(value)}")
    return f"{type(probe).__name__}({', '.join(given)})"


def probes_of_names(probes: Sequence[Probe | str] | Probe | str) -> list[Probe]:
    """Probes, given as such or by name.

    Raises:
        InputError: no probe has such a name, or it needs arguments; an argument of a probe is wrong.
    """
    listed: list[Any] | None = [probes] if isinstance(probes, str | Probe | type) else items(probes)
    if listed is None:
        raise InputError(f"probes: expected probes or their names, () for none, got {shown(probes)}")
    chosen: list[Probe] = []
    for probe in listed:
        if isinstance(probe, Probe):
            chosen.append(_checked(probe))
        elif isinstance(probe, str) and probe in PLAIN_PROBES:
            chosen.append(PLAIN_PROBES[probe]())
        elif isinstance(probe, type) and issubclass(probe, Probe):
            raise InputError(f"probes: {probe.__name__} is a class; give a probe of it, {_made_of(probe)}")
        else:
            raise InputError(
                f"unknown probe {shown(probe)}; {nearest(str(probe), PLAIN_PROBES)}. "
                "Probes with arguments are given as objects, such as interp.OffsetMass((1,))"
            )
    return chosen


def _made_of(kind: type[Probe]) -> str:
    """How a probe of that class is written: "Entropy()", "OffsetMass(offsets=...)"."""
    wanted = [item.name for item in fields(kind) if item.default is MISSING]
    return f"{kind.__name__}({', '.join(f'{name}=...' for name in wanted)})"


def _checked(probe: Probe) -> Probe:
    """Refused before the model runs, what ``attend`` would refuse in its first layer."""
    try:
        return checked_probe(probe)
    except ValueError as error:
        raise InputError(str(error)) from None


def _axes(probe: Probe) -> tuple[str, ...]:
    if isinstance(probe, Received):
        return "batch", "head", "key"
    if isinstance(probe, Pooled):
        return "batch", "head", "query_block", "key_block"
    rows = ("query",) if probe.reduce == "none" else ()
    has_columns = len(value_shape(probe, 1, 1, 1, 1)) > 2 + len(rows)
    return "batch", "head", *rows, *(("column",) if has_columns else ())


def _columns(probe: Probe) -> tuple[float, ...] | None:
    match probe:
        case OffsetMass():
            return tuple(probe.offsets)
        case DistanceHistogram():
            return tuple(probe.edges[:-1])
        case TopK():
            return tuple(range(probe.k))
    return None
