"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences, divergences
    from interp.heads.lag_curve import LagCurve, lag_curve
    from interp.heads.lookback import LookbackRatios, lookback
    from interp.heads.lookback_detector import LookbackDetector
    from interp.heads.needles import Needle
    from interp.heads.pattern import Pattern, Tokens
    from interp.heads.recall import needle_recall
    from interp.heads.retrieval import RetrievalHeads, RetrievalResult, retrieval
    from interp.heads.sinks import Sinks, sinks
    from interp.heads.surface import SurfaceStatistics, surface
    from interp.heads.trials import Trial, needle_trials

__all__ = [
    "HeadDivergences",
    "LagCurve",
    "LookbackDetector",
    "LookbackRatios",
    "Needle",
    "Pattern",
    "RetrievalHeads",
    "RetrievalResult",
    "Sinks",
    "SurfaceStatistics",
    "Tokens",
    "Trial",
    "divergences",
    "lag_curve",
    "lookback",
    "needle_recall",
    "needle_trials",
    "retrieval",
    "sinks",
    "surface",
]

lazily(
    __name__,
    {
        "HeadDivergences": "interp.heads.divergence",
        "LagCurve": "interp.heads.lag_curve",
        "LookbackDetector": "interp.heads.lookback_detector",
        "LookbackRatios": "interp.heads.lookback",
        "Needle": "interp.heads.needles",
        "Pattern": "interp.heads.pattern",
        "RetrievalHeads": "interp.heads.retrieval",
        "RetrievalResult": "interp.heads.retrieval",
        "Sinks": "interp.heads.sinks",
        "SurfaceStatistics": "interp.heads.surface",
        "Tokens": "interp.heads.pattern",
        "Trial": "interp.heads.trials",
        "divergences": "interp.heads.divergence",
        "lag_curve": "interp.heads.lag_curve",
        "lookback": "interp.heads.lookback",
        "needle_recall": "interp.heads.recall",
        "needle_trials": "interp.heads.trials",
        "retrieval": "interp.heads.retrieval",
        "sinks": "interp.heads.sinks",
        "surface": "interp.heads.surface",
    },
)
