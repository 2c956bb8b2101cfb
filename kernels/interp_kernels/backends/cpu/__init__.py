"""Attention with probes on CPUs: tiles that stay in a core's cache, scored by BLAS and reduced in one compiled sweep.

The sweeps are compiled by numba. Where it is not installed, and for sums in float64, the same is done in plain torch,
with the same meaning and three to five times slower (``interp_kernels.backends.tiled``).
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from interp_kernels.backends import tiled
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe


def run(ops: Operands, probes: tuple[Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    if not is_compiled(ops):
        return tiled.run(ops, probes)
    from interp_kernels.backends.cpu import passes

    return passes.run(ops, probes)


def is_compiled(ops: Operands) -> bool:
    """Whether the compiled sweeps serve this call: sums in float32, on the CPU, numba at hand."""
    return ops.compute_dtype == torch.float32 and ops.q.device.type == "cpu" and _compiles()


@cache
def _compiles() -> bool:
    """Whether numba is there and compiles. One that is installed and does not start is told about, once."""
    if find_spec("numba") is None:
        return False
    try:
        from numba import config
    except ImportError as error:
        warnings.warn(
            f"numba is installed but cannot be imported ({error}); attention on CPUs takes three to five times longer "
            "until it is repaired or removed",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    # With NUMBA_DISABLE_JIT=1 its functions are Python's, and the sweeps have instructions that Python has not.
    return not config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]
