"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences, divergences
    from interp.heads.lookback import LookbackRatios, lookback
    from interp.heads.lookback_detector import LookbackDetector
    from interp.heads.surface import SurfaceStatistics, surface

__all__ = [
    "HeadDivergences",
    "LookbackDetector",
    "LookbackRatios",
    "SurfaceStatistics",
    "divergences",
    "lookback",
    "surface",
]

lazily(
    __name__,
    {
        "HeadDivergences": "interp.heads.divergence",
        "LookbackDetector": "interp.heads.lookback_detector",
        "LookbackRatios": "interp.heads.lookback",
        "SurfaceStatistics": "interp.heads.surface",
        "divergences": "interp.heads.divergence",
        "lookback": "interp.heads.lookback",
        "surface": "interp.heads.surface",
    },
)
