"""What a model is asked to do while heads are ablated: a number, or one for each sample, and which way is worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, RunError
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Metric = Callable[["HookedModel"], Any]
"""Runs the model and gives a number, or a number for each sample (1-D), the same samples in the same order each time."""


@dataclass(frozen=True, eq=False)
class Task:
    """A metric of a model. It is called once for each condition, while that condition's edit is in force.

    name     what it measures, as axes and summaries call it
    metric   from the model to a number, or to a 1-D tensor (array, list) of one number for each sample
    worse    "higher" (a loss) or "lower" (a recall)
    unit     of the metric, such as "nats per token"
    sample   what one sample is, such as "window"
    inputs   what it is measured on, for the record: numbers, strings, checksums
    batches  its inputs, where it has some that a mean ablation can take its means over
    """

    name: str
    metric: Metric
    worse: Literal["higher", "lower"]
    unit: str = ""
    sample: str = "sample"
    inputs: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[Batch, ...] = ()

    def __post_init__(self) -> None:
        check_worse(self.worse)
        if not callable(self.metric):
            raise InputError(f"Task: expected a function of the model for metric, got {self.metric!r:.60}")
        if not isinstance(self.name, str) or not self.name.strip():
            raise InputError(f"Task: expected a name such as 'accuracy', got {self.name!r}")

    @property
    def sign(self) -> int:
        """Of a change for the worse."""
        return 1 if self.worse == "higher" else -1

    def measured(self, model: HookedModel) -> np.ndarray:
        """The metric as float64 [samples], edits in force applied.

        Raises:
            InputError: it gives neither a number nor a 1-D tensor of numbers.
            RunError: it gives NaN or infinity.
        """
        given = self.metric(model)
        try:
            values = (
                given.detach().double().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given, dtype=float)
            )
        except (TypeError, ValueError):
            raise InputError(_unusable(self.name, repr(given))) from None
        if values.ndim > 1 or values.size == 0:
            raise InputError(_unusable(self.name, f"shape {list(values.shape)}"))
        values = values.reshape(-1)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise RunError(
                f"task {self.name!r}: its metric gave {values[bad]} for sample {bad}; finite numbers are needed"
            )
        return values


def check_worse(worse: Any) -> None:
    """Refuse a direction that is none.

    Raises:
        InputError: it is neither "higher" nor "lower".
    """
    if worse not in ("higher", "lower"):
        raise InputError(
            f"worse: expected 'higher' (a loss, where more is worse) or 'lower' (an accuracy, a recall), got {worse!r}"
        )


def batches_of(ids: Tensor, model: HookedModel, most: int) -> list[Batch]:
    """Sequences of one length, [S, T], as batches of at most ``most`` positions (but a sequence at least)."""
    rows = max(1, most // ids.shape[1])
    ids = ids.to(model.device)
    return [Batch(part, torch.ones_like(part, dtype=torch.bool)) for part in ids.split(rows)]


def _unusable(name: str, came: str) -> str:
    return f"task {name!r}: expected a metric that gives a number, or a 1-D tensor of one number for each sample, got {came:.80}"
