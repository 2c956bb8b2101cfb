"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.lag_curve import LagCurveResult, lag_curve
from interp.heads.sinks import SinksResult, sinks

__all__ = ["LagCurveResult", "SinksResult", "lag_curve", "sinks"]
