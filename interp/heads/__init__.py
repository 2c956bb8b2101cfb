"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences, divergences
    from interp.heads.surface import SurfaceStatistics, surface

__all__ = ["HeadDivergences", "SurfaceStatistics", "divergences", "surface"]

lazily(
    __name__,
    {
        "HeadDivergences": "interp.heads.divergence",
        "SurfaceStatistics": "interp.heads.surface",
        "divergences": "interp.heads.divergence",
        "surface": "interp.heads.surface",
    },
)
