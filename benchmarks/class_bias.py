"""What a bias by class of the key costs beside a dense one, on a CPU.

    python benchmarks/class_bias.py
    python benchmarks/class_bias.py --tokens 8192 --classes 8

Causal attention of drawn q, k and v, heads of 64, float32, one thread, no probes. Each way is run in turn, ``--runs`` rounds;
what is printed is the least processor time of a round, which other work on the machine changes little.

    SDPA          torch's scaled_dot_product_attention
    plain         attend
    class bias    attend with a ClassBias whose every row adds something
    few rows      the same with values other than 0 in one row of eight
    dense bias    attend with a [T, T] bias of the same numbers
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from interp_kernels import ClassBias, attend


def ways(tokens: int, heads: int, classes: int) -> dict[str, Callable[[], object]]:
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, tokens, 64, generator=random)
    values = torch.randn(tokens, classes, generator=random)
    of_keys = torch.randint(0, classes, (tokens,), generator=random)
    few = values.where(torch.arange(tokens)[:, None] % 8 == 0, 0.0)
    dense = values[:, of_keys]
    return {
        "SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "plain": lambda: attend(q, k, v),
        "class bias": lambda: attend(q, k, v, class_bias=ClassBias(values, of_keys)),
        "few rows": lambda: attend(q, k, v, class_bias=ClassBias(few, of_keys)),
        "dense bias": lambda: attend(q, k, v, bias=dense),
    }


def measured(given: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The least processor seconds of each."""
    least = dict.fromkeys(given, float("inf"))
    for _ in range(runs + 1):
        for name, run in given.items():
            start = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(ways(given.tokens, given.heads, given.classes), given.runs)
    for name, seconds in found.items():
        print(f"{name:12}{1000 * seconds:8.1f} ms")


if __name__ == "__main__":
    main()
