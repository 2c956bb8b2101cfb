"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.head_tokens import HeadTokens, head_tokens
from interp.heads.logit_attribution import LogitAttribution, logit_attribution

__all__ = ["HeadTokens", "LogitAttribution", "head_tokens", "logit_attribution"]
