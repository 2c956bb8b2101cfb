"""Chance: what uniform attention over the visible keys gives on the same input, by the same probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from interp_kernels import Mask, Probe, attend

Layer = TypeVar("Layer")


def uniform_statistics(
    probes: Sequence[Probe], masks: Mapping[Layer, Mask], shape: tuple[int, int, int], device: torch.device
) -> dict[Layer, dict[str, Tensor]]:
    """The probes' values for each layer's mask where all scores are equal, with one head. Layers with one mask share a pass.

    shape: (B, Tq, Tk); probes hold no weights per head
    """
    sequences, queries, keys = shape
    values: dict[int, dict[str, Tensor]] = {}
    for mask in masks.values():
        if id(mask) not in values:
            q = torch.zeros(sequences, 1, queries, 1, device=device)
            k = torch.zeros(sequences, 1, keys, 1, device=device)
            values[id(mask)] = attend(q, k, k, mask=mask, probes=probes).stats
    return {layer: values[id(mask)] for layer, mask in masks.items()}
