"""What an analysis of heads is measured on: a text in windows, or inputs as they are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from interp.errors import InputError
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.inputs.rows import Inputs
    from interp.models.hooked import HookedModel

BATCH_TOKENS = 8192
"""Positions of one forward run over several windows."""


def batches_of(
    model: HookedModel, inputs: Inputs | Batch, window: int | None, *, beyond_context: bool
) -> Iterator[Batch]:
    """One text or text file in windows of just ``window`` positions, special tokens included; anything else as it is given.

    A last window that is shorter is left out, unless it is the only one. window None: a text is one sequence.

    Raises:
        InputError: a window or inputs that do not fit; a model that reads no token ids.
    """
    if window is None or not isinstance(inputs, str | Path):
        batch = model.checked(inputs, beyond_context=beyond_context)
        if batch.ids is None:
            raise InputError(
                "inputs: expected a text, texts or token ids, for what is found is told by token; got others"
            )
        yield batch
        return
    windows = model.windows(inputs, window, beyond_context=beyond_context)
    whole = [n for n in range(len(windows)) if (n + 1) * windows.size <= len(windows.ids)] or [0]
    together = max(1, BATCH_TOKENS // windows.length)
    for first in range(0, len(whole), together):
        made = [windows[n].batch for n in whole[first : first + together]]
        ids = torch.cat([batch.ids for batch in made if batch.ids is not None])
        rows = tuple(row for batch in made for row in batch.token_rows)
        yield replace(made[0], ids=ids, keep=torch.ones_like(ids, dtype=torch.bool), token_rows=rows)


def single_stack(model: HookedModel, what: str) -> list[int]:
    """The layers of the one stack that reads the tokens.

    Raises:
        InputError: the model has several, or reads no token ids.
    """
    layers = [layer for layer in model.layers if isinstance(layer, int)]
    if model.shape.vocabulary == 0 or not layers:
        raise InputError(
            f"{what} reads token ids through one stack of layers, and {model.name} is not made so; use HookedModel.capture with "
            "probes on the stack that you mean"
        )
    return layers
