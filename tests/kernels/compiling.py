"""Compile the kernels of a call for a GPU that is not there: what Triton would launch is compiled, not run.

Triton reads the architecture from its driver. A driver that only answers that question stands in for it, and kernels are
warmed up (compiled, not launched) wherever the backend would launch them, with the arguments of a real call, so that what
is known of alignment and strides is what it would be.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
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

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z0-9]+)\S*\s*(.*?);", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled. registers a thread; stack: bytes a thread spills to; shared: bytes a block; loops: the
    instructions, by name, of each loop with a product of matrices in it, in the order of the code. Both ways of a branch
    count."""

    name: str
    registers: int
    stack: int
    shared: int
    num_warps: int
    num_stages: int
    loops: tuple[Counter[str], ...]
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
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        report = _dumped("-res-usage", file.name)
        listing = _dumped("-sass", file.name)
    used = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert used, report
    return Compiled(
        name=metadata.name,
        registers=int(used[1]),
        stack=int(used[2]),
        shared=metadata.shared,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        loops=_loops(listing),
        assembly=kernel.asm,
    )


def _dumped(what: str, path: str) -> str:
    return subprocess.run([TOOL, what, path], capture_output=True, text=True, check=True).stdout


def _loops(listing: str) -> tuple[Counter[str], ...]:
    """A loop is what lies between a branch and the earlier place that it goes back to."""
    code = [(int(at, 16), name, rest) for at, name, rest in INSTRUCTION.findall(listing)]
    place = {at: n for n, (at, _, _) in enumerate(code)}
    found = []
    for n, (_, name, rest) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", rest) if name == "BRA" else None
        begin = place.get(int(target[1], 16), n) if target else n
        names = Counter(each for _, each, _ in code[begin : n + 1])
        if begin < n and any("MMA" in each for each in names):
            found.append(names)
    return tuple(found)
