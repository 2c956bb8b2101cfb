"""A model whose attention is edited while a context lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from interp.arguments import items, shown
from interp.edits.edit import Edit
from interp.edits.run_again import edited_checkpoints
from interp.errors import InputError
from interp.models.attention import Recording
from interp.models.editing import edits_in_force, edits_on
from interp.models.hooking import check_named, recording_of, standing_recordings
from interp.models.replacing import replaced

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@contextmanager
def edited(model: HookedModel, edits: Edit | Iterable[Edit]) -> Iterator[HookedModel]:
    """While it lasts, every run of ``model`` in this thread is edited; see ``HookedModel.edited``."""
    bound = [edit.on(model) for edit in _checked(edits)]
    layers = model.host.layers
    try:
        with edits_in_force(layers, bound):
            # For runs that report nowhere: a call of the model itself. A capture inside brings a recording of its own.
            plain = Recording.plain(layers, edits_on(layers))
            with model.host.hooked(plain), replaced(edited_checkpoints(model)), _begun_afresh(model, plain):
                yield model
    finally:
        # Contexts need not end in the order in which they began.
        for other in standing_recordings():
            other.edits = edits_on(other.layers)


@contextmanager
def _begun_afresh(model: HookedModel, plain: Recording) -> Iterator[None]:
    """While it lasts, each call of the model in this thread begins at its first layer, also after one that failed on its way."""
    thread = threading.get_ident()

    def begins(module: Any, args: Any, options: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling() and threading.get_ident() == thread:
            check_named(model.host.inner)
            plain.seen.clear()
            if recording_of(next(iter(plain.layers))) is plain:
                _check_no_maps(model, options)

    handles = []
    try:
        handles.append(model.host.inner.register_forward_pre_hook(begins, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_no_maps(model: HookedModel, options: dict[str, Any]) -> None:
    """Refuse to hand out () in silence where the model is asked for its maps."""
    if model.host.inner is not model.host.model:  # a bridge asks of itself, and does without
        return
    asked = options.get("output_attentions")
    if asked or (asked is None and getattr(model.host.config, "output_attentions", False)):
        raise InputError(
            "output_attentions: an edited run goes through the fused pass, which builds no maps that could be returned; leave it "
            "out, and take the lazy maps of HookedModel.maps inside of the same context"
        )


def _checked(edits: Edit | Iterable[Edit]) -> list[Edit]:
    if isinstance(edits, Edit):
        return [edits]
    listed = items(edits)
    for edit in [edits] if listed is None else listed:
        if not isinstance(edit, Edit):
            raise InputError(
                f"edits: expected edits such as interp.edits.ablate('L5H1'), got {shown(edit, 60)}; see docs/edits.md"
            )
    if not listed:
        raise InputError("edits: expected at least one edit such as interp.edits.ablate('L5H1'), got none")
    return listed
