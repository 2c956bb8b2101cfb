"""Whole numbers as callers write them: Python's, numpy's, an integer tensor's, and sequences and arrays of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_kernels.tensors import describe, is_readable

LARGEST = 1 << 62
"""Of distances: what int64 holds, with room to count on."""
MOST_LISTED = 1 << 48
"""Of the largest of a row: more than any memory holds, and few enough for their bytes to be counted."""


def whole(value: Any) -> int | None:
    """``value`` as an int; None where it is no whole number, which True and 2.0 are not."""
    if type(value) is int:
        return value
    is_bool = isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    if is_bool or getattr(value, "ndim", 0) != 0 or not _has_numbers(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_numbers(values: Any) -> list[int] | None:
    """A sequence or an array [n] of whole numbers as ints, none for an empty one; None where it is something else."""
    if getattr(values, "ndim", 1) != 1 or not _has_numbers(values):
        return None
    if hasattr(values, "tolist"):  # of tensors and arrays, at once
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        return None
    found = [whole(value) for value in values]
    return None if any(value is None for value in found) else found  # pyright: ignore[reportReturnType]


def checked_count(name: str, value: Any, most: int | None = None, expected: str = "an integer") -> int:
    """An integer of at least 1. Without ``most`` any above ``LARGEST`` is as good as that.

    Raises:
        ValueError: it is something else, or more than ``most``.
    """
    found = whole(value)
    if found is None or found < 1:
        raise ValueError(f"{name}: expected {expected} of at least 1, got {describe(value)}")
    if most is not None and found > most:
        raise ValueError(f"{name}: expected {expected} from 1 to {most}, got {found}")
    return min(found, LARGEST)


def _has_numbers(value: Any) -> bool:
    return not isinstance(value, Tensor) or (is_readable(value) and not value.is_meta)
