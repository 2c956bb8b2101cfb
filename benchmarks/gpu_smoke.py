"""The first minute on a GPU: what is there, and one call of every kernel against the definition in float64.

    PYTHONPATH=kernels python3 benchmarks/gpu_smoke.py versions
    PYTHONPATH=kernels python3 benchmarks/gpu_smoke.py kernels

The second needs torch and triton alone. It prints a line for each result, type and width, with its largest error, and ends with
status 1 if one is off: the output by more than 8 ulp of its type, statistics by more than 1e-4, of the largest value.
"""

from __future__ import annotations

import math
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

PACKAGES = ("torch", "triton", "transformers", "numpy", "numba", "scipy", "pandas", "pyarrow", "scikit-learn")
TESTING = ("pytest", "pytest-xdist", "hypothesis", "networkx")
TOKENS = 300
STATISTICS = 1e-4
"""Of the largest value: what float32 sums over 300 keys of products of width 128 may lose, with room."""


def versions() -> None:
    print("python", platform.python_version())
    for name in (*PACKAGES, *TESTING):
        try:
            print(name, version(name))
        except PackageNotFoundError:
            print(name, "not installed")
    print("cuda", torch.version.cuda)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        print("gpu", torch.cuda.get_device_name(), f"capability {capability}, {free >> 30} of {total >> 30} GB free")
    else:
        raise SystemExit("no CUDA device")


def results(dtype: torch.dtype, width: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, what the kernels give and what the definition gives."""
    import interp_kernels as ik

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, TOKENS, width, device="cuda", dtype=dtype) for heads in (4, 2, 2))
    labels, weights = torch.randint(0, 5, (TOKENS,), device="cuda"), torch.rand(TOKENS, 2, device="cuda")
    probes = (
        ik.Entropy(),
        ik.Peak(),
        ik.TopK(4),
        ik.KeyMass(weights),
        ik.LabelMatch(labels, labels),
        ik.OffsetMass((0, 1)),
        ik.Distance(),
        ik.DistanceHistogram((0, 1, 8, math.inf)),
        ik.Received(),
        ik.Pooled(16),
        ik.Pooled(50, "max", name="largest"),
    )
    found = ik.attend(q, k, v, probes=probes, backend="triton")
    exact = ik.attend(q.double(), k.double(), v.double(), probes=probes, backend="reference")
    lazy, dense, w = found.map, exact.map.dense(), weights.double()
    step = ik.attend(q[:, :, -1:], k, v, probes=[ik.Entropy()], backend="triton")
    pairs = {name: (found.stats[name], value) for name, value in exact.stats.items() if not name.endswith("_index")}
    return pairs | {
        "output": (found.output, exact.output),
        "log-sum-exp": (found.lse, exact.lse),
        "output of one query": (step.output, exact.output[:, :, -1:]),
        "entropy of one query": (step.stats["entropy"], exact.stats["entropy"][:, :, -1:]),
        "cells": (lazy.dense(), dense),
        "diagonal": (lazy.diagonal(1)[..., 1:], dense.diagonal(-1, -2, -1)),
        "column sums": (lazy.rmatmul(weights[:, 0]), (w[:, 0] @ dense)),
        "product": (lazy.matmul(weights), dense @ w),
    }


def kernels() -> None:
    off = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for width in (64, 80, 128, 256):
            for name, (got, value) in results(dtype, width).items():
                worst = float((got.double() - value).abs().max() / value.abs().max())
                allowed = 8 * torch.finfo(dtype).eps if name.startswith("output") else STATISTICS
                is_right = worst <= allowed
                told = f"{dtype} {width} {name}: {worst:.2g} of the largest value, {allowed:.2g} allowed"
                print("ok " if is_right else "OFF", told, flush=True)
                off += [] if is_right else [told]
    if off:
        raise SystemExit(f"{len(off)} results are off")


if __name__ == "__main__":
    {"versions": versions, "kernels": kernels}[sys.argv[1]]()
