"""Attention that measures itself: fused passes with declared statistics, and the lazy attention map. Needs torch alone."""

from interp_kernels.api import Attended, attend
from interp_kernels.class_bias import ClassBias
from interp_kernels.map import AttentionMap
from interp_kernels.mask import Mask
from interp_kernels.probes import (
    Distance,
    DistanceHistogram,
    Entropy,
    KeyMass,
    LabelMatch,
    OffsetMass,
    Peak,
    Pooled,
    Probe,
    Received,
    TopK,
)

__all__ = [
    "Attended",
    "AttentionMap",
    "ClassBias",
    "Distance",
    "DistanceHistogram",
    "Entropy",
    "KeyMass",
    "LabelMatch",
    "Mask",
    "OffsetMass",
    "Peak",
    "Pooled",
    "Probe",
    "Received",
    "TopK",
    "attend",
]
