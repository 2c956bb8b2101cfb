"""From texts or token ids to one padded batch that the model can run, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Inputs = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor | Mapping[str, Any]
"""One text, several texts, one list of token ids, several lists, or an integer tensor [T] or [B, T].

Or what a processor or tokenizer of transformers returns: the arguments of the model's forward by name (``input_ids``,
``attention_mask``, ``pixel_values``, ``decoder_input_ids``, ...).
"""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward run takes.

    ids     token ids [B, T], padded on the right; None where the model reads none (pixels, sound)
    keep    [B, T], False at padding; None without ids
    others  further arguments of the model's forward, such as ``pixel_values`` or ``decoder_input_ids``
    """

    ids: Tensor | None
    keep: Tensor | None
    others: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_padded(self) -> bool:
        return self.keep is not None and not bool(self.keep.all())

    @property
    def tokens(self) -> int:
        """Positions of the longest sequence of ids, 0 without ids."""
        return 0 if self.ids is None else self.ids.shape[1]

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What to call the model's forward with."""
        ids = {} if self.ids is None else {"input_ids": self.ids}
        keep = {} if self.keep is None else {"attention_mask": self.keep.long()}
        return {**ids, **keep, **self.others}

    def queries_kept(self, stack: str) -> Tensor | None:
        """Which queries of a stack of layers are no padding, [B, Tq]; None where all are."""
        if stack in ("decoder", "cross"):
            keep = self.others.get("decoder_attention_mask")
            return None if keep is None or bool(keep.all()) else keep.bool()
        return self.keep if self.is_padded and stack in ("", "encoder", "text") else None


def to_batch(
    inputs: Inputs, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, device: torch.device | str
) -> Batch:
    """The batch of ``inputs``. Texts are tokenised with the tokenizer's own special tokens; ids are taken as they are.

    Raises:
        InputError: empty text or no ids; a text without a tokenizer; ids out of range; anything else than ``Inputs``.
    """
    if isinstance(inputs, Mapping):
        return _from_arguments(inputs, vocabulary, device)
    if vocabulary == 0:
        raise InputError(
            "this model reads no token ids; give what its processor returns, such as {'pixel_values': a tensor}"
        )
    rows = _rows(inputs, tokenizer)
    _check_ids(rows, vocabulary)
    longest = max(row.numel() for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    keep = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : row.numel()] = row
        keep[number, : row.numel()] = True
    return Batch(ids.to(device), keep.to(device))


def _from_arguments(inputs: Mapping[str, Any], vocabulary: int, device: torch.device | str) -> Batch:
    given = {str(name): value for name, value in inputs.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.ndim < 1 or value.numel() == 0:
            raise InputError(f"inputs[{name!r}]: expected a tensor with a batch dimension, got {value!r:.60}")
    if not given:
        raise InputError("inputs: expected arguments of the model's forward by name, got an empty mapping")
    others = {name: value.to(device) for name, value in given.items()}
    ids, keep = others.pop("input_ids", None), others.pop("attention_mask", None)
    if ids is not None:
        if ids.ndim != 2 or ids.is_floating_point():
            raise InputError(f"input_ids: expected integers of shape [B, T], got {ids.dtype} {list(ids.shape)}")
        _check_ids(list(ids), vocabulary)
        keep = torch.ones_like(ids) if keep is None else keep
        if keep.shape != ids.shape:
            raise InputError(
                f"attention_mask: expected 0/1 of shape {list(ids.shape)} as input_ids, got {list(keep.shape)}"
            )
        keep = keep.bool()
    elif keep is not None:
        others["attention_mask"] = keep
        keep = None
    return Batch(ids, keep, others)


def _check_ids(rows: Sequence[Tensor], vocabulary: int) -> None:
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


def _rows(inputs: Any, tokenizer: PreTrainedTokenizerBase | None) -> list[Tensor]:
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
