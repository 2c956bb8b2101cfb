"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences, divergences
    from interp.heads.lag_curve import LagCurve, lag_curve
    from interp.heads.lookback import LookbackRatios, lookback
    from interp.heads.lookback_detector import LookbackDetector
    from interp.heads.pattern import Pattern, Tokens
    from interp.heads.sinks import Sinks, sinks
    from interp.heads.surface import SurfaceStatistics, surface

__all__ = [
    "HeadDivergences",
    "LagCurve",
    "LookbackDetector",
    "LookbackRatios",
    "Pattern",
    "Sinks",
    "SurfaceStatistics",
    "Tokens",
    "divergences",
    "lag_curve",
    "lookback",
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
        "Pattern": "interp.heads.pattern",
        "Sinks": "interp.heads.sinks",
        "SurfaceStatistics": "interp.heads.surface",
        "Tokens": "interp.heads.pattern",
        "divergences": "interp.heads.divergence",
        "lag_curve": "interp.heads.lag_curve",
        "lookback": "interp.heads.lookback",
        "sinks": "interp.heads.sinks",
        "surface": "interp.heads.surface",
    },
)
