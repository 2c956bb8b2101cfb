"""What a generation with probes gives back: the text, and what each of its tokens looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.captures.capture import Capture
from interp.errors import InputError
from interp.models.layers import LayerKey


@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    """A generated text with the attention that produced it.

    text      the new text without special tokens; a list for a batch; None without a tokenizer
    ids       [B, T] the prompt, padded on the left, and the new tokens; of an encoder-decoder what its decoder read and wrote
    keep      [B, T], False at padding and after the end of a sequence, which is its token of end of sequence
    prompt    how many columns of ``ids`` were given
    prefill   the run over the prompt, all of its rows; None where it was not measured. Of an encoder-decoder with the
              encoder's layers
    steps     steps[n] is the query row that produced new token n: row statistics are [B, H, 1, ...], and its ``ids`` and
              ``keep`` [B, 1] are those of the query. Keys are counted from the first column of ``ids`` (of "cross" layers,
              of the encoder's input). Rows of sequences that have ended before hold NaN, indices -1, and their keep is False
    facts     model name and revision, dtype, device, versions, the settings of generation and the seed
    """

    text: str | list[str] | None
    ids: Tensor
    keep: Tensor
    prompt: int
    prefill: Capture | None
    steps: tuple[Capture, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def new_ids(self) -> Tensor:
        """The new tokens [B, N]."""
        return self.ids[:, self.prompt :]

    @property
    def new_keep(self) -> Tensor:
        """[B, N], False after the end of a sequence."""
        return self.keep[:, self.prompt :]

    def stacked(self, name: str) -> dict[LayerKey, Tensor]:
        """{layer: [B, H, N, ...]} of a statistic without a key axis, for the N new tokens.

        Raises:
            InputError: there is no such statistic in every step, or it has a key axis, which grows from step to step.
        """
        if any("key" in step.statistics[name].axes for step in self.steps if name in step.statistics):
            raise InputError(f"{name} has a key axis, which grows from step to step; take it from generation.steps")
        rows = [step[name] for step in self.steps]
        return {layer: torch.cat([row[layer] for row in rows], dim=2) for layer in rows[0]}

    def __repr__(self) -> str:
        batch = f"{len(self.ids)} x " if len(self.ids) > 1 else ""
        named = ", ".join(self.steps[0].stats) if self.steps else ""
        return (
            f"Generation({self.facts.get('model', '?')}: {batch}{self.prompt} + {len(self.steps)} tokens, "
            f"statistics: {named or 'none'})"
        )
