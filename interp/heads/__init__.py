"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.lag_curve import LagCurveResult, lag_curve
from interp.heads.pattern import Pattern, Tokens
from interp.heads.sinks import SinksResult, sinks

__all__ = ["LagCurveResult", "Pattern", "SinksResult", "Tokens", "lag_curve", "sinks"]
