"""From texts, chats or token ids to the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.arguments import check_dense, shown
from interp.errors import InputError
from interp.inputs.batch import Padding
from interp.inputs.chat import Message, conversations_of, written_out
from interp.inputs.textfile import read_text
from interp.inputs.tokens import Encoded, TokenRow, encoded, token_row
from interp_kernels.integers import whole_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Inputs = (
    str
    | Path
    | Sequence[str]
    | Sequence[int]
    | Sequence[Sequence[int] | Tensor | np.ndarray]
    | Sequence[Message]
    | Sequence[Sequence[Message]]
    | Tensor
    | np.ndarray
    | Mapping[str, Any]
)
"""One text, several texts, a text file, token ids (a list or integers [T]; several such, or integers [B, T]); a chat, or several.

Or what a processor or tokenizer of transformers returns: the arguments of the model's forward by name (``input_ids``,
``attention_mask``, ``pixel_values``, ``decoder_input_ids``, ...). Or, for a model of images or sound, floats: [C, H, W] or
[B, C, H, W], the features [mel, T] or the wave [T] of a sound, or several.
"""


def rows_of(
    inputs: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    special: bool,
    add_generation_prompt: bool,
    as_target: bool = False,
) -> list[Encoded | Tensor]:
    """Each sequence: a text as tokenised, or ids."""
    if isinstance(inputs, np.ndarray):
        inputs = as_tensor(inputs)
    if isinstance(inputs, Path):
        return [encoded(read_text(inputs), tokenizer, special=special, as_target=as_target)]
    if isinstance(inputs, str):
        return [encoded(inputs, tokenizer, special=special, as_target=as_target)]
    if isinstance(inputs, Tensor):
        if inputs.ndim not in (1, 2) or not is_integer(inputs):
            raise InputError(f"token ids: expected integers of shape [T] or [B, T], got {kind_of(inputs)}")
        check_dense("token ids", inputs)
        return list(inputs.long().cpu()) if inputs.ndim == 2 and len(inputs) else [inputs.long().cpu().flatten()]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes | bytearray) or len(inputs) == 0:
        raise InputError(f"inputs: expected a text, texts, or token ids, got {shown(inputs)}")
    conversations = conversations_of(inputs)
    if conversations is not None:
        # The template writes special tokens itself; the tokenizer's own would come twice.
        texts = (written_out(each, tokenizer, add_generation_prompt=add_generation_prompt) for each in conversations)
        return [encoded(text, tokenizer, special=False) for text in texts]
    if all(isinstance(item, str) for item in inputs):
        return [encoded(str(item), tokenizer, special=special, as_target=as_target) for item in inputs]
    one = whole_numbers(inputs)
    if one is not None:
        return [_ids(one)]
    each = [whole_numbers(item) for item in inputs]
    if None not in each:
        return [_ids(item) for item in each if item is not None]
    raise InputError(
        "inputs: expected a text, texts, or token ids (integers: one sequence of them, or several), got a mixture or other values"
    )


def _ids(ids: Sequence[int]) -> Tensor:
    try:
        return torch.tensor(ids, dtype=torch.int64)
    except (RuntimeError, ValueError, OverflowError):
        raise InputError(f"token ids: expected integers of 64 bits, got {max(ids, key=abs)}") from None


def padded(
    rows: Sequence[Encoded | Tensor],
    tokenizer: PreTrainedTokenizerBase | None,
    vocabulary: int,
    padding: Padding,
    of: str = "the input",
) -> tuple[Tensor, Tensor, tuple[TokenRow, ...]]:
    """ids [B, T], keep [B, T], and the tokens of each row."""
    all_ids = [torch.tensor(row.ids) if isinstance(row, Encoded) else row for row in rows]
    is_text = [isinstance(row, Encoded) for row in rows]
    check_ids(all_ids, vocabulary, is_text, of)
    longest = max(ids.numel() for ids in all_ids)
    filled = torch.zeros(len(rows), longest, dtype=torch.int64)
    keep = torch.zeros(len(rows), longest, dtype=torch.bool)
    tokens = []
    for number, (row, ids) in enumerate(zip(rows, all_ids, strict=True)):
        first = longest - ids.numel() if padding == "left" else 0
        filled[number, first : first + ids.numel()] = ids
        keep[number, first : first + ids.numel()] = True
        columns = range(first, first + ids.numel())
        if isinstance(row, Encoded):
            tokens.append(token_row(row.ids, tokenizer, row.spans, row.text, columns))
        else:
            tokens.append(token_row(ids.tolist(), tokenizer, columns=columns))
    return filled, keep, tuple(tokens)


def check_ids(
    rows: Sequence[Tensor], vocabulary: int, is_text: Sequence[bool] | None = None, of: str = "the input"
) -> None:
    """Refuse rows without ids, and ids that the model's embedding does not hold.

    Raises:
        InputError: one of them; of a text (``is_text``), whose ids are the tokenizer's, it says so.
    """
    for number, row in enumerate(rows):
        where = of if len(rows) == 1 else f"{of.removeprefix('the ')} {number}"
        if row.numel() == 0:
            raise InputError(f"{where} is empty; give at least one token")
        low, high = int(row.min()), int(row.max())
        if is_text is not None and is_text[number] and high >= vocabulary:
            raise InputError(
                f"the tokenizer gives token id {high}, outside of the model's vocabulary of {vocabulary}; it is not the "
                "tokenizer of this model"
            )
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise InputError(
                f"{where} holds token id {bad}, outside of the model's vocabulary of {vocabulary} (0 to {vocabulary - 1})"
            )


def as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iufb":
        raise InputError(f"inputs: expected a text, texts, or token ids, got an array of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array))


def is_integer(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def kind_of(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
