"""Chance: what uniform attention over the visible keys gets on the same input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_kernels import AttentionMap, Mask, Probe, attend
from interp_kernels.api import Attended


def uniform_stats(probes: Sequence[Probe], masks: Sequence[Mask], ids: Tensor) -> list[dict[str, Tensor]]:
    """The probes' values under uniform attention, for each layer's mask. ids: [B, T], for their shape and device."""
    return [attended.stats for attended in _uniform(probes, masks, ids)]


def uniform_maps(masks: Sequence[Mask], ids: Tensor) -> list[AttentionMap]:
    """The lazy map of uniform attention, for each layer's mask: [B, 1, T, T]. ids: [B, T], for their shape and device."""
    return [attended.map for attended in _uniform((), masks, ids)]


def _uniform(probes: Sequence[Probe], masks: Sequence[Mask], ids: Tensor) -> list[Attended]:
    """Equal scores give equal attention; layers that share a mask share the pass."""
    made: dict[int, Attended] = {}
    for mask in masks:
        if id(mask) not in made:
            zeros = torch.zeros(ids.shape[0], 1, ids.shape[1], 1, device=ids.device)
            made[id(mask)] = attend(zeros, zeros, zeros, mask=mask, probes=probes)
    return [made[id(mask)] for mask in masks]
