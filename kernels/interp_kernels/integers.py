"""Whole numbers as callers write them: Python's, numpy's, an integer tensor's, and sequences and arrays of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def whole(value: Any) -> int | None:
    """``value`` as an int; None where it is no whole number, which True and 2.0 are not."""
    if type(value) is int:
        return value
    is_bool = isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    if is_bool or getattr(value, "ndim", 0) != 0 or not _can_be_read(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_numbers(values: Any) -> list[int] | None:
    """A sequence or an array [n] of whole numbers as ints, none for an empty one; None where it is something else."""
    if getattr(values, "ndim", 1) != 1 or not _can_be_read(values):
        return None
    if hasattr(values, "tolist"):  # of tensors and arrays, at once
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        return None
    found = [whole(value) for value in values]
    return None if any(value is None for value in found) else found  # pyright: ignore[reportReturnType]


def _can_be_read(values: Any) -> bool:
    """Whether a tensor holds its numbers one after another, as one on the device "meta" or a sparse one does not."""
    return not isinstance(values, Tensor) or (values.layout is torch.strided and not values.is_meta)
