"""Which positions of an input and which tokens of the vocabulary an attribution is about, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.edits.positions import Positions, Where
from interp.errors import InputError
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Tokens = int | str | Sequence[int] | Tensor | np.ndarray
"""One token for all positions, as its id or its text, or ids, one for each position."""


def rows_of(what: str, batch: Batch, where: Where, *, decoder: bool = False) -> tuple[Tensor, Tensor]:
    """The positions that are meant, sequence after sequence: sequences [N] and columns [N], ascending, each once.

    Positions are columns of the batch. A negative one counts back from the last token of each sequence, so that -1 is that token
    whatever the padding. Of a slice, a mask and None padding is left out.

    Args:
        what: the argument's name in messages.
        decoder: of what the decoder of an encoder-decoder reads.

    Raises:
        InputError: a position that is padding or beyond the input; nothing is left.
    """
    given = Positions.of(what, where).given
    keep = _kept(batch, decoder=decoder)
    b, t = keep.shape
    if isinstance(given, tuple):
        chosen = torch.zeros_like(keep)
        for sequence in range(b):
            columns = keep[sequence].nonzero()[:, 0].tolist()
            for position in given:
                chosen[sequence, _column(what, position, columns, sequence, t, many=b > 1)] = True
    elif isinstance(given, Tensor):
        mask = given.to(keep.device)
        if mask.shape[-1] != t or (mask.ndim == 2 and mask.shape[0] not in (1, b)):
            raise InputError(f"{what}: expected a mask of shape [{t}] or [{b}, {t}], got {list(given.shape)}")
        chosen = mask.expand(b, t) & keep
    else:
        chosen = torch.zeros_like(keep)
        chosen[:, slice(None) if given is None else given] = True
        chosen &= keep
    if not bool(chosen.any()):
        raise InputError(f"{what}: {where!r:.60} chooses none of the {t} positions; give at least one")
    sequences, columns = chosen.nonzero(as_tuple=True)
    return sequences, columns


def target_ids(what: str, model: HookedModel, given: Tokens, count: int, vocabulary: int) -> Tensor:
    """The ids of the tokens that are meant, one for each of ``count`` positions, [N].

    Raises:
        InputError: a text that is not one token; an id outside of the vocabulary; another number of ids than positions.
    """
    if isinstance(given, str):
        given = _single(what, model, given)
    if isinstance(given, bool) or not isinstance(given, Integral | Sequence | Tensor | np.ndarray):
        raise InputError(
            f"{what}: expected a token as its id or its text, or ids, one for each position, got {given!r:.60}"
        )
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what}: expected whole numbers, the ids of tokens, got {given!r:.60}") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"{what}: expected whole numbers, the ids of tokens, got {ids.dtype} {list(ids.shape)}")
    if ids.numel() not in (1, count):
        raise InputError(f"{what}: expected one token, or one for each of the {count} positions, got {ids.numel()}")
    ids = ids.reshape(-1).long().expand(count) if ids.numel() == 1 else ids.reshape(-1).long()
    outside = ids[(ids < 0) | (ids >= vocabulary)]
    if outside.numel():
        raise InputError(
            f"{what}: there is no token {int(outside[0])}; the model gives logits of the ids 0 to {vocabulary - 1}"
        )
    return ids


def _single(what: str, model: HookedModel, text: str) -> int:
    """The id of a text that is one token."""
    if not text:
        raise InputError(f"{what}: the text is empty; give a token's text or its id")
    if model.tokenizer is None:
        raise InputError(
            f"{what}: {model.name} has no tokenizer, so that {text!r:.40} means nothing; give the token's id"
        )
    known = model.tokenizer.get_vocab()
    if text in known:
        return int(known[text])
    pieces = [int(i) for i in model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    if len(pieces) == 1:
        return pieces[0]
    shown = ", ".join(f"{piece!r} ({i})" for piece, i in zip(model.token_strings(pieces), pieces, strict=True))
    raise InputError(
        f"{what}: the text {text!r:.40} is {len(pieces)} tokens{': ' if shown else ''}{shown}; give one of them, by its text "
        "with its leading space or by its id"
    )


def _kept(batch: Batch, *, decoder: bool) -> Tensor:
    if decoder:
        ids = batch.others["decoder_input_ids"]
        kept = batch.queries_kept("decoder")
        return torch.ones_like(ids, dtype=torch.bool) if kept is None else kept.bool()
    if batch.keep is not None:
        return batch.keep.bool()
    x = batch.others["inputs_embeds"] if batch.ids is None else batch.ids
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def _column(what: str, position: int, columns: list[int], sequence: int, t: int, *, many: bool) -> int:
    """The column of one position of a sequence whose tokens stand in ``columns``."""
    of = f" of sequence {sequence}" if many else ""
    if position < 0:
        if -position > len(columns):
            raise InputError(f"{what}: there is no position {position}{of}, which has {len(columns)} tokens")
        return columns[position]
    if position >= t:
        raise InputError(f"{what}: there is no position {position}; the input has the positions 0 to {t - 1}")
    if position not in columns:
        raise InputError(
            f"{what}: position {position}{of} is padding; its tokens stand at {columns[0]} to {columns[-1]}"
        )
    return position
