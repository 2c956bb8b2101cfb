"""Arguments as callers write them: looked at before any work, and refused in one sentence where they are something else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError


def shown(value: Any, most: int = 80) -> str:
    """``value`` in one line of at most ``most`` characters, as a message says what came."""
    line = " ".join(repr(value).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def switch(what: str, value: Any) -> bool:
    """``value`` where it is True or False, numpy's too.

    Raises:
        InputError: it is something else, which Python would take for one of them.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InputError(f"{what}: expected True or False, got {shown(value)}")


def items(values: Any) -> list[Any] | None:
    """What several values hold; None for a text and for what does not hold several, such as a single number of an array."""
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
        return None
    return None if getattr(values, "ndim", 1) == 0 else list(values)


def check_hooked(what: str, model: Any) -> None:
    """
    Raises:
        InputError: it is no ``HookedModel``.
    """
    from interp.models.hooked import HookedModel

    if not isinstance(model, HookedModel):
        raise InputError(f"{what}: expected a HookedModel, as interp.load gives it, got {type(model).__name__}")


def check_dense(what: str, value: Tensor) -> None:
    """Refuse a tensor whose numbers cannot be read one after another.

    Raises:
        InputError: it is on the device "meta", which holds none, or sparse.
    """
    if value.is_meta:
        raise InputError(
            f"{what}: expected a tensor with numbers in it, got {list(value.shape)} on the device 'meta', which holds none"
        )
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        raise InputError(f"{what}: expected a dense tensor, got {kind} {list(value.shape)}; give value.to_dense()")
