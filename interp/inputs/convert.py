"""From texts, chats, token ids, pixels or sound to one padded batch that the model can run, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from interp.arguments import check_dense, shown, switch
from interp.errors import InputError
from interp.inputs.batch import Batch, Padding
from interp.inputs.decoder_inputs import check_decoder, with_decoder
from interp.inputs.positions import positioned
from interp.inputs.processed import from_floats, from_mapping
from interp.inputs.reads import DIMENSIONS, Reads
from interp.inputs.rows import Inputs, as_tensor, check_ids, is_integer, kind_of, padded, rows_of
from interp.inputs.tokens import token_row, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Batch", "Inputs", "checked", "to_batch", "tokenise"]


def to_batch(
    inputs: Inputs,
    tokenizer: PreTrainedTokenizerBase | None,
    reads: Reads,
    *,
    padding: Padding = "right",
    special: bool = True,
    add_generation_prompt: bool = False,
    decoder: Inputs | None = None,
) -> Batch:
    """The batch of ``inputs``; see ``HookedModel.batch``.

    Raises:
        InputError: empty text or no ids; a text without a tokenizer; ids out of range; a chat without a template; arguments
            that the model does not take; anything else than ``Inputs``.
    """
    if not isinstance(padding, str) or padding not in ("right", "left"):
        raise InputError(f"padding: expected 'right' or 'left', got {shown(padding)}")
    special = switch("special", special)
    add_generation_prompt = switch("add_generation_prompt", add_generation_prompt)
    if isinstance(inputs, np.ndarray):
        inputs = as_tensor(inputs)
    if isinstance(inputs, Mapping):
        batch = _with_rows(from_mapping(inputs, reads), tokenizer)
    elif isinstance(inputs, Tensor) and inputs.is_floating_point() and reads.main in DIMENSIONS:
        batch = from_floats(inputs, reads)
    else:
        reads.check_token_ids()
        ids, keep, rows = padded(
            rows_of(inputs, tokenizer, special, add_generation_prompt), tokenizer, reads.host.shape.vocabulary, padding
        )
        batch = Batch(reads.moved(ids), reads.moved(keep), {}, rows)
    if decoder is not None:
        batch = with_decoder(batch, decoder, tokenizer, reads, special)
    return checked(batch, reads)


def checked(batch: Batch, reads: Reads) -> Batch:
    """A batch that may have been made by hand: its ids in range, and the positions that its padding makes necessary.

    Raises:
        InputError: ids or padding that do not fit the model, or each other.
    """
    check_decoder(batch, reads)
    if batch.ids is None:
        return batch
    ids, keep = batch.ids, batch.keep
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not is_integer(ids):
        raise InputError(f"input_ids: expected integers of shape [B, T], got {kind_of(ids)}")
    check_dense("input_ids", ids)
    check_ids(list(ids), reads.host.shape.vocabulary)
    if keep is None:
        return batch
    if not isinstance(keep, Tensor) or keep.shape != ids.shape:
        raise InputError(f"attention_mask: expected 0/1 of shape {list(ids.shape)} as input_ids, got {kind_of(keep)}")
    check_dense("attention_mask", keep)
    if bool((~keep.bool().any(dim=1)).any()):
        raise InputError("a row of the batch is padding alone; leave it out, or give at least one token")
    return positioned(batch, reads)


def _with_rows(batch: Batch, tokenizer: PreTrainedTokenizerBase | None) -> Batch:
    if batch.ids is None or batch.keep is None:
        return batch
    rows = (
        token_row(ids[kept].tolist(), tokenizer, columns=kept.nonzero()[:, 0].tolist())
        for ids, kept in zip(batch.ids.cpu(), batch.keep.cpu(), strict=True)
    )
    return replace(batch, token_rows=tuple(rows))
