"""A model whose attention is edited while a context lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from interp.edits.edit import Edit
from interp.errors import InputError
from interp.models.attention import Recording
from interp.models.editing import edits_in_force
from interp.models.hooking import check_named

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@contextmanager
def edited(model: HookedModel, edits: Edit | Iterable[Edit]) -> Iterator[HookedModel]:
    """While it lasts, every run of ``model`` in this thread is edited; see ``HookedModel.edited``."""
    bound = [edit.on(model) for edit in _checked(edits)]
    with edits_in_force(model.host.layers, bound):
        # For runs that report nowhere: a call of the model itself. A capture inside brings a recording of its own.
        plain = Recording(model.host.layers, lambda call: (), lambda call, attended: None, is_standing=True)
        with model.host.hooked(plain), _begun_afresh(model, plain):
            yield model


@contextmanager
def _begun_afresh(model: HookedModel, plain: Recording) -> Iterator[None]:
    """While it lasts, each call of the model in this thread begins at its first layer, also after one that failed on its way."""
    thread = threading.get_ident()

    def begins(*_: Any) -> None:
        if not torch.compiler.is_compiling() and threading.get_ident() == thread:
            check_named(model.host.inner)
            plain.seen.clear()

    handles = []
    try:
        handles.append(model.host.inner.register_forward_pre_hook(begins))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(edits: Edit | Iterable[Edit]) -> list[Edit]:
    if isinstance(edits, Edit):
        return [edits]
    listed = list(edits) if isinstance(edits, Iterable) and not isinstance(edits, str) else None
    for edit in [edits] if listed is None else listed:
        if not isinstance(edit, Edit):
            raise InputError(
                f"edits: expected edits such as interp.edits.ablate('L5H1'), got {edit!r:.60}; see docs/edits.md"
            )
    if not listed:
        raise InputError("edits: expected at least one edit such as interp.edits.ablate('L5H1'), got none")
    return listed
