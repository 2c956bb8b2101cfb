"""What the decoder of an encoder-decoder reads: given as text or ids, or the token that it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.chat import conversations_of
from interp.inputs.reads import Reads
from interp.inputs.rows import Inputs, check_ids, is_integer, kind_of, padded, rows_of
from interp.inputs.tokens import NOWHERE, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def completed(batch: Batch, reads: Reads) -> Batch:
    """The batch with what the model cannot run without: of an encoder-decoder, the token that its decoder starts with.

    Raises:
        InputError: its configuration does not name that token.
    """
    given = batch.others.keys() & {"decoder_input_ids", "decoder_inputs_embeds"}
    if not reads.has_decoder or given:
        return batch
    start = torch.full((batch.rows, 1), decoder_start(reads), device=reads.host.device)
    return replace(batch, others={**batch.others, "decoder_input_ids": start})


def check_decoder(batch: Batch, reads: Reads) -> None:
    """Refuse decoder ids that the model cannot look up.

    Raises:
        InputError: no integers, none at all, outside of the vocabulary, or more than its positions.
    """
    ids = batch.others.get("decoder_input_ids")
    if ids is None:
        return
    if ids.ndim != 2 or not is_integer(ids):
        raise InputError(f"decoder_input_ids: expected integers of shape [B, T], got {kind_of(ids)}")
    if len(ids) != batch.rows:
        raise InputError(f"decoder_input_ids: expected {batch.rows} rows, as many as inputs, got {len(ids)}")
    check_ids(list(ids), reads.decoder_vocabulary, of="the decoder's input")
    context = reads.decoder_context
    if context is not None and ids.shape[1] > context:
        raise InputError(
            f"the decoder's input has {ids.shape[1]:,} tokens, {reads.name} is made for {context:,}, and its learned positions "
            "end there; shorten it"
        )


def decoder_start(reads: Reads) -> int:
    """The token id that an encoder-decoder's decoder starts with.

    Raises:
        InputError: neither its generation settings nor its configuration name one.
    """
    config, decoder = reads.host.config, getattr(reads.host.config, "decoder", None)
    for name in ("decoder_start_token_id", "bos_token_id"):
        for owner in (getattr(reads.host.inner, "generation_config", None), config, decoder):
            start = getattr(owner, name, None)
            if type(start) is int:
                return start
    raise InputError(
        f"{reads.name} does not say which token its decoder starts with; give decoder= or 'decoder_input_ids' with its ids"
    )


def with_decoder(
    batch: Batch, inputs: Inputs, tokenizer: PreTrainedTokenizerBase | None, reads: Reads, special: bool
) -> Batch:
    """``inputs`` as what the decoder reads: ids as they are, texts after the start token and without their end."""
    if not reads.has_decoder:
        raise InputError(f"decoder: {reads.name} has no decoder beside its encoder; give one text or its ids as inputs")
    if "decoder_input_ids" in batch.others:
        raise InputError("decoder: the inputs hold decoder_input_ids already; give one of them")
    if isinstance(inputs, Mapping) or conversations_of(inputs) is not None:
        raise InputError(f"decoder: expected a text, texts, or token ids, got {inputs!r:.60}")
    rows = rows_of(inputs, tokenizer, special, add_generation_prompt=False, as_target=True)
    rows = [_shifted(row, tokenizer, decoder_start(reads)) if isinstance(row, Encoded) else row for row in rows]
    ids, keep, tokens = padded(rows, tokenizer, reads.decoder_vocabulary, "right", of="the decoder's input")
    if len(ids) != batch.rows:
        raise InputError(f"decoder: expected as many texts or rows of ids as inputs, {batch.rows}, got {len(ids)}")
    others = {**batch.others, "decoder_input_ids": reads.moved(ids)}
    if not bool(keep.all()):
        others["decoder_attention_mask"] = reads.moved(keep.long())
    return replace(batch, others=others, decoder_rows=tokens)


def _shifted(text: Encoded, tokenizer: PreTrainedTokenizerBase | None, start: int) -> Encoded:
    """As in training: the decoder reads the start token and then its text, and has written the end when it has read all."""
    ids, spans = text.ids, text.spans
    if tokenizer is not None and ids[-1] == tokenizer.eos_token_id and len(ids) > 1:
        ids, spans = ids[:-1], spans[:-1]
    if ids[0] != start:
        ids, spans = [start, *ids], np.concatenate([np.full((1, 2), NOWHERE), spans])
    return Encoded(ids, spans, text.text)
