"""When an answer is at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria


class StopAt(StoppingCriteria):
    """Ends a text once one of ``texts`` stands in what is new of it, white space at its start left out."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt: int) -> None:
        self.texts, self.tokenizer, self.prompt = tuple(texts), tokenizer, prompt

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        written = [str(self.tokenizer.decode(row[self.prompt :], skip_special_tokens=True)) for row in input_ids]
        ended = [any(text in new.lstrip() for text in self.texts) for new in written]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)
