"""Implementations of attention with probes. Backends do not import one another and never fall back in silence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp_kernels.backends import cpu, reference, triton
from interp_kernels.operands import Operands
from interp_kernels.probes import Probe

# Where two threads make a process's first call of exp together, one of them gets its share wrong by 1e-4: in one process of five,
# with torch 2.13 (MKL) on AVX-512; never after a call by one thread, which this is.
torch.zeros(64, device="cpu").exp()

Run = Callable[[Operands, tuple[Probe, ...]], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""Checked operands and probes -> output, log-sum-exp, statistics by name."""

BACKENDS: dict[str, Run] = {"reference": reference.run, "cpu": cpu.run, "triton": triton.run}
"""What can be asked for by name."""


def run(backend: str, ops: Operands, probes: tuple[Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the backend of that name gives, in the precision of ``attend`` where the caller has autocast on, too."""
    with torch.autocast(ops.q.device.type, enabled=False):
        return BACKENDS[backend](ops, probes)
