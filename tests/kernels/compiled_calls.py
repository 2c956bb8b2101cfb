"""Compile every kernel in every configuration for one architecture, and report each as a line of JSON.

    python -m tests.kernels.compiled_calls 90

A program of its own, since Triton either compiles or interprets, for the whole of a process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

import interp_kernels as ik
from interp_kernels.backends.triton import run
from interp_kernels.backends.triton.operands import prepared
from interp_kernels.backends.triton.second import Rows, cells, product
from interp_kernels.backends.triton.tuning import configurations, fixed
from interp_kernels.operands import Operands
from tests.kernels.compiling import Compiled, compiling

HEADS, GROUP, LENGTH = 8, 4, 512


def plain(dtype: torch.dtype, width: int, queries: int = LENGTH) -> Operands:
    """A causal call in the layout of a model's projections."""
    q = torch.zeros(1, queries, HEADS, width, dtype=dtype).transpose(1, 2)
    k, v = torch.zeros(2, 1, LENGTH, HEADS // GROUP, width, dtype=dtype).transpose(2, 3).unbind()
    return Operands(q, k, v, ik.Mask.causal(), width**-0.5)


def rich(dtype: torch.dtype, width: int) -> Operands:
    """Every feature at once."""
    given = plain(dtype, width)
    documents = ik.Mask.from_documents(torch.zeros(1, LENGTH, dtype=torch.int64))
    mask = ik.Mask.full(window=9) & ik.Mask.from_padding(torch.ones(1, LENGTH, dtype=torch.bool)) & documents
    per_head = torch.zeros(HEADS, dtype=dtype)
    bias = torch.zeros(1, 1, LENGTH, LENGTH, dtype=dtype)
    return Operands(given.q, given.k, given.v, mask, -0.1, 20.0, per_head, per_head, bias)


def edited(given: Operands) -> Operands:
    """The same with edges cut by class of the key, and a sink for each row."""
    values = torch.zeros(1, HEADS, given.queries, 2)
    sinks = torch.zeros(given.q.shape[:3])
    return replace(given, sinks=sinks, class_values=values, classes=torch.zeros(1, 1, LENGTH, dtype=torch.int64))


def probes(queries: int = LENGTH) -> tuple[ik.Probe, ...]:
    """The set of a scan first, then what needs passes of its own."""
    labels = torch.zeros(LENGTH, dtype=torch.int64)
    return (
        ik.Entropy(),
        ik.Peak(),
        ik.LabelMatch(labels[:queries], labels, strict=True),
        ik.LabelMatch(labels[:queries], labels, name="copying"),
        ik.OffsetMass((0, 1)),
        ik.KeyMass(torch.zeros(LENGTH, 4)),
        ik.Distance(),
        ik.TopK(20),
        ik.DistanceHistogram((0, 1, 8, 64)),
        ik.Received(),
        ik.Received(normalize=True, name="sink"),
        ik.Pooled(16),
        ik.Pooled(100, op="max", name="large"),
    )


SCAN = 7
"""How many of the probes are the set of a scan."""


def compiled(capability: int) -> Iterator[tuple[str, Compiled]]:
    """What a call compiles, call after call: every configuration plain, then with the probes of a scan; every kernel."""
    half = torch.bfloat16
    for dtype, width in ((half, 64), (half, 128), (half, 256), (torch.float16, 64), (torch.float32, 64)):
        for config in configurations("forward", capability, dtype.itemsize, width):
            with compiling(capability, only="forward_kernel") as found, fixed(config):
                run(plain(dtype, width), ())
                run(plain(dtype, width), probes()[:SCAN])
            yield from ((f"{dtype} {width} {config}", each) for each in found)
        for config in configurations("columns", capability, dtype.itemsize, width):
            with compiling(capability, only="columns_kernel") as found, fixed(config):
                run(plain(dtype, width), probes()[9:10])
            yield from ((f"{dtype} {width} {config}", each) for each in found)
    for config in configurations("decode", capability, half.itemsize, 128):
        with compiling(capability) as found, fixed(config, splits=3):
            run(plain(half, 128, queries=1), probes(queries=1)[:SCAN])
            run(edited(plain(half, 128, queries=1)), probes(queries=1)[:SCAN])
        yield from ((f"decode {config}", each) for each in found if each.name in ("forward_kernel", "merge_kernel"))
    calls = {"plain": plain(half, 128), "rich": rich(half, 80), "float32": plain(torch.float32, 80)}
    calls["edited"] = edited(plain(half, 128))
    for name, ops in calls.items():
        with compiling(capability) as found:
            run(ops, probes())
            rows = Rows.from_lse(prepared(ops), torch.zeros(ops.q.shape[:3]))
            cells(rows, torch.arange(3), slice(0, LENGTH))
            product(rows, torch.zeros(1, HEADS, LENGTH, 1))
            product(rows, torch.zeros(1, HEADS, LENGTH, 5))
        yield from ((name, each) for each in found)


def main(capability: int) -> None:
    for call, kernel in compiled(capability):
        line = {"call": call}
        line |= {
            name: getattr(kernel, name) for name in ("name", "registers", "stack", "shared", "num_warps", "num_stages")
        }
        line |= {"wgmma": "wgmma" in kernel.assembly["ptx"], "cp_async": "cp.async" in kernel.assembly["ptx"]}
        line |= {"loops": [loop.total() for loop in kernel.loops]}
        line |= {"loop_spills": [loop["LDL"] + loop["STL"] for loop in kernel.loops]}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
