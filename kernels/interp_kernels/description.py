"""Operands and probes as a list of tensors and a plain string, and back: the form in which an operator of torch takes them.

The string is a Python literal in which a tensor stands as its place in the list: [3]. It is made while torch.compile traces
and read when the operator runs.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.mask import Mask
from interp_kernels.operands import Operands

OF_MASK = ("is_causal", "window", "keep", "documents")
OF_OPERANDS = ("alibi", "bias", "relative_bias")
"""What is described of the mask and the operands. q, k, v, the sinks and the numbers go beside the description."""


@dataclass(frozen=True, eq=False)
class Described:
    """The string, and the tensors that it refers to."""

    text: str
    tensors: list[Tensor]


def describe_map(ops: Operands) -> Described:
    """The mask but for its offset, and the biases. Its predicates are Python, which no string holds."""
    tensors: list[Tensor] = []
    mask = [(name, getattr(ops.mask, name)) for name in OF_MASK]
    return Described(_named(mask + [(name, getattr(ops, name)) for name in OF_OPERANDS], tensors), tensors)


def describe_probes(probes: Sequence[P.Probe]) -> Described:
    """Every probe's class and fields but its name."""
    tensors: list[Tensor] = []
    text = ""
    for probe in probes:
        given = [(field.name, getattr(probe, field.name)) for field in fields(probe) if field.name != "name"]
        text += f"({type(probe).__name__!r}, {_named(given, tensors)}), "
    return Described(f"({text})", tensors)


def read_map(
    described: Described,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    scale: float,
    softcap: float | None,
    offset: int | None,
) -> Operands:
    """The operands that were described."""
    given = _filled(_read(described.text), described.tensors)
    mask = Mask(offset=offset, **{name: given[name] for name in OF_MASK})
    return Operands(q, k, v, mask, scale, softcap, sinks, **{name: given[name] for name in OF_OPERANDS})


def read_probes(described: Described) -> tuple[P.Probe, ...]:
    """The probes that were described; their names are their places."""
    return tuple(
        getattr(P, kind)(name=str(place), **_filled(given, described.tensors))
        for place, (kind, given) in enumerate(_read(described.text))
    )


def _named(given: Iterable[tuple[str, Any]], tensors: list[Tensor]) -> str:
    return "{" + "".join(f"{name!r}: {_literal(value, tensors)}, " for name, value in given) + "}"


def _literal(value: Any, tensors: list[Tensor]) -> str:
    if isinstance(value, Tensor):
        tensors.append(value)
        return f"[{len(tensors) - 1}]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(each, tensors)}, " for each in value) + ")"
    # Infinity has no literal; a number that is too large is read as it.
    return "1e999" if value == math.inf else repr(value)


@lru_cache(maxsize=256)
def _read(text: str) -> Any:
    return ast.literal_eval(text)


def _filled(given: dict[str, Any], tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {name: tensors[value[0]] if isinstance(value, list) else value for name, value in given.items()}
