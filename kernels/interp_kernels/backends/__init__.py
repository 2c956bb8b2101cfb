"""Implementations of attention with probes. Backends do not import one another and never fall back in silence."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from interp_kernels.backends import cpu, reference, triton
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe

Run = Callable[[Operands, tuple[Probe, ...]], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Checked operands and probes -> output, log-sum-exp, statistics by name."""

BACKENDS: dict[str, Run] = {"reference": reference.run, "cpu": cpu.run, "triton": triton.run}
"""What can be asked for by name."""
