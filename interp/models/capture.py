"""What one forward run with probes gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.models.layers import LayerKey
from interp.naming import nearest
from interp_kernels import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """Statistics of one forward run, by probe name and layer.

    stats    name -> {layer: tensor}, shapes as in the probe's docstring; heads are numbered by query head. Layers are
             ints, or "encoder.3" and the like; see ``interp.models.layers``
    ids      token ids [B, T], None where the model reads none; keep [B, T] is False at padding, and padded rows of a
             statistic hold NaN
    masks    layer -> who saw whom there
    logits   [B, T, vocabulary] if asked for
    facts    model name and revision, dtype, device, versions, whether the input was longer than the model's context
    """

    stats: Mapping[str, dict[LayerKey, Tensor]]
    ids: Tensor | None
    keep: Tensor | None
    tokens: list[list[str]]
    masks: Mapping[LayerKey, Mask]
    layers: tuple[LayerKey, ...]
    heads: int
    kv_heads: int
    logits: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> dict[LayerKey, Tensor]:
        """{layer: value} of the probe called ``name``."""
        if name not in self.stats:
            raise InputError(f"this capture has no statistic {name!r}; {nearest(name, self.stats)}")
        return self.stats[name]

    def stacked(self, name: str) -> Tensor:
        """The statistic of all captured layers as one tensor with the layers first, on the CPU."""
        return torch.stack([value.cpu() for value in self[name].values()])

    def __repr__(self) -> str:
        size = "" if self.ids is None else f"{self.ids.shape[0]} x {self.ids.shape[1]} tokens, "
        named = ", ".join(self.stats)
        return (
            f"Capture({self.facts.get('model', '?')}: {size}{len(self.layers)} layers x {self.heads} heads, "
            f"statistics: {named or 'none'})"
        )
