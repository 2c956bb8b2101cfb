"""What the lazy map is asked for, checked: what does not fit is named, with what was expected and what came.

``lse`` [B, Hq, Tq] stands for the map where its sequences, heads, type and device are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_kernels.integers import whole, whole_numbers
from interp_kernels.tensors import check_transforms, describe, is_readable


def checked_integer(name: str, value: int) -> int:
    found = whole(value)
    if found is None:
        raise ValueError(f"{name}: expected an integer, got {describe(value)}")
    return found


def checked_index(name: str, value: int, size: int) -> int:
    """From 0 on; negative ones count from the end."""
    found = checked_integer(name, value)
    if not -size <= found < size:
        raise IndexError(f"{name}: expected an index in [-{size}, {size}), got {found}")
    return found % size


def checked_rows(index: int | Sequence[int] | Tensor, queries: int) -> list[int]:
    """Rows from 0 on, of one index or many; negative ones count from the end."""
    one = whole(index)
    if one is not None:
        found: list[int] | None = [one]
    elif isinstance(index, Tensor) and (
        not is_readable(index) or index.is_floating_point() or index.dtype == torch.bool
    ):
        found = None
    else:
        found = whole_numbers(index.reshape(-1) if hasattr(index, "reshape") else index)  # pyright: ignore[reportAttributeAccessIssue]
    if found is None:
        raise ValueError(f"index: expected an integer or a sequence of integers, got {describe(index)}")
    if not all(-queries <= row < queries for row in found):
        raise IndexError(f"index: expected rows in [-{queries}, {queries}), got {found[:8]}")
    return [row % queries for row in found]


def checked_slice(name: str, value: slice, size: int) -> slice:
    """With start and stop in [0, size]."""
    ends = [value.start, value.stop, value.step] if isinstance(value, slice) else [value]
    numbers = [None if end is None else whole(end) for end in ends]
    are_whole = all(end is None or number is not None for end, number in zip(ends, numbers, strict=True))
    if len(numbers) != 3 or not are_whole or numbers[2] not in (None, 1):
        raise ValueError(f"{name}: expected a slice of step 1, got {describe(value)}")
    start, stop, _ = slice(*numbers).indices(size)
    return slice(start, max(start, stop))


def checked_sides(block: int | tuple[int, int]) -> tuple[int, int]:
    """Cells down and across of a square or rectangle."""
    sides = [whole(side) for side in (block if isinstance(block, tuple) else (block, block))]
    counts = [side for side in sides if side is not None and side >= 1]
    if len(sides) != 2 or len(counts) != 2:
        raise ValueError(f"block: expected an integer of at least 1, or two of them, got {describe(block)}")
    return counts[0], counts[1]


def check_counted(name: str, x: Tensor, size: int) -> None:
    if not is_readable(x) or x.dtype != torch.bool or tuple(x.shape) != (size,):
        raise ValueError(f"{name}: expected a bool tensor of shape [{size}], got {describe(x)}")
    check_numbers(name, x)


def checked_factors(name: str, x: Tensor, size: int, lse: Tensor) -> Tensor:
    """x as [B, Hq, size]."""
    b, h = lse.shape[:2]
    if not is_readable(x) or tuple(x.shape) not in ((size,), (b, size), (b, h, size)):
        raise ValueError(f"{name}: expected [{size}], [{b}, {size}] or [{b}, {h}, {size}], got {describe(x)}")
    check_numbers(name, x)
    x = x.to(lse)
    if not bool(((x >= 0) & x.isfinite()).all()):
        raise ValueError(f"{name}: expected finite numbers of at least 0, got others in {list(x.shape)}")
    return (x[:, None] if x.ndim == 2 else x).expand(b, h, size)


def spread(name: str, x: Tensor, per_sequence: bool, lse: Tensor) -> Tensor:
    """x broadcast to [B, Hq, T, C]."""
    b, h = lse.shape[:2]
    check_numbers(name, x)
    x = x.to(lse)
    x = x[:, None] if per_sequence else x
    try:
        return x.expand(b, h, *x.shape[-2:])
    except RuntimeError:
        raise ValueError(f"{name}: its leading shape {list(x.shape[:-2])} does not fit B={b}, Hq={h}") from None


def check_numbers(name: str, x: Tensor) -> None:
    """Refuse what a product would make something else of: an imaginary part is lost, a tensor without numbers has none."""
    if x.is_complex() or x.is_meta:
        raise ValueError(f"{name}: expected real numbers, got {describe(x)} on {x.device}")
    check_transforms(name, x)
