"""GPU kernels in Triton. Importing this package does not import triton; ``run`` does."""

from __future__ import annotations

from torch import Tensor

from interp_kernels.backends.triton.availability import MAX_TOP, refusal
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe

__all__ = ["MAX_TOP", "refusal", "run"]


def run(ops: Operands, probes: tuple[Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    from interp_kernels.backends.triton.passes import run as run_passes

    return run_passes(ops, probes)
