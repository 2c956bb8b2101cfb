"""Which tokens stand on either side of an attention: those of its queries and those of its keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.captures.capture import Side
from interp.inputs.batch import Batch
from interp.inputs.tokens import TokenRow

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


def tokens_of(model: HookedModel, ids: Tensor | None, keep: Tensor | None) -> list[list[str]]:
    """Readable tokens of each sequence, padding left out."""
    if ids is None:
        return []
    kept = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep
    return [model.token_strings(row[of].tolist()) for row, of in zip(ids, kept, strict=True)]


def tokens_of_batch(model: HookedModel, batch: Batch) -> list[list[str]]:
    """Readable tokens of each sequence of ``batch.ids``, as the batch has them where it was made from texts."""
    return _strings(batch.token_rows) or tokens_of(model, batch.ids, batch.keep)


def sides_of(model: HookedModel, batch: Batch, stacks: Iterable[str]) -> dict[str, tuple[Side, Side]]:
    """The tokens of the queries and of the keys of each stack of layers that does not run over ``batch.ids``."""
    apart = [stack for stack in stacks if stack not in ("", "text", "encoder")]
    if not apart:
        return {}
    encoder = Side(batch.ids, batch.keep, tokens_of_batch(model, batch))
    ids, keep = batch.others.get("decoder_input_ids"), batch.others.get("decoder_attention_mask")
    keep = None if keep is None else keep.bool()
    decoder = Side(ids, keep, _strings(batch.decoder_rows) or tokens_of(model, ids, keep))
    sides: dict[str, tuple[Side, Side]] = {}
    for stack in apart:
        match stack:
            case "decoder":
                sides[stack] = decoder, decoder
            case "cross":
                sides[stack] = (decoder, encoder) if batch.has_decoder else (encoder, Side())
            case _:
                sides[stack] = Side(), Side()
    return sides


def _strings(rows: Iterable[TokenRow]) -> list[list[str]]:
    return [row.strings for row in rows]
