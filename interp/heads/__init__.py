"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.head_tokens import HeadTokens, head_tokens
from interp.heads.logit_attribution import LogitAttribution, logit_attribution
from interp.heads.maps_score import MapsScores, maps_score
from interp.heads.ov_copying import OVCopying, ov_copying

__all__ = [
    "HeadTokens",
    "LogitAttribution",
    "MapsScores",
    "OVCopying",
    "head_tokens",
    "logit_attribution",
    "maps_score",
    "ov_copying",
]
