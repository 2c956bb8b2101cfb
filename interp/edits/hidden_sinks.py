"""Columns that draw attention to themselves whatever the query: what recalibration acts on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.arguments import check_hooked, shown, switch
from interp.edits.edit import checked_number
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.layers import LayerKey
from interp_kernels import Mask, Received
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


class HiddenSinks(dict[LayerKey, Tensor]):
    """Layer -> which keys of each head, bool [B, Hq, T].

    keep: layer -> which of its keys are no padding, [B, T]; None where all are
    """

    def __init__(self, found: Mapping[LayerKey, Tensor], keep: Mapping[LayerKey, Tensor | None]) -> None:
        super().__init__(found)
        self.keep = dict(keep)


def hidden_sinks(
    model: HookedModel,
    inputs: Inputs | Batch,
    *,
    threshold: float = 0.1,
    min_queries: int = 1,
    keep_first: bool = True,
    layers: Iterable[LayerKey] | None = None,
) -> HiddenSinks:
    """The keys k of each head with alpha_k > threshold: what a query gives them on average, over the queries that see them.

        alpha_k = sum_i P_ik / (number of queries that see k),    from 0 to 1

    Found in one run, in O(T) memory. Of ACT (Yu et al., arXiv 2406.15765), whose code lets the first column that it finds
    stay as it is, in most heads that of the first token, and asks for at least one later query.

    Args:
        model: edits in force on it are in force here too.
        inputs: as of ``HookedModel.capture``.
        threshold: alpha_k that a sink exceeds.
        min_queries: queries after k that a causal layer must have, for late keys are seen by few; padded ones do not count.
        keep_first: leave out the first column of each head and sequence that is found.
        layers: which layers, all by default.

    Returns:
        layer -> bool [B, Hq, T], for ``interp.edits.recalibrate(keys=...)``, which wants inputs padded in the same way.

    Raises:
        InputError: a threshold outside of 0 to 1, or min_queries below 0.
    """
    check_hooked("hidden_sinks: model", model)
    keep_first = switch("hidden_sinks: keep_first", keep_first)
    threshold = checked_number("hidden_sinks: threshold", threshold, 0.0, 1.0)
    least = whole(min_queries)
    if least is None or not 0 <= least < 2**63:
        raise InputError(f"hidden_sinks: expected a whole number from 0 on for min_queries, got {shown(min_queries)}")
    capture = model.capture(inputs, [Received(normalize=True, name="alpha")], layers=layers)
    found = {
        layer: flagged_columns(
            alpha, capture.masks[layer], capture.keep, threshold, min_queries=least, keep_first=keep_first
        )
        for layer, alpha in capture["alpha"].items()
    }
    return HiddenSinks(found, {layer: capture.keys(layer).keep for layer in found})


def flagged_columns(
    alpha: Tensor, mask: Mask, keep: Tensor | None, threshold: float, *, min_queries: int, keep_first: bool
) -> Tensor:
    """The rule of ``hidden_sinks`` on alpha [B, Hq, T] of one layer: bool [B, Hq, T]. keep: [B, T], False at padding."""
    flagged = alpha > threshold  # NaN, for a key that nobody sees, is not
    if mask.is_causal:
        flagged &= (_later(keep, alpha) >= min_queries)[:, None]
    if keep_first:
        flagged &= flagged.cumsum(dim=-1) > 1
    return flagged


def _later(keep: Tensor | None, alpha: Tensor) -> Tensor:
    """Queries after each position that are no padding, [B, T]."""
    kept = alpha.new_ones(alpha.shape[0], alpha.shape[2]) if keep is None or keep.shape[1] != alpha.shape[2] else keep
    kept = kept.long().to(alpha.device)
    return kept.sum(dim=1, keepdim=True) - torch.cumsum(kept, dim=1)
