"""Which queries and which keys an edit means, and where they stand in one call of attention.

Positions are columns of the batch, padding included, counted from 0; the tokens of a left-padded batch stand where they stand
in it. While a model generates, positions go on counting, so that an edit means the same tokens in the prefill and afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from interp.arguments import check_dense, shown
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp_kernels.integers import whole, whole_numbers

Where = int | Sequence[int] | range | slice | Tensor | None
"""A position, several, a slice, a bool mask [T] or [B, T] of them, or None for all.

Negative positions count from the end of the input, and are refused while a model generates, as the end then moves. Positions
that a run does not reach change nothing, so that an edit may speak of tokens that are still to be written; a mask must have
the length of the input.
"""

FURTHEST = 2**62
"""No text is so long; positions below it, counted from either end, are numbers of 64 bits."""


@dataclass(frozen=True, eq=False, repr=False)
class Positions:
    """``Where``, checked. ``what`` names the argument in messages: "cut: queries"."""

    what: str
    given: tuple[int, ...] | slice | Tensor | None

    @classmethod
    def of(cls, what: str, where: Where) -> Self:
        """
        Raises:
            InputError: it is none of the forms of ``Where``, or chooses nothing.
        """
        return cls(what, _checked(what, where))

    def __repr__(self) -> str:
        given = self.given
        if given is None:
            return "all"
        if isinstance(given, Tensor):
            return f"mask {list(given.shape)} with {int(given.sum())} chosen"
        if isinstance(given, slice):
            bounds = ["" if part is None else str(part) for part in (given.start, given.stop, given.step)]
            return ":".join(bounds if given.step is not None else bounds[:2])
        return str(list(given))

    def among_queries(self, call: AttentionCall) -> Tensor:
        """Which queries of the call are meant, bool [1, Tq] or [B, Tq].

        Raises:
            InputError: a mask of another length or batch, or negative positions while generating.
        """
        first, count = call.first_query, call.q.shape[2]
        return self._among(call, first, count, first + count, grows=first > 0)

    def among_keys(self, call: AttentionCall) -> Tensor:
        """Which keys of the call are meant, bool [1, Tk] or [B, Tk].

        Raises:
            InputError: a mask of another length or batch, or negative positions while generating.
        """
        count = call.k.shape[2]
        if call.layer.stack == "cross":  # all that the encoder read, from the first step on
            return self._among(call, 0, count, count, grows=False)
        end = call.first_query + call.q.shape[2]  # a static cache has room for keys that are not there yet
        return self._among(call, call.first_key, count, end, grows=call.first_query > 0)

    def _among(self, call: AttentionCall, first: int, count: int, end: int, *, grows: bool) -> Tensor:
        at = torch.arange(first, first + count, device=call.q.device)
        given = self.given
        if given is None:
            return torch.ones_like(at, dtype=torch.bool)[None]
        if isinstance(given, Tensor):
            return self._of_mask(given, at, call.q.shape[0], end, grows=grows)
        if isinstance(given, slice):
            step = given.step or 1
            start = 0 if given.start is None else max(0, self._absolute(given.start, end, grows=grows))
            chosen = (at >= start) & ((at - start) % step == 0)
            if given.stop is not None:
                chosen &= at < self._absolute(given.stop, end, grows=grows)
            return chosen[None]
        wanted = [self._absolute(position, end, grows=grows) for position in given]
        return torch.isin(at, torch.tensor(wanted, device=at.device))[None]

    def _absolute(self, position: int, end: int, *, grows: bool) -> int:
        if position < 0 and grows:
            raise InputError(
                f"{self.what}: {position} counts from the end of the input, which moves while the model generates; "
                "give positions from the start"
            )
        return position + end if position < 0 else position

    def _of_mask(self, mask: Tensor, at: Tensor, batch: int, end: int, *, grows: bool) -> Tensor:
        shape = list(mask.shape)
        mask = mask[None] if mask.ndim == 1 else mask
        total = mask.shape[1]
        if mask.shape[0] not in (1, batch) or total > end or (total < end and not grows):
            raise InputError(
                f"{self.what}: expected a mask of shape [{end}] or [{batch}, {end}] for this input, got {shape}"
            )
        return mask.to(at.device)[:, at.clamp(max=total - 1)] & (at < total)


def _checked(what: str, where: Any) -> tuple[int, ...] | slice | Tensor | None:
    if where is None:
        return None
    if isinstance(where, slice):
        parts = [None if part is None else whole(part) for part in (where.start, where.stop, where.step)]
        lost = [part is None for part in parts] != [part is None for part in (where.start, where.stop, where.step)]
        if lost or (parts[2] is not None and parts[2] < 1) or any(abs(part or 0) >= FURTHEST for part in parts):
            raise InputError(f"{what}: expected a slice of whole numbers with a step of at least 1, got {where}")
        return slice(*parts)
    if isinstance(where, np.ndarray) and where.dtype.kind in "iub":
        where = torch.from_numpy(where)
    if isinstance(where, Tensor):
        return _checked_tensor(what, where)
    if (one := whole(where)) is not None and abs(one) < FURTHEST:
        return (one,)
    if isinstance(where, Sequence) and not isinstance(where, str) and where:
        if all(isinstance(each, bool) for each in where):
            return _checked_tensor(what, torch.tensor(where))
        several = whole_numbers(where)
        if several and all(abs(each) < FURTHEST for each in several):
            return tuple(several)
    raise InputError(
        f"{what}: expected a position, several (at least one), a slice, a bool mask [T] or [B, T], or None for all, "
        f"got {shown(where)}"
    )


def _checked_tensor(what: str, where: Tensor) -> tuple[int, ...] | Tensor:
    check_dense(what, where)
    if where.dtype == torch.bool and where.ndim in (1, 2) and where.numel() and bool(where.any()):
        return where
    is_index = not where.is_floating_point() and not where.is_complex() and where.dtype != torch.bool
    if is_index and where.ndim in (0, 1) and where.numel():
        return tuple(where.flatten().tolist())
    nothing = " without a position in it" if where.dtype == torch.bool else ""
    raise InputError(
        f"{what}: expected integers [n] or a bool mask [T] or [B, T] that chooses at least one position, "
        f"got {where.dtype} {list(where.shape)}{nothing}"
    )
