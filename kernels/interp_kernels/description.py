"""Operands and probes as tensors, integers and a plain string, and back: the form in which an operator of torch takes them.

The string is a Python literal in which a tensor stands as its place in the list of tensors, [3], and an integer as its
place in the list of integers, {0}: torch.compile may treat integers that change from call to call as unknown ones. It is
made while torch.compile traces, and read when the operator runs.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.mask import Mask
from interp_kernels.operands import Operands

OF_MASK = ("is_causal", "window", "keep", "documents")
OF_OPERANDS = ("alibi", "bias", "relative_bias", "class_values", "classes")
"""What is described of the mask and the operands. q, k, v, the sinks and the numbers go beside the description."""


@dataclass(frozen=True, eq=False)
class Described:
    """The string, and the tensors and integers that it refers to."""

    text: str
    tensors: list[Tensor]
    integers: list[int]


def describe_map(ops: Operands) -> Described:
    """The mask but for its offset, and the biases. Its predicates are Python, which no string holds."""
    given = [(name, getattr(ops.mask, name)) for name in OF_MASK] + [(name, getattr(ops, name)) for name in OF_OPERANDS]
    described = Described("", [], [])
    return replace(described, text=_named(given, described))


def describe_probes(probes: Sequence[P.Probe]) -> Described:
    """Every probe's class and fields but its name."""
    described = Described("", [], [])
    text = ""
    for probe in probes:
        given = [(field.name, getattr(probe, field.name)) for field in fields(probe) if field.name != "name"]
        text += f"({type(probe).__name__!r}, {_named(given, described)}), "
    return replace(described, text=f"({text})")


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
    given = _filled(_read(described.text), described)
    mask = Mask(offset=offset, **{name: given[name] for name in OF_MASK})
    return Operands(q, k, v, mask, scale, softcap, sinks, **{name: given[name] for name in OF_OPERANDS})


def read_probes(described: Described) -> tuple[P.Probe, ...]:
    """The probes that were described; their names are their places."""
    return tuple(
        getattr(P, kind)(name=str(place), **_filled(given, described))
        for place, (kind, given) in enumerate(_read(described.text))
    )


def _named(given: Iterable[tuple[str, Any]], described: Described) -> str:
    return "{" + "".join(f"{name!r}: {_literal(value, described)}, " for name, value in given) + "}"


def _literal(value: Any, described: Described) -> str:
    """The literal of a value; its tensors and integers are added to those of ``described``."""
    if isinstance(value, Tensor):
        described.tensors.append(value)
        return f"[{len(described.tensors) - 1}]"
    if isinstance(value, int) and not isinstance(value, bool):
        described.integers.append(value)
        return f"{{{len(described.integers) - 1}}}"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(each, described)}, " for each in value) + ")"
    # Infinity has no literal; a number that is too large is read as it.
    return "1e999" if value == math.inf else repr(value)


@lru_cache(maxsize=256)
def _read(text: str) -> Any:
    return ast.literal_eval(text)


def _filled(given: dict[str, Any], described: Described) -> dict[str, Any]:
    return {name: _value(literal, described) for name, literal in given.items()}


def _value(literal: Any, described: Described) -> Any:
    if isinstance(literal, list):
        return described.tensors[literal[0]]
    if isinstance(literal, set):
        return described.integers[next(iter(literal))]
    if isinstance(literal, tuple):
        return tuple(_value(each, described) for each in literal)
    return literal
