"""The ablations that a claim can be checked with, as edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from interp import edits
from interp.captures.capture import Capture
from interp.causal.task import Task
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import Head

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Ablation = Literal["zero", "mean", "uniform"]

DEFINITIONS = {
    "zero": "z' = 0: the heads write nothing",
    "mean": "z' = the mean of z over the reference, of each head by itself",
    "uniform": "P' = 1 / (keys that the query sees): the heads attend to all alike",
}


def check_ablation(ablation: Any) -> None:
    """Refuse a name that is none.

    Raises:
        InputError: it is not one of ``DEFINITIONS``.
    """
    if not isinstance(ablation, str) or ablation not in DEFINITIONS:
        raise InputError(f"ablation: expected one of {', '.join(map(repr, DEFINITIONS))}, got {ablation!r}")


def references(
    model: HookedModel, heads: Iterable[Head], task: Task, reference: Inputs | Batch | None, *, beyond_context: bool
) -> tuple[Capture, ...]:
    """What the heads write on the reference: on the task's own inputs where none is given. O(T) memory a head.

    Raises:
        InputError: none is given, and the task has no inputs of its own.
    """
    given = task.batches if reference is None else (reference,)
    if not given:
        raise InputError(
            f"ablation 'mean' needs inputs to take the means over, and the task {task.name!r} names none; give reference="
        )
    chosen = list(heads)
    return tuple(
        model.capture(inputs, [], heads=chosen, outputs=True, beyond_context=beyond_context) for inputs in given
    )


def ablating(ablation: Ablation, heads: Sequence[Head], reference: tuple[Capture, ...]) -> edits.Edit:
    """The edit that ablates these heads."""
    if ablation == "mean":
        return edits.mean_ablate(*heads, reference=reference)
    return edits.ablate(*heads) if ablation == "zero" else edits.uniform(*heads)
