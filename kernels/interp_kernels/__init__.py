"""Attention that measures itself: fused passes with declared statistics, and the lazy attention map. Needs torch alone."""

from interp_kernels.api import Attended, attend
from interp_kernels.map import AttentionMap
from interp_kernels.mask import Mask
from interp_kernels.probes import Distance, Entropy, KeyMass, LabelMatch, OffsetMass, Peak, Probe, Received

__all__ = [
    "Attended",
    "AttentionMap",
    "Distance",
    "Entropy",
    "KeyMass",
    "LabelMatch",
    "Mask",
    "OffsetMass",
    "Peak",
    "Probe",
    "Received",
    "attend",
]
