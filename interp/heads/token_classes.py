"""Kinds of tokens, told by what each one is: special ones, punctuation, or the user's own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.tokens import Token, token_row

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

TokenClass = Callable[[Token], bool]
"""Whether a token belongs to the class."""


def is_special(token: Token) -> bool:
    """Beginning, end, separator and the like: what the tokenizer calls special."""
    return token.is_special


def is_punctuation(token: Token) -> bool:
    """Nothing but punctuation (Unicode categories P), spaces around it aside."""
    text = token.text.strip()
    return bool(text) and not token.is_special and all(unicodedata.category(c).startswith("P") for c in text)


CLASSES: Mapping[str, TokenClass] = {"special": is_special, "punctuation": is_punctuation}


def checked_classes(classes: Any) -> Mapping[str, TokenClass]:
    """Classes as users give them, by name.

    Raises:
        InputError: they are no functions by name.
    """
    if not isinstance(classes, Mapping) or not all(isinstance(n, str) and callable(f) for n, f in classes.items()):
        raise InputError(f"classes: expected names with a function of a token each, got {classes!r:.80}")
    return classes


def members(model: HookedModel, batch: Batch, is_member: TokenClass) -> Tensor:
    """Which tokens of the batch are in the class, bool [B, T]; padding is in none."""
    assert batch.ids is not None
    found = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, tokens in zip(found, tokens_of(model, batch), strict=True):
        for token in tokens:
            row[token.position] = bool(is_member(token))
    return found.to(batch.ids.device)


def tokens_of(model: HookedModel, batch: Batch) -> list[Sequence[Token]]:
    """The tokens of each sequence at their columns; of ids that were given, read back through the tokenizer."""
    if batch.token_rows:
        return [row.tokens for row in batch.token_rows]
    assert batch.ids is not None
    keep = torch.ones_like(batch.ids, dtype=torch.bool) if batch.keep is None else batch.keep
    rows: list[Sequence[Token]] = []
    for ids, kept in zip(batch.ids, keep, strict=True):
        columns = kept.nonzero()[:, 0].tolist()
        tokens = token_row(ids[kept].tolist(), model.tokenizer).tokens
        rows.append([replace(token, position=column) for column, token in zip(columns, tokens, strict=True)])
    return rows
