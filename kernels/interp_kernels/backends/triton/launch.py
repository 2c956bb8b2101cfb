"""One way to start every kernel: the arguments it names, the configuration that is chosen for it, its grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any

import torch

from interp_kernels.backends.triton.operands import Call
from interp_kernels.backends.triton.tuning import Config, Kind, choose, configurations


def launch(
    kernel: Any, kind: Kind, call: Call, grid: Callable[[Config], tuple[int, ...]], arguments: dict[str, Any]
) -> Config:
    """Run ``kernel`` on the arguments of the call and its own. Returns the configuration that it ran with.

    grid: from a configuration to the numbers of programs. A grid with no program is not launched.
    """
    q = call.ops.q
    given = call.arguments | arguments
    named = {name: given[name] for name in kernel.arg_names if name not in ("BLOCK_M", "BLOCK_N")}

    def run(config: Config) -> None:
        blocks = {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n}
        # Fusing products with sums is asked for, not left to Triton's default, which is about to change.
        kernel[grid(config)](
            **named,
            **{name: size for name, size in blocks.items() if name in kernel.arg_names},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            enable_fp_fusion=True,
        )

    candidates = configurations(kind, capability(q.device), q.element_size(), max(call.width, call.value_width))

    def key() -> Hashable:
        flags = tuple((name, value) for name, value in named.items() if name.isupper())
        lengths = tuple(min(n, 1 << 16).bit_length() for n in (call.ops.queries, call.ops.keys))
        return kernel.__name__, q.device, q.dtype, flags, lengths

    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        config = choose(key, candidates, run, q.device)
        if all(grid(config)):
            run(config)
    return config


def capability(device: torch.device) -> int:
    """80, 90, ...; 80 where there is no GPU (the interpreter)."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
