"""Gradient checkpointing: layers that the backward pass runs again are edited as they were, in whichever thread and context."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interp.models.attention import Recording
from interp.models.hooking import recording_of
from interp.models.replacing import Replacement

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

CHECKPOINT = "_gradient_checkpointing_func"
"""What transformers calls, in modules that checkpoint, the function that runs a layer now and again in the backward pass."""


def edited_checkpoints(model: HookedModel) -> list[Replacement]:
    """Stand-ins for that function in the modules that have one."""
    found = [(module, vars(module).get(CHECKPOINT)) for module in model.host.inner.modules()]
    return [Replacement(module, CHECKPOINT, _stand_in(model, own)) for module, own in found if own is not None]


def _stand_in(model: HookedModel, own: Callable[..., Any]) -> Callable[..., Any]:
    member = next(iter(model.host.layers))

    def checkpoint(layer: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        recording = recording_of(member)
        if recording is None:
            return own(layer, *arguments, **options)
        edits, seen = recording.edits, list(recording.seen)
        has_run = False

        def run(*given: Any, **named: Any) -> Any:
            nonlocal has_run
            if not has_run:
                has_run = True
                return layer(*given, **named)
            with model.host.hooked(Recording.plain(model.host.layers, edits, seen)):
                return layer(*given, **named)

        return own(run, *arguments, **options)

    return checkpoint
