"""One reading of a text: the lazy maps of every layer and the loss on every token, from one forward run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.captures.capturing import maps_and_output
from interp.causal.loss import check_predicts, losses_of
from interp.errors import InputError
from interp.heads.token_classes import tokens_of

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.inputs.convert import Inputs
    from interp.inputs.tokens import Token
    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey
    from interp.views.token_map import TokenMap

LARGEST_LOGITS = 2**30
"""Bytes of logits [T, vocabulary] that a reading will hold for a moment; of more the losses are left out."""


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """What one model makes of one text.

    tokens     its tokens, as people read them
    text       what it was made from; None where token ids were given
    maps       the lazy map of each layer, [1, H, T, T]: q, k, v and log-sum-exps are held, O(T) memory
    losses     float64 [T]: -ln p(token t | tokens before t) in nats; NaN at the first token, which nothing predicts. None
               where the model does not predict the next token, or the logits would be too large
    no_losses  why there are none; "" where there are
    facts      of the model that read it
    """

    batch: Batch
    tokens: tuple[Token, ...]
    text: str | None
    maps: Mapping[LayerKey, TokenMap]
    losses: np.ndarray | None
    no_losses: str
    facts: Mapping[str, Any]

    @property
    def strings(self) -> list[str]:
        """The tokens' readable texts."""
        return [token.text for token in self.tokens]

    @property
    def bytes(self) -> int:
        """Memory that the maps hold on to."""
        held: dict[int, int] = {}
        for lazy in self.maps.values():
            ops = lazy.operands
            for x in (ops.q, ops.k, ops.v, lazy.lse):
                storage = x.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
        return sum(held.values())

    def __repr__(self) -> str:
        model = self.facts.get("model", "?")
        return f"Reading({model}: {len(self.tokens):,} tokens, {len(self.maps)} layers, {self.bytes / 1e6:.1f} MB)"


def read(model: HookedModel, inputs: Inputs | Batch, *, beyond_context: bool = False) -> Reading:
    """Run ``model`` once over one text, and keep its lazy maps and its loss on each token.

    Memory: O(T) for each layer (``Reading.bytes``), and for a moment the logits, where these are at most ``LARGEST_LOGITS``.

    Args:
        inputs: as of ``HookedModel.capture``; one sequence.
        beyond_context: allow a text longer than the model's context, where its positions are relative.

    Raises:
        InputError: nothing, several sequences, or something unusable was given; a text longer than the context.
        RunError: the activations hold NaN.
    """
    batch = model.checked(inputs, beyond_context=beyond_context)
    if batch.ids is None or batch.rows != 1:
        came = "no token ids" if batch.ids is None else f"{batch.rows} sequences"
        raise InputError(f"a reading is of one text, got {came}")
    why = _why_no_losses(model, batch)
    maps, output = maps_and_output(model, batch, logits=not why)
    losses = None
    if not why:
        losses = np.full(batch.tokens, np.nan)
        losses[1:] = losses_of(output, batch)[0].double().cpu().numpy()
    rows = batch.token_rows
    return Reading(
        batch=batch,
        tokens=tuple(tokens_of(model, batch)[0]),
        text=rows[0].text if rows else None,
        maps=maps,
        losses=losses,
        no_losses=why,
        facts=model.facts(),
    )


def _why_no_losses(model: HookedModel, batch: Batch) -> str:
    """Why there will be no losses, "" where there will."""
    try:
        check_predicts(model)
    except InputError as error:
        return str(error)
    if batch.tokens < 2:
        return "a text of one token predicts nothing"
    size = batch.tokens * model.shape.vocabulary * model.dtype.itemsize
    if size > LARGEST_LOGITS:
        return (
            f"the logits of {batch.tokens:,} tokens over a vocabulary of {model.shape.vocabulary:,} would take "
            f"{size / 1e9:.1f} GB, more than the {LARGEST_LOGITS / 1e9:.1f} GB that a reading allows"
        )
    return ""
