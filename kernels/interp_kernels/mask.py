"""Who may attend to whom: the masks of real models as O(T) data, never as a T x T tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp_kernels.integers import LARGEST, whole
from interp_kernels.tensors import describe, is_readable

FARTHEST = 1 << 61
"""Of positions: int64 holds the sum of one and of a window, or any other distance (``integers.LARGEST``)."""

Predicate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(batch index, query position, key index), broadcastable int64 tensors -> bool tensor of the broadcast shape."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which keys j a query i may see. Build one with the class methods and combine several with ``&``.

    i and j are positions: i is the query's index plus ``offset`` (default Tk - Tq: the last query stands at the last
    key, as with a KV cache), j is the key's index. Every condition that is set must hold:

        is_causal    j <= i
        window w     |i - j| < w
        keep         keep[b, j]                      (padding)
        documents    documents[b, i] == documents[b, j]
        predicates   predicate(b, i, j)              (anything else; evaluated tile by tile)
    """

    is_causal: bool = False
    window: int | None = None
    offset: int | None = None
    keep: Tensor | None = None
    documents: Tensor | None = None
    predicates: tuple[Predicate, ...] = ()

    @classmethod
    def causal(cls, window: int | None = None, offset: int | None = None) -> Mask:
        """Keys at or before the query; with ``window`` only the last ``window`` of them: 0 <= i - j < window."""
        return cls(is_causal=True, window=checked_window(window), offset=checked_offset(offset))

    @classmethod
    def full(cls, window: int | None = None) -> Mask:
        """Every key; with ``window`` those with |i - j| < window."""
        return cls(window=checked_window(window))

    @classmethod
    def from_padding(cls, keep: Tensor) -> Mask:
        """Keys with ``keep[b, j]`` true. keep: [B, Tk], bool or 0/1 integers. It hides keys, not queries.

        Under torch.compile the values of integers are not checked; all but 0 keep their key.
        """
        if not is_readable(keep) or keep.ndim != 2:
            raise ValueError(f"keep: expected a tensor of shape [B, Tk], got {describe(keep)}")
        if keep.dtype != torch.bool:
            # A branch on the values would break the graph of torch.compile.
            is_known = not (torch.compiler.is_compiling() or keep.is_meta)
            values_fit = not is_known or bool(((keep == 0) | (keep == 1)).all())
            if keep.is_floating_point() or keep.is_complex() or not values_fit:
                raise ValueError(f"keep: expected bool or integers 0 and 1, got {describe(keep)}")
            keep = keep.bool()
        return cls(keep=keep)

    @classmethod
    def from_documents(cls, ids: Tensor) -> Mask:
        """Query and key in the same document: ids[b, i] == ids[b, j]. ids: integers [B, T], by position."""
        if not is_readable(ids) or ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
            raise ValueError(f"ids: expected an integer tensor of shape [B, T], got {describe(ids)}")
        return cls(documents=ids.long())

    @classmethod
    def from_predicate(cls, predicate: Predicate) -> Mask:
        """Whatever ``predicate(batch, i, j)`` allows, for broadcastable index tensors. Evaluated tile by tile."""
        if not callable(predicate):
            raise ValueError(f"predicate: expected a function of (batch, i, j), got {describe(predicate)}")
        return cls(predicates=(predicate,))

    def __and__(self, other: Mask) -> Mask:
        if not isinstance(other, Mask):
            return NotImplemented
        if self.offset is not None and other.offset is not None and self.offset != other.offset:
            raise ValueError(f"cannot combine masks with offsets {self.offset} and {other.offset}")
        windows = [window for window in (self.window, other.window) if window is not None]
        return Mask(
            is_causal=self.is_causal or other.is_causal,
            window=min(windows) if windows else None,
            offset=self.offset if self.offset is not None else other.offset,
            keep=_both(self.keep, other.keep, torch.logical_and),
            documents=_both(self.documents, other.documents, _pair_ids),
            predicates=self.predicates + other.predicates,
        )

    def with_offset(self, offset: int) -> Mask:
        """The same mask with the first query at position ``offset``."""
        return replace(self, offset=checked_offset(offset))

    def to(self, device: torch.device | str) -> Mask:
        """The same mask with its tensors on ``device``."""
        return replace(
            self,
            keep=None if self.keep is None else self.keep.to(device),
            documents=None if self.documents is None else self.documents.to(device),
        )

    @property
    def is_per_batch(self) -> bool:
        """Whether who sees whom may differ between the sequences of a batch."""
        return self.keep is not None or self.documents is not None or bool(self.predicates)

    def allows(self, i: Tensor, j: Tensor, batch: Tensor) -> Tensor:
        """The definition, elementwise. i, j: positions and key indices; batch: [b, 1, ..., 1], all broadcastable.

        Key indices must lie in [0, Tk). Returns a bool tensor broadcastable to the common shape.
        """
        allowed = torch.ones((), dtype=torch.bool, device=i.device)
        if self.is_causal:
            allowed = allowed & (j <= i)
        if self.window is not None:
            allowed = allowed & ((i - j).abs() < self.window)
        if self.keep is not None:
            allowed = allowed & self.keep[batch, j]
        if self.documents is not None:
            allowed = allowed & (self.documents[batch, i] == self.documents[batch, j])
        for predicate in self.predicates:
            allowed = allowed & _answer(predicate, batch, i, j)
        return allowed

    def key_span(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """Smallest range [lo, hi) of keys outside of which queries at positions first..last see nothing."""
        lo, hi = 0, keys
        if self.window is not None:
            lo, hi = max(lo, first - self.window + 1), min(hi, last + self.window)
        if self.is_causal:
            hi = min(hi, last + 1)
        return lo, max(lo, hi)

    def open_span(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """A range [lo, hi) of keys that all queries at positions first..last see; empty (lo == hi) when unknown."""
        if self.is_per_batch:
            return 0, 0
        lo, hi = 0, keys
        if self.window is not None:
            lo, hi = max(lo, last - self.window + 1), min(hi, first + self.window)
        if self.is_causal:
            hi = min(hi, first + 1)
        return (lo, hi) if lo < hi else (0, 0)


def checked_window(window: int | None, name: str = "window") -> int | None:
    if window is None:
        return None
    found = whole(window)
    if found is None or found < 1:
        raise ValueError(f"{name}: expected None or an integer of at least 1, got {describe(window)}")
    # A window beyond every distance is as good as another.
    return min(found, LARGEST)


def checked_offset(offset: int | None, name: str = "offset") -> int | None:
    if offset is None:
        return None
    found = whole(offset)
    if found is None:
        raise ValueError(f"{name}: expected an integer, got {describe(offset)}")
    if not -FARTHEST <= found <= FARTHEST:
        raise ValueError(f"{name}: expected an integer from -2^61 to 2^61, got {offset}")
    return found


def _answer(predicate: Predicate, batch: Tensor, i: Tensor, j: Tensor) -> Tensor | bool:
    """What the predicate says, if that is an answer for every place."""
    answer: object = predicate(batch, i, j)
    if isinstance(answer, bool):
        return answer
    if not isinstance(answer, Tensor) or not is_readable(answer) or answer.dtype != torch.bool:
        raise ValueError(f"predicate: expected it to return a bool tensor, got {describe(answer)}")
    places = torch.broadcast_shapes(batch.shape, i.shape, j.shape)
    fits = answer.ndim <= len(places) and all(
        got in (1, want) for got, want in zip(reversed(answer.shape), reversed(places), strict=False)
    )
    if not fits:
        raise ValueError(
            f"predicate: expected a tensor that broadcasts to {list(places)}, the shape of its arguments, got {describe(answer)}"
        )
    return answer


def _both(a: Tensor | None, b: Tensor | None, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    if a.shape != b.shape:
        raise ValueError(f"cannot combine masks over shapes {list(a.shape)} and {list(b.shape)}")
    return combine(a, b)


def _pair_ids(a: Tensor, b: Tensor) -> Tensor:
    """One id for each pair of ids, so that equal pairs are equal ids."""
    return _ranks(a) * b.numel() + _ranks(b)


def _ranks(ids: Tensor) -> Tensor:
    """How many ids are smaller: in [0, ids.numel()), whatever the ids."""
    return torch.searchsorted(ids.flatten().sort().values, ids.contiguous())
