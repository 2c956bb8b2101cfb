"""Versions and environment: what a result or a bug report must say."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import metadata

from interp import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "numba", "pandas", "plotly", "triton", "transformer-lens")


NUMERIC = ("interp", "torch", "transformers", "tokenizers", "numba", "triton")
"""Packages of whose versions measured numbers may depend, to their last digits: a run that goes on needs the same."""


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that numbers depend on."""
    return dict(_installed(PACKAGES))


@cache
def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Read once: every capture tells them, and the files of the packages take longer to read than a small model to run."""
    found = {"python": platform.python_version(), "interp": __version__}
    for package in packages:
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
