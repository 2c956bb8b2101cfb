"""Versions and environment: what a result or a bug report must say."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from interp import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "numba", "pandas", "plotly", "triton", "transformer-lens")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that numbers depend on."""
    found = {"python": platform.python_version(), "interp": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """``versions`` plus the machine: system, processor, threads, GPU."""
    import torch

    facts = versions() | {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "executable": sys.executable,
        "cpu threads": str(torch.get_num_threads()),
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
    }
    return facts
