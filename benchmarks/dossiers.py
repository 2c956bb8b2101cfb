"""Head dossiers beside the plain forward run of the same passages: seconds a token, and extra peak memory.

    python benchmarks/dossiers.py --out benchmarks/results
    python benchmarks/dossiers.py --lengths 256 --passages 50

The demo model reads 200 different passages of its prose, each of ``--lengths`` positions; they begin a few tokens after one
another.

    forward    the model's own run (SDPA, no statistics, no logits), in batches of the same passages
    pass       ``measure_part`` and ``merge``: every metric, histogram and sum by token of every head
    dossiers   ``head_dossiers``: the pass, and the passages that are shown once more for their edges

Each road has a process of its own, in which a few passages are run first (compiled code is loaded). Extra memory is the peak
resident size during the run less that just before it. CPU seconds are those of all threads; beside other work they say more
than seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import interp
from interp.demo.machine import machine
from interp.dossiers import DossierSettings, Passage, measure_part, merge, passages_of
from interp.dossiers.passages import batches_of, parts_of
from interp.inputs.batch import Batch
from interp.models.hooked import HookedModel

WARM = 4
"""Passages that are run before the measurement."""


def forward(model: HookedModel, passages: list[Passage]) -> None:
    for places in batches_of(passages):
        ids = torch.tensor([passages[place].ids.tolist() for place in places])
        batch = model.checked(Batch(ids, torch.ones_like(ids, dtype=torch.bool)), beyond_context=False)
        with torch.no_grad():
            model.host.forward(batch.arguments, logits=False)


def one_pass(model: HookedModel, passages: list[Passage]) -> None:
    settings = DossierSettings().resolved(model)
    total = None
    for group in parts_of(passages):
        part = measure_part(model, group, settings)
        total = part if total is None else merge([total, part])


def dossiers(model: HookedModel, passages: list[Passage]) -> None:
    interp.head_dossiers(model, [passage.ids.tolist() for passage in passages], progress=False)


ROADS: dict[str, Callable[[HookedModel, list[Passage]], None]] = {
    "forward": forward,
    "pass": one_pass,
    "dossiers": dossiers,
}


def corpus(model: HookedModel, length: int, count: int) -> list[Passage]:
    """``count`` pieces of the demo's prose, which begin at evenly spaced tokens."""
    prose = Path(interp.__file__).with_name("demo").joinpath("prose.txt").read_text(encoding="utf-8")
    bos, *text = model.tokenizer(prose, verbose=False)["input_ids"]  # type: ignore[misc]
    step = (len(text) - length + 1) // count
    if step < 1:
        raise SystemExit(f"the prose has {len(text)} tokens, too few for {count} different passages of {length}")
    texts = [[bos, *text[n * step : n * step + length - 1]] for n in range(count)]
    return list(passages_of(model, texts, length))


def measured(road: str, length: int, count: int) -> dict[str, float]:
    """One measurement, in this process."""
    model = interp.load("demo", device="cpu")
    passages = corpus(model, length, count)
    ROADS[road](model, passages[:WARM])
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (Linux)
    before = _status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    ROADS[road](model, passages)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": _status("VmHWM") - before,
        "tokens": sum(map(len, passages)),
    }


def _status(field: str) -> int:
    """Bytes, of the process: VmRSS what it holds, VmHWM the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for dossiers.md")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one[0], int(asked.one[1]), asked.passages)))
        return
    lines = [
        "| passages | road | CPU seconds | CPU µs a token | to forward | seconds | tokens a second | extra peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for length in asked.lengths:
        plain = None
        for road in ROADS:
            command = [sys.executable, __file__, "--one", road, str(length), "--passages", str(asked.passages)]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                for _ in range(asked.repeat)
            ]
            seconds, cpu, memory, tokens = (statistics.median(run[name] for run in runs) for name in runs[0])
            plain = plain or cpu
            lines.append(
                f"| {asked.passages} x {length:,} | {road} | {cpu:.2f} | {1e6 * cpu / tokens:.1f} | "
                f"{cpu / plain:.2f} | {seconds:.2f} | "
                f"{tokens / seconds:,.0f} | {memory / 1e6:,.0f} MB |"
            )
            print(lines[-1])
    versions = f"python {platform.python_version()}, transformers {transformers.__version__}"
    lines += ["", f"The demo model; median of {asked.repeat}; {machine()}, {versions}."]
    if asked.out:
        (asked.out / "dossiers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
