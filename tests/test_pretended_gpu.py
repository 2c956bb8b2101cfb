"""What is marked ``gpu`` runs on a pretended CUDA device: host code mixes no devices, and takes its roads for GPUs to the end.

In a process of its own, since torch would take the device for an accelerator ever after.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import IS_PRETENDED
from tests.kernels.on_device import needs_triton

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    needs_triton,
    pytest.mark.skipif(torch.cuda.is_available() or IS_PRETENDED, reason="wants a machine without a CUDA device"),
]


@pytest.mark.parametrize("room", ["test_pretend_device.py", "kernels/test_gpu.py", "interp/test_on_gpu.py"])
def test_it_runs_on_a_pretended_device(room: str):
    # One configuration for each kernel: measuring them says nothing in an interpreter.
    given = os.environ | {"INTERP_PRETEND_GPU": "1", "TRITON_INTERPRET": "1", "INTERP_KERNELS_AUTOTUNE": "0"}
    plugins = ["-n", "0", "-m", "gpu and not hardware", "-q", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *plugins, f"tests/{room}"]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
