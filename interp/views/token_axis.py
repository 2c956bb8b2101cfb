"""The tokens of one sequence, and which rows and columns of a map are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.inputs.tokens import TokenRow, token_row
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from torch import Tensor

    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel

Tokens = TokenRow | Sequence[str]
"""The tokens of a sequence, as ``Batch.token_rows`` has them; or the text of every row of the map, where none is padding."""

READ = ("", "text", "encoder")
"""Stacks of layers that run over ``Batch.ids``."""


@dataclass(frozen=True, eq=False)
class TokenAxis:
    """n tokens, counted without padding.

    texts    their readable texts
    special  [n] bool, those that mark something rather than being text
    columns  [n] int64, ascending: the index of each one's query row and of its key
    """

    texts: Sequence[str]
    special: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def axis_of(tokens: Tokens, width: int) -> TokenAxis:
    """The tokens of a map of ``width`` rows and columns.

    Raises:
        InputError: they are no tokens, none, or do not fit the map.
    """
    if isinstance(tokens, TokenRow):
        columns = np.array([token.position for token in tokens.tokens], dtype=np.int64)
        special = np.array([token.is_special for token in tokens.tokens], dtype=bool)
        axis = TokenAxis(tokens.strings, special, columns)
    elif isinstance(tokens, Sequence) and not isinstance(tokens, str) and all(isinstance(t, str) for t in tokens):
        if len(tokens) != width:
            raise InputError(
                f"tokens: expected the text of each of the map's {width:,} tokens, got {len(tokens):,}; of a padded sequence "
                "give its entry of Batch.token_rows"
            )
        axis = TokenAxis(tokens, np.zeros(width, dtype=bool), np.arange(width))
    else:
        raise InputError(f"tokens: expected an entry of Batch.token_rows or a list of strings, got {tokens!r:.60}")
    if not len(axis):
        raise InputError("tokens: expected at least one token, got none")
    if axis.columns[-1] >= width or axis.columns[0] < 0 or (np.diff(axis.columns) <= 0).any():
        raise InputError(
            f"tokens: they stand at positions {axis.columns[0]:,} to {axis.columns[-1]:,}, and the map has {width:,}; give the "
            "tokens of the same input"
        )
    return axis


def axis_in(model: HookedModel, batch: Batch, stack: str, sequence: int) -> tuple[TokenRow, int]:
    """The tokens that a stack of layers runs over, of one sequence of a batch; and the batch's columns, padding included.

    Raises:
        InputError: there is no such sequence, or the stack reads something else than tokens.
    """
    is_decoder = stack == "decoder"
    ids = batch.others.get("decoder_input_ids") if is_decoder else batch.ids
    if ids is None or not (is_decoder or stack in READ):
        raise InputError(
            f"heads: a token view shows tokens, and {f'the layers {stack}.*' if stack else 'the layers'} of {model.name} do "
            "not run over the tokens of this input"
        )
    if whole(sequence) is None or not 0 <= sequence < len(ids):
        raise InputError(f"batch: expected a sequence from 0 to {len(ids) - 1}, got {sequence!r}")
    rows = batch.decoder_rows if is_decoder else batch.token_rows
    width = ids.shape[1]
    if rows:
        return rows[sequence], width
    keep = batch.others.get("decoder_attention_mask") if is_decoder else batch.keep
    return _row(model, ids[sequence], None if keep is None else keep[sequence].bool()), width


def _row(model: HookedModel, ids: Tensor, keep: Tensor | None) -> TokenRow:
    columns = range(len(ids)) if keep is None else keep.nonzero()[:, 0].tolist()
    return token_row(ids[list(columns)].tolist(), model.tokenizer, columns=columns)
