"""Compile the kernels of a call for a GPU that is not there: what Triton would launch is compiled, not run.

Triton reads the architecture from its driver. A driver that only answers that question stands in for it, and kernels are
warmed up (compiled, not launched) wherever the backend would launch them, with the arguments of a real call, so that what
is known of alignment and strides is what it would be.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one block may have (CUDA programming guide, compute capabilities)."""


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled. registers a thread; stack: bytes a thread spills to; shared: bytes a block."""

    name: str
    registers: int
    stack: int
    shared: int
    num_warps: int
    num_stages: int
    assembly: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.registers} registers, {self.stack} bytes of stack, {self.shared / 1024:.0f} KB shared, "
            f"{self.num_warps} warps, {self.num_stages} stages"
        )


class _Driver:
    """A GPU of which only the architecture is known."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(capability: int, only: str = "") -> Iterator[list[Compiled]]:
    """Inside, kernels (or ``only`` the one of that name) are compiled for the architecture where they would be launched."""
    found: list[Compiled] = []

    def getitem(kernel: JITFunction, grid: Any) -> Callable[..., None]:
        def warm(*args: Any, **kwargs: Any) -> None:
            if only in ("", kernel.fn.__name__):
                found.append(_measured(kernel.warmup(*args, grid=grid, **kwargs)))

        return warm

    with (
        # Not set_active: its counterpart asks for the driver of a real GPU.
        patch.object(driver, "_active", _Driver(capability)),
        patch.object(JITFunction, "__getitem__", getitem),
        patch("interp_kernels.backends.triton.launch.capability", lambda device: capability),
    ):
        yield found


def _measured(kernel: Any) -> Compiled:
    metadata = kernel.metadata
    cubin = Path("/tmp") / f"{kernel.hash}.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    report = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    cubin.unlink()
    used = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert used, report
    return Compiled(
        name=metadata.name,
        registers=int(used[1]),
        stack=int(used[2]),
        shared=metadata.shared,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        assembly=kernel.asm,
    )
