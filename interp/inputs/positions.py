"""Which position each token has where padding does not stand on the right.

A model numbers the columns of a batch from 0 if it is not told better, so that padding on the left would shift every
token. The positions are given to models that take them; RoBERTa and its kin count the ids that are not padding, and need only
the right id there; relative positions are the same wherever a sequence stands.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

from torch import Tensor, nn

from interp.errors import InputError
from interp.inputs.batch import Batch, is_right_padded
from interp.inputs.reads import Reads

PLAIN = frozenset({"token_type_ids", "decoder_input_ids", "decoder_attention_mask"})
"""What may stand beside token ids without making positions the model's own business, as images do."""
COUNTS_IDS = "create_position_ids_from_input_ids"
"""What transformers calls the function that counts ids which are not padding."""

ALIBI = frozenset({"bloom", "mpt"})
"""Model types whose only positions are ALiBi's distances, without a word of it in their configuration."""
RECURRENT = frozenset({"recurrent_gemma"})
"""Model types whose recurrent layers read on through padding, so that what stands before a sequence changes it."""


def positions(keep: Tensor) -> Tensor:
    """0, 1, ... over the kept tokens of each row [B, T]; at padding some number that the model can look up."""
    return (keep.long().cumsum(dim=1) - 1).clamp(min=0)


def positioned(batch: Batch, reads: Reads) -> Batch:
    """The batch with the positions, or the ids at padding, that the model needs to see each row as if it were alone.

    Raises:
        InputError: padding stands on the left of a model whose learned positions cannot be given, or whose recurrent layers read
            it; or the positions of a model that counts ids end before the batch does.
    """
    ids, keep = batch.ids, batch.keep
    if ids is None or keep is None:
        return batch
    padding = padding_counted(reads.host.inner)
    if padding is not None:
        most = room(reads)
        if most is not None and ids.shape[1] > most:
            raise InputError(
                f"the input has {ids.shape[1]:,} tokens, {reads.name} is made for {most:,}, and its learned positions end "
                "there; cut the input into windows"
            )
        return replace(batch, ids=ids.masked_fill(~keep, padding)) if batch.is_padded else batch
    if is_right_padded(keep):
        return batch
    if getattr(reads.host.config, "model_type", None) in RECURRENT:
        raise InputError(
            f"padding stands on the left, and the recurrent layers of {reads.name} read it as text, so that a sequence would not "
            "have the numbers that it has alone; pad on the right, or give sequences of one length together (to generate, too)"
        )
    if "position_ids" in batch.others or not PLAIN.issuperset(batch.others):
        return batch
    if reads.names is not None and "position_ids" in reads.names:
        return replace(batch, others={**batch.others, "position_ids": positions(keep)})
    if _is_relative(reads):
        return batch
    raise InputError(
        f"padding stands on the left, and {reads.name} takes no position_ids, so that its tokens would be shifted; "
        "pad on the right"
    )


def padding_counted(model: nn.Module) -> int | None:
    """The id that a model leaves out when it counts its tokens (RoBERTa, M2M100); None if it does not count ids."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and COUNTS_IDS in inspect.unwrap(type(module).forward).__code__.co_names:
            return padding
    return None


def room(reads: Reads) -> int | None:
    """Learned positions of a model that counts ids: they begin after its padding id, so that its configuration names more."""
    padding, table = padding_counted(reads.host.inner), getattr(reads.host.config, "max_position_embeddings", None)
    embedded = (m for n, m in reads.host.inner.named_modules() if n.endswith("position_embeddings"))
    is_learned = any(isinstance(m, nn.Embedding) for m in embedded)
    return table - padding - 1 if padding is not None and isinstance(table, int) and is_learned else None


def _is_relative(reads: Reads) -> bool:
    config = reads.host.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    is_alibi = getattr(config, "model_type", None) in ALIBI or bool(getattr(text, "alibi", False))
    return (
        is_alibi
        or reads.host.shape.has_relative_positions
        or bool(getattr(text, "relative_attention_num_buckets", None))
    )
