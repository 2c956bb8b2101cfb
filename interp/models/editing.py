"""Which edits this thread has in force on a model: every run of the model takes them over when it begins."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interp.models.layers import LayersOf

if TYPE_CHECKING:
    from interp.models.attention import Edit


class _Thread(threading.local):
    """Of this thread, the outermost first."""

    edits: tuple[tuple[LayersOf, tuple[Edit, ...]], ...] = ()


_thread = _Thread()


@contextmanager
def edits_in_force(layers: LayersOf, edits: Sequence[Edit]) -> Iterator[None]:
    """While it lasts, this thread's runs of the model with these layers are edited, after the edits already in force."""
    entry = (layers, tuple(edits))
    try:
        _thread.edits = (*_thread.edits, entry)
        yield
    finally:
        _thread.edits = tuple(each for each in _thread.edits if each is not entry)


def edits_on(layers: LayersOf) -> tuple[Edit, ...]:
    """The edits in force on the model with these layers, in the order in which they were given."""
    return tuple(edit for modules, edits in _thread.edits if modules.keys() == layers.keys() for edit in edits)
