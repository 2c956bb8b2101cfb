"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences, divergences
    from interp.heads.head_tokens import HeadTokens, head_tokens
    from interp.heads.lag_curve import LagCurve, lag_curve
    from interp.heads.logit_attribution import logit_attribution
    from interp.heads.logit_attribution_result import LogitAttribution
    from interp.heads.lookback import lookback
    from interp.heads.lookback_detector import LookbackDetector
    from interp.heads.lookback_ratios import LookbackRatios
    from interp.heads.maps_score import MapsScores, maps_score
    from interp.heads.needles import Needle
    from interp.heads.ov_copying import OVCopying, ov_copying
    from interp.heads.pair_divergence import (
        DistanceDivergence,
        PairDivergence,
        distance_divergence,
        pair_divergence,
    )
    from interp.heads.pattern import Pattern, Tokens
    from interp.heads.recall import needle_recall
    from interp.heads.replay import Replay, replay
    from interp.heads.retrieval import RetrievalHeads, retrieval
    from interp.heads.retrieval_result import RetrievalResult
    from interp.heads.sinks import sinks
    from interp.heads.sinks_result import Sinks
    from interp.heads.surface import SurfaceStatistics, surface
    from interp.heads.trials import Trial, needle_trials

__all__ = [
    "DistanceDivergence",
    "HeadDivergences",
    "HeadTokens",
    "LagCurve",
    "LogitAttribution",
    "LookbackDetector",
    "LookbackRatios",
    "MapsScores",
    "Needle",
    "OVCopying",
    "PairDivergence",
    "Pattern",
    "Replay",
    "RetrievalHeads",
    "RetrievalResult",
    "Sinks",
    "SurfaceStatistics",
    "Tokens",
    "Trial",
    "distance_divergence",
    "divergences",
    "head_tokens",
    "lag_curve",
    "logit_attribution",
    "lookback",
    "maps_score",
    "needle_recall",
    "needle_trials",
    "ov_copying",
    "pair_divergence",
    "replay",
    "retrieval",
    "sinks",
    "surface",
]

lazily(
    __name__,
    {
        "DistanceDivergence": "interp.heads.pair_divergence",
        "HeadDivergences": "interp.heads.divergence",
        "HeadTokens": "interp.heads.head_tokens",
        "LagCurve": "interp.heads.lag_curve",
        "LogitAttribution": "interp.heads.logit_attribution_result",
        "LookbackDetector": "interp.heads.lookback_detector",
        "LookbackRatios": "interp.heads.lookback_ratios",
        "MapsScores": "interp.heads.maps_score",
        "Needle": "interp.heads.needles",
        "OVCopying": "interp.heads.ov_copying",
        "PairDivergence": "interp.heads.pair_divergence",
        "Pattern": "interp.heads.pattern",
        "Replay": "interp.heads.replay",
        "RetrievalHeads": "interp.heads.retrieval",
        "RetrievalResult": "interp.heads.retrieval_result",
        "Sinks": "interp.heads.sinks_result",
        "SurfaceStatistics": "interp.heads.surface",
        "Tokens": "interp.heads.pattern",
        "Trial": "interp.heads.trials",
        "distance_divergence": "interp.heads.pair_divergence",
        "divergences": "interp.heads.divergence",
        "head_tokens": "interp.heads.head_tokens",
        "lag_curve": "interp.heads.lag_curve",
        "logit_attribution": "interp.heads.logit_attribution",
        "lookback": "interp.heads.lookback",
        "maps_score": "interp.heads.maps_score",
        "needle_recall": "interp.heads.recall",
        "needle_trials": "interp.heads.trials",
        "ov_copying": "interp.heads.ov_copying",
        "pair_divergence": "interp.heads.pair_divergence",
        "replay": "interp.heads.replay",
        "retrieval": "interp.heads.retrieval",
        "sinks": "interp.heads.sinks",
        "surface": "interp.heads.surface",
    },
)
