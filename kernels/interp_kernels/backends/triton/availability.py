"""Whether the Triton kernels can serve a call, without importing triton."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from interp_kernels import probes as P
from interp_kernels.operands import Operands

MAX_WIDTH = 256
"""Widest q, k and v: what the registers of a block hold."""

MAX_TOP = 64
"""Most keys that TopK keeps: a list of each row in registers."""

MAX_LENGTH = 1 << 24
"""Positions are told apart in float32."""

LEAST_CAPABILITY = (8, 0)

IS_INSTALLED = find_spec("triton") is not None


def refusal(ops: Operands, probes: tuple[P.Probe, ...]) -> str | None:
    """Why the kernels cannot serve this call, and what to do instead; None where they can."""
    q, v = ops.q, ops.v
    if not IS_INSTALLED:
        return "triton is not installed; install it (pip install triton), or use backend='cpu'"
    if q.device.type == "cuda":
        if torch.cuda.get_device_capability(q.device) < LEAST_CAPABILITY:
            return "the Triton kernels need an NVIDIA GPU of compute capability 8.0 or later; use backend='cpu'"
    elif not is_interpreted():
        return (
            f"the Triton kernels run on a CUDA device, got tensors on {q.device}; use backend='cpu', "
            "or set TRITON_INTERPRET=1 before Python starts to run them slowly in the interpreter"
        )
    elif q.dtype == torch.bfloat16:
        return "the Triton interpreter computes wrong bfloat16 products; use float16 or float32 there"
    if q.dtype == torch.float64:
        return "the Triton kernels take float16, bfloat16 and float32, got float64; use backend='cpu' or 'reference'"
    if ops.mask.predicates:
        return "a mask's predicate is a Python function, which no GPU kernel can call; use backend='cpu'"
    if max(q.shape[-1], v.shape[-1]) > MAX_WIDTH:
        widths = f"{q.shape[-1]} and {v.shape[-1]}"
        return f"the Triton kernels take widths of at most {MAX_WIDTH}, got {widths}; use backend='cpu'"
    if max(ops.queries, ops.keys) + abs(ops.offset) >= MAX_LENGTH:
        return f"the Triton kernels take positions below {MAX_LENGTH:,}; use backend='cpu'"
    for probe in probes:
        if isinstance(probe, P.TopK) and probe.k > MAX_TOP:
            return f"TopK.k: the Triton kernels keep at most {MAX_TOP} keys, got {probe.k}; use backend='cpu' or 'reference'"
    return None


def is_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of any device."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
