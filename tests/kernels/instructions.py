"""How many instructions the forward kernel takes for each score, read from what the assembler made of it. No GPU needed.

    python -m tests.kernels.instructions > benchmarks/results/kernel_instructions.md

Counted is the loop over tiles that every row sees whole, where nearly all time goes: instructions of a thread, times the
threads, over the scores of a tile. Both ways of a branch count, so that it is the most that a tile may take.
"""

from __future__ import annotations

import sys

import torch
import triton

import interp_kernels as ik
from interp_kernels.backends.triton import run
from interp_kernels.backends.triton.tuning import configurations, fixed
from tests.kernels.compiled_calls import SCAN, plain, probes
from tests.kernels.compiling import compiling

CAPABILITY = 90
OWN = (ik.LabelMatch, ik.OffsetMass)
"""Probes that run in kernels of their own."""

HEAD = """| width | tile | probes | registers | bytes spilled | instructions a score | products, sums | exponentials | loads |
|---|---|---|---|---|---|---|---|---|"""


def rows() -> list[str]:
    """Causal, bfloat16: each tile plain, with the set of a scan and with each of its probes alone."""
    scan = probes()[:SCAN]
    chosen = {"none": (), "scan set": scan} | {
        type(each).__name__: (each,) for each in scan if not isinstance(each, OWN)
    }
    lines = []
    for width in (64, 128):
        tiles = {
            (each.block_m, each.block_n): each for each in reversed(configurations("forward", CAPABILITY, 2, width))
        }
        for (block_m, block_n), config in tiles.items():
            for name, some in chosen.items():
                with compiling(CAPABILITY, only="forward_kernel") as found, fixed(config):
                    run(plain(torch.bfloat16, width), some)
                loop, share = found[0].loops[0], 32 * config.num_warps / (block_m * block_n)
                sums = sum(loop[each] for each in ("FFMA", "FMUL", "FADD", "FMNMX"))
                loads = sum(loop[each] for each in ("LDG", "LDS", "LDL"))
                counts = (f"{share * n:.1f}" for n in (loop.total(), sums, loop["MUFU"], loads))
                cells = (width, f"{block_m} x {block_n}", name, found[0].registers, found[0].stack, *counts)
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    told = f"Forward kernel, bfloat16, causal, compiled by triton {triton.__version__} for sm_{CAPABILITY}."
    sys.stdout.write("\n".join([HEAD, *rows()]) + f"\n\n{told}\n")
