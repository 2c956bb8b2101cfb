"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.sinks import SinksResult, sinks

__all__ = ["SinksResult", "sinks"]
