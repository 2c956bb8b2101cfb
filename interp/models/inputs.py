"""From texts or token ids to one padded batch that the model can run, checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Inputs = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor
"""One text, several texts, one list of token ids, several lists, or an integer tensor [T] or [B, T]."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids [B, T], padded on the right, and ``keep`` [B, T], False at padding."""

    ids: Tensor
    keep: Tensor

    @property
    def is_padded(self) -> bool:
        return not bool(self.keep.all())


def to_batch(
    inputs: Inputs, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, device: torch.device | str
) -> Batch:
    """The batch of ``inputs``. Texts are tokenised with the tokenizer's own special tokens; ids are taken as they are.

    Raises:
        InputError: empty text or no ids; a text without a tokenizer; ids out of range; anything else than ``Inputs``.
    """
    rows = _rows(inputs, tokenizer)
    for number, row in enumerate(rows):
        where = f"input {number}" if len(rows) > 1 else "the input"
        if row.numel() == 0:
            raise InputError(f"{where} is empty; give at least one token")
        low, high = int(row.min()), int(row.max())
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise InputError(
                f"{where} holds token id {bad}, outside of the model's vocabulary of {vocabulary} (0 to {vocabulary - 1})"
            )
    longest = max(row.numel() for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    keep = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : row.numel()] = row
        keep[number, : row.numel()] = True
    return Batch(ids.to(device), keep.to(device))


def tokenise(text: str, tokenizer: PreTrainedTokenizerBase | None, *, special: bool = True) -> list[int]:
    """Token ids of a text, with the tokenizer's own special tokens or without any.

    Raises:
        InputError: there is no tokenizer, or the text is empty or only white space.
    """
    if tokenizer is None:
        raise InputError("this model has no tokenizer; give token ids, or load(..., tokenizer=...) with one")
    if not text.strip():
        raise InputError("the text is empty; give a text with at least one word")
    # The caller checks the length against the model's context and says so in its own words.
    ids = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    if not isinstance(ids, list):
        raise InputError(f"the tokenizer gave {type(ids).__name__} instead of a list of token ids")
    return [int(i) for i in ids]


def _rows(inputs: Inputs, tokenizer: PreTrainedTokenizerBase | None) -> list[Tensor]:
    if isinstance(inputs, str):
        return [torch.tensor(tokenise(inputs, tokenizer))]
    if isinstance(inputs, Tensor):
        if inputs.ndim not in (1, 2) or inputs.is_floating_point() or inputs.dtype == torch.bool:
            raise InputError(
                f"token ids: expected integers of shape [T] or [B, T], got {inputs.dtype} {list(inputs.shape)}"
            )
        return list(inputs.long().cpu()) if inputs.ndim == 2 and len(inputs) else [inputs.long().cpu().flatten()]
    if not isinstance(inputs, Sequence) or len(inputs) == 0:
        raise InputError(f"inputs: expected a text, texts, or token ids, got {inputs!r:.80}")
    if all(isinstance(item, str) for item in inputs):
        return [torch.tensor(tokenise(str(item), tokenizer)) for item in inputs]
    if all(isinstance(item, int) and not isinstance(item, bool) for item in inputs):
        return [torch.tensor(inputs, dtype=torch.int64)]
    if all(isinstance(item, Sequence) and all(type(i) is int for i in item) for item in inputs):
        return [torch.tensor(item, dtype=torch.int64) for item in inputs]
    raise InputError("inputs: expected a text, texts, or token ids (integers), got a mixture or other values")
