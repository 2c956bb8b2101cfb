"""What is measured of every head on every passage: the probes of one pass, and how they reduce to a number each.

A is the head's map on the passage; i is a query, j a key, both positions counted from 0; "first" is position 0. What a detector
of ``interp.scan`` measures is taken from it, probes and score, so that the numbers are the same. The metric of a corpus is the
mean over passages, chance that of uniform attention over the visible keys on the same passages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.heads.copying import Copying
from interp.heads.current_token import CurrentToken
from interp.heads.detector import ProbeDetector
from interp.heads.first_token_sink import FirstTokenSink
from interp.heads.induction import InductionText
from interp.heads.previous_token import PreviousToken
from interp_kernels import Distance, DistanceHistogram, Entropy, KeyMass, Peak, Probe, Received

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

AWAY, RECEIVED, BY_DISTANCE = "dossier_away", "dossier_received", "dossier_by_distance"
STRONGEST, ENTROPY, DISTANCE = "dossier_strongest", "dossier_entropy", "dossier_distance"

BINS = 40
"""Bins of a histogram of values on a straight scale."""


@dataclass(frozen=True)
class Metric:
    """One number of each head and passage.

    name        as in tables; that of the detector of ``interp.scan`` which measures the same
    definition  in words and symbols
    unit        "" for shares and weights, in [0, 1]
    detector    whose probes and score it is
    is_causal   defined for heads that look back only
    has_chance  whether uniform attention has a value of it: where all weights are equal, which key is the strongest says nothing
    """

    name: str
    definition: str
    unit: str = ""
    detector: ProbeDetector | None = None
    is_causal: bool = False
    has_chance: bool = True

    def edges(self, longest: int) -> np.ndarray:
        """Edges of the bins that its values are counted in, for passages of at most so many positions.

        40 equal bins from 0 to 1, or to ln(longest) nats; distances double from bin to bin (0, 1, 2, 4, ...), their variances
        grow fourfold. Bins are closed on the left, the last one on both sides.
        """
        doubling = distance_edges(longest)
        match self.unit:
            case "nats":
                return np.linspace(0, np.log(longest), BINS + 1)
            case "tokens":
                return doubling.astype(np.float64)
            case "tokens^2":
                return np.concatenate([[0.0], doubling[1:].astype(np.float64) ** 2])
        return np.linspace(0, 1, BINS + 1)


def _of_detector(detector: ProbeDetector, definition: str | None = None) -> Metric:
    return Metric(detector.name, definition or detector.definition, detector=detector, is_causal=detector.is_causal)


METRICS: tuple[Metric, ...] = (
    Metric(
        "strongest",
        "the largest weight max_j A[i, j], over the queries i that look most at another token than themselves and the first; 0 "
        "where none does",
        has_chance=False,
    ),
    _of_detector(PreviousToken()),
    _of_detector(CurrentToken()),
    _of_detector(FirstTokenSink(), "mean over positions i of A[i, 0]: the attention on the first position"),
    _of_detector(InductionText()),
    _of_detector(Copying()),
    Metric("entropy", "mean over queries of -sum_j A[i, j] ln A[i, j]", "nats"),
    Metric("distance", "mean over queries of d_i = sum_j A[i, j] |i - j|", "tokens"),
    Metric("distance_variance", "variance over queries of d_i = sum_j A[i, j] |i - j|", "tokens^2"),
)


def metrics_of(model: HookedModel) -> tuple[Metric, ...]:
    """Those that are defined for the model: induction and copying for heads that look back only."""
    return tuple(metric for metric in METRICS if model.shape.is_causal or not metric.is_causal)


def distance_edges(longest: int) -> np.ndarray:
    """0, 1, 2, 4, 8, ... up to the first power of two that no distance within so many positions reaches."""
    edges = [0, 1]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return np.array(edges)


def probes_for(metrics: tuple[Metric, ...], ids: Tensor, longest: int) -> list[Probe]:
    """What is measured in the pass on a batch of ids [B, T] without padding, for every layer alike.

    Beside the metrics: how much each query gives to other keys than the first, what each key receives, and the mass by distance.
    """
    keys = ids.shape[-1]
    others = torch.ones(keys, 1, device=ids.device)
    others[0] = 0.0
    probes: list[Probe] = [
        Peak(name=STRONGEST),
        Entropy(name=ENTROPY, reduce="mean"),
        Distance(name=DISTANCE),
        DistanceHistogram(tuple(distance_edges(longest).tolist()), name=BY_DISTANCE, reduce="mean"),
        KeyMass(others, name=AWAY),
        Received(name=RECEIVED),
    ]
    for metric in metrics:
        if metric.detector is not None:
            probes += metric.detector.probes(ids, 0)
    return probes


def values_of(metrics: tuple[Metric, ...], stats: Mapping[str, Tensor]) -> Tensor:
    """Each metric of one layer from the values of the probes: float64 [M, B, H] on the CPU, NaN where it is not defined."""
    found = []
    for metric in metrics:
        if metric.detector is not None:
            value = metric.detector.score(stats)
        elif metric.name == "strongest":
            key = stats[f"{STRONGEST}_index"]
            own = torch.arange(key.shape[-1], device=key.device)
            value = stats[STRONGEST].masked_fill((key <= 0) | (key == own), 0.0).amax(dim=-1)
        elif metric.name == "entropy":
            value = stats[ENTROPY]
        else:
            value = _of_distance(metric.name, stats[DISTANCE].double())
        found.append(value.double().cpu())
    return torch.stack(found)


def _of_distance(name: str, by_query: Tensor) -> Tensor:
    """by_query [B, H, T]. A query without a key has the distance 0; on passages without padding there is none."""
    if name == "distance":
        return by_query.mean(dim=-1)
    return by_query.var(dim=-1, correction=0)
