"""Every Triton kernel compiles for sm_80 and sm_90 in every configuration, within the device's shared memory. No GPU needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp_kernels.backends.triton.availability import IS_INSTALLED

if IS_INSTALLED:
    from tests.kernels.compiling import SHARED_LIMIT

pytestmark = pytest.mark.skipif(
    not IS_INSTALLED or sys.platform != "linux", reason="needs triton, whose wheel for Linux holds NVIDIA's assembler"
)

ROOT = Path(__file__).resolve().parents[2]

DEVICE_CODE = ROOT / "kernels" / "interp_kernels" / "backends" / "triton" / "device"
KERNELS = [path for path in DEVICE_CODE.glob("*.py") if "_kernel(" in path.read_text("utf-8")]
"""One file a kernel, of its name."""

MOST_STACK = 512
"""Bytes a thread that a forward kernel in 16-bit types may spill: above it the tile would be too large."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, subprocess.Popen[str]]]:
    """One process an architecture, side by side: each compiles for a minute or two."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    paths = [str(ROOT), str(ROOT / "kernels"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    running = {
        capability: subprocess.Popen(
            [sys.executable, "-m", "tests.kernels.compiled_calls", str(capability)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for capability in SHARED_LIMIT
    }
    yield running
    for program in running.values():
        program.kill()
        program.communicate()


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_in_every_configuration(
    capability: int, programs: dict[int, subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, errors = programs[capability].communicate(timeout=900)
    assert programs[capability].returncode == 0, errors[-4000:]
    kernels = [json.loads(line) for line in output.splitlines()]
    with capsys.disabled():
        print(f"\nsm_{capability}: {len(kernels)} kernels compiled; bytes a thread spills:")
        for kernel in kernels:
            if kernel["stack"]:
                print(f"    {kernel['stack']:5} {kernel['name']}, {kernel['call']}")
    assert {kernel["name"] for kernel in kernels} == {f"{path.stem}_kernel" for path in KERNELS}
    over = [kernel for kernel in kernels if kernel["shared"] > SHARED_LIMIT[capability]]
    assert not over, over
    forward = [
        k for k in kernels if k["name"] == "forward_kernel" and k["call"].startswith(("torch.bf", "torch.float16"))
    ]
    assert len(forward) > 10
    # Values by class are read and no more: the tile stays what it was.
    edited = [k for k in kernels if k["name"] == "forward_kernel" and k["call"] == "edited"]
    assert edited
    assert not [kernel for kernel in edited if kernel["stack"] > MOST_STACK]
    assert not [kernel for kernel in forward if kernel["stack"] > MOST_STACK]
    # What makes it fast: keys and values on their way while a tile is computed, and Hopper's own matrix instructions.
    assert all(kernel["cp_async"] for kernel in forward)
    assert all(kernel["wgmma"] == (capability == 90) for kernel in forward)
    if capability == 90:
        check_what_statistics_cost(forward)


def check_what_statistics_cost(forward: list[dict]) -> None:
    """In the loop over tiles that are seen whole, the first of a kernel's: the scan set keeps six sums beside the softmax's
    own (entropy, four key masses, distance), each of them one product for each score, and may take as much again for the
    rest. What a call prefers, the first configuration, keeps all registers there."""
    by_call: dict[str, list[dict]] = {}
    for kernel in forward:
        by_call.setdefault(kernel["call"], []).append(kernel)
    preferred = set()
    for call, (plain, scan) in by_call.items():
        dtype, width, config = call.split(" ", 2)
        if int(width) > 128:
            continue
        m, n, warps = (int(value) for value in re.findall(r"block_m=(\d+), block_n=(\d+), num_warps=(\d+)", config)[0])
        each_score = 32 * warps / (m * n)
        assert (scan["loops"][0] - plain["loops"][0]) * each_score <= 2 * 6, call
        if (dtype, width) not in preferred:
            assert plain["loop_spills"][0] == scan["loop_spills"][0] == 0, call
        preferred.add((dtype, width))
