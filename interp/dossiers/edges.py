"""The passages that dossiers show, run once more: of each query its strongest keys, for the heads that show the passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.dossiers.passages import Passage, batches_of
from interp.dossiers.settings import DossierSettings
from interp.inputs.batch import Batch
from interp_kernels import TopK

if TYPE_CHECKING:
    from interp.models.call import AttentionCall
    from interp.models.hooked import HookedModel
    from interp_kernels import Attended, Probe


@dataclass(frozen=True, eq=False)
class Edges:
    """Of one head on one passage: positions int32 [n] of queries and keys, and float32 weights; by query, largest first."""

    query: np.ndarray
    key: np.ndarray
    weight: np.ndarray


Wanted = Mapping[int, Mapping[int, Sequence[int]]]
"""Place of a passage -> layer -> heads that show it."""


def edges_of(
    model: HookedModel,
    passages: Sequence[Passage],
    wanted: Wanted,
    settings: DossierSettings,
    *,
    measured: Callable[[int], object] = lambda tokens: None,
) -> dict[tuple[int, int, int], Edges]:
    """(layer, head, place) -> the ``settings.top`` strongest edges of each query, without those below ``settings.least``.

    Memory: what a forward run of up to 8,192 positions takes, with the edges of one layer at a time, and the result: at most 12
    bytes for each head, passage that it shows, query and edge.
    """
    found: dict[tuple[int, int, int], Edges] = {}
    places = sorted(wanted)
    for batch in batches_of([passages[place] for place in places]):
        here = [places[n] for n in batch]
        rows = np.stack([passages[place].ids for place in here]).astype(np.int64)
        ids = torch.from_numpy(rows).to(model.device)
        layers = {layer for place in here for layer in wanted[place]}

        def probes_of(call: AttentionCall, layers: set[int] = layers) -> Sequence[Probe]:
            return [TopK(settings.top)] if call.layer.key in layers else ()

        def record(call: AttentionCall, attended: Attended, here: list[int] = here, layers: set[int] = layers) -> None:
            layer = call.layer.key
            if layer not in layers:
                return
            assert isinstance(layer, int)
            weights, keys = attended.stats["top_k"].float().cpu(), attended.stats["top_k_index"].cpu()
            for row, place in enumerate(here):
                for head in wanted[place].get(layer, ()):
                    found[layer, head, place] = _strong(weights[row, head], keys[row, head], settings.least)

        inputs = model.checked(Batch(ids, torch.ones_like(ids, dtype=torch.bool)), beyond_context=False)
        model.run(inputs, probes_of, record, logits=False)
        measured(ids.numel())
    return found


def _strong(weights: torch.Tensor, keys: torch.Tensor, least: float) -> Edges:
    """weights, keys [T, k]."""
    query, rank = np.nonzero((weights.numpy() >= least) & (keys.numpy() >= 0))
    return Edges(
        query.astype(np.int32),
        keys.numpy()[query, rank].astype(np.int32),
        weights.numpy()[query, rank].astype(np.float32),
    )
