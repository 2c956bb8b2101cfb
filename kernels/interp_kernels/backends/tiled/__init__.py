"""Tiled attention with probes in plain torch: any device, float64 too. What the other backends leave runs here."""

from interp_kernels.backends.tiled.walk import run

__all__ = ["run"]
