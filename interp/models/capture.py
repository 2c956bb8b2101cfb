"""What one forward run with probes gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import nearest
from interp_kernels import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """Statistics of one forward run, by probe name and layer.

    stats    name -> {layer: tensor}, shapes as in the probe's docstring; heads are numbered by query head
    ids      token ids [B, T]; keep [B, T] is False at padding, and padded rows of a statistic hold NaN
    masks    layer -> who saw whom there
    logits   [B, T, vocabulary] if asked for
    facts    model name and revision, dtype, device, versions, whether the input was longer than the model's context
    """

    stats: Mapping[str, dict[int, Tensor]]
    ids: Tensor
    keep: Tensor
    tokens: list[list[str]]
    masks: Mapping[int, Mask]
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    logits: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> dict[int, Tensor]:
        """{layer: value} of the probe called ``name``."""
        if name not in self.stats:
            raise InputError(f"this capture has no statistic {name!r}; {nearest(name, self.stats)}")
        return self.stats[name]

    def stacked(self, name: str) -> Tensor:
        """The statistic of all captured layers as one tensor with the layers first, on the CPU."""
        return torch.stack([value.cpu() for value in self[name].values()])

    def __repr__(self) -> str:
        b, t = self.ids.shape
        named = ", ".join(self.stats)
        return (
            f"Capture({self.facts.get('model', '?')}: {b} x {t} tokens, {len(self.layers)} layers x {self.heads} heads, "
            f"statistics: {named or 'none'})"
        )
