"""Methods of single objects replaced for a while, by several threads at once, and put back by the last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Replacement:
    """``function`` stands in for ``owner.method``. It is its business to tell in which thread, and for whom, it does."""

    owner: Any
    method: str
    function: Callable[..., Any]


@dataclass
class _Held:
    owner: Any
    method: str
    before: Any
    holders: set[object] = field(default_factory=set)


_ABSENT = object()
_held: dict[tuple[int, str], _Held] = {}
_lock = threading.RLock()


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """While it lasts, the functions stand in. They are written to the objects' own dictionaries.

    So also in objects that hand on what is assigned to them, as TransformerLens' components do.
    """
    holder = object()
    try:
        with _lock:
            for each in replacements:
                _take(each, holder)
        yield
    finally:
        with _lock:
            for each in replacements:
                _give_back(each, holder)


def _take(each: Replacement, holder: object) -> None:
    key = id(each.owner), each.method
    held = _held.get(key)
    if held is None:
        own = vars(each.owner)
        held = _held[key] = _Held(each.owner, each.method, own.get(each.method, _ABSENT))
        own[each.method] = each.function
    held.holders.add(holder)


def _give_back(each: Replacement, holder: object) -> None:
    key = id(each.owner), each.method
    held = _held.get(key)
    if held is None:
        return
    held.holders.discard(holder)
    if held.holders:
        return
    del _held[key]
    if held.before is _ABSENT:
        vars(each.owner).pop(each.method, None)
    else:
        vars(each.owner)[each.method] = held.before
