"""Analyses beside the dense way of computing them: seconds and extra peak memory, by length of the input.

    python benchmarks/analyses.py --out benchmarks/results
    python benchmarks/analyses.py --analyses rollout --lengths 256 1024

The demo model reads English prose, beyond its context where the length says so. Roads:

    rollout          interp  one position swept through the lazy maps
                     dense   transformers with output_attentions=True, and products of the layers' whole maps
    attention_flow   interp  scipy's maximum flow, all edges
                     kept    the same with keep=16 and the bounds that follow
                     dense   whole maps, and networkx (Edmonds and Karp) for each input token, as the paper's code does it
    relevance        interp  one run forward and back, and one row swept through the maps weighted by their gradients
                     dense   eager attention, whole maps with their gradients, and products of them
    routes           interp  the routes of the last token
                     dense   whole maps, and the vector of every pair and head, as the paper's code makes them
    norm_attention   interp  one row of every layer
                     dense   whole maps, and the vectors of that row
    sinks            interp  alpha of every head and position, with chance; without the residual stream
                     dense   whole maps, and their column sums
    surface          interp  all statistics of every head
                     dense   whole maps, and the entropy and distance of their rows
    divergences      interp  of the twelve heads of the last two layers, all rows
                     dense   the same from whole maps
    importance       interp  of every head, one run forward and back
                     dense   eager attention, whole maps kept

Each measurement has a process of its own, in which a short input is run first (compiled code is loaded). Extra memory is the peak
resident size during the run less that just before it: it holds the model's own run. Where two roads give the same numbers, they
must agree to 1e-4. CPU seconds are those of all threads; beside other work they say more than seconds.

An analysis is a line in ``ANALYSES``: its roads, each with the lengths at which it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from dense_ways import (
    EXPLAINED,
    dense_divergences,
    dense_flow,
    dense_importance,
    dense_norm_attention,
    dense_relevance,
    dense_rollout,
    dense_routes,
    dense_sinks,
    dense_surface,
)

import interp
from interp.models.hooked import HookedModel

WARM = 48
"""Tokens of the input that is run before the measurement."""

Work = Callable[[HookedModel, torch.Tensor], np.ndarray]


def rollout(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.flow.rollout(model, ids, beyond_context=True).of()


def flow(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.flow.attention_flow(model, ids, beyond_context=True, max_minutes=600).flow[0]


def kept_flow(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.flow.attention_flow(model, ids, keep=16, beyond_context=True, max_minutes=600).flow[0]


def relevance(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.flow.relevance(model, ids, EXPLAINED, beyond_context=True).row()


def routes(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    found = interp.flow.routes(model, ids, beyond_context=True).inputs()
    return found.sort_values("position")["flow"].to_numpy()


def norm_attention(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.flow.norm_attention(model, ids, beyond_context=True).norms[0, :, 0].ravel()


def sinks(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.heads.sinks(model, ids, window=None, massive=False, beyond_context=True).alpha


def surface(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    table = interp.heads.surface(model, ids, beyond_context=True).table
    return np.stack([table.loc[table["statistic"] == name, "value"] for name in ("entropy", "distance")])


def divergences(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.heads.divergences(model, ids, layers=model.layers[-2:], beyond_context=True).divergence


def importance(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    return interp.causal.importance(model, ids, beyond_context=True).values


ANALYSES: dict[str, dict[str, tuple[Work, tuple[int, ...]]]] = {
    "rollout": {
        "interp": (rollout, (256, 512, 1024, 2048, 8192, 32768)),
        "dense": (dense_rollout, (256, 512, 1024, 2048)),
    },
    "attention_flow": {
        "interp": (flow, (16, 32, 64, 128, 256, 512)),
        "kept": (kept_flow, (256, 512, 1024)),
        "dense": (dense_flow, (16, 32, 64)),
    },
    "relevance": {
        "interp": (relevance, (256, 1024, 2048, 4096, 8192)),
        "dense": (dense_relevance, (256, 1024, 2048)),
    },
    "routes": {"interp": (routes, (256, 1024, 4096)), "dense": (dense_routes, (256,))},
    "norm_attention": {
        "interp": (norm_attention, (256, 1024, 2048, 32768)),
        "dense": (dense_norm_attention, (256, 1024, 2048)),
    },
    "sinks": {"interp": (sinks, (256, 1024, 2048, 8192)), "dense": (dense_sinks, (256, 1024, 2048))},
    "surface": {"interp": (surface, (256, 1024, 2048, 8192)), "dense": (dense_surface, (256, 1024, 2048))},
    "divergences": {"interp": (divergences, (256, 1024, 2048)), "dense": (dense_divergences, (256, 1024, 2048))},
    "importance": {"interp": (importance, (256, 1024, 2048, 8192)), "dense": (dense_importance, (256, 1024, 2048))},
}
ESTIMATES = {"kept"}
"""Roads whose numbers are not the others'."""


def ids_of(model: HookedModel, tokens: int) -> torch.Tensor:
    """So many tokens of the prose that comes with the demo model, again from its beginning where it ends."""
    text = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")
    prose = torch.tensor(model.tokenizer(text, verbose=False)["input_ids"])  # type: ignore[misc]
    return prose.repeat(-(-tokens // prose.numel()))[None, :tokens]


def measure(analysis: str, road: str, tokens: int, threads: int) -> None:
    """Measure in this process and print one JSON line."""
    torch.set_num_threads(threads)
    work, _ = ANALYSES[analysis][road]
    model = interp.load("demo")
    work(model, ids_of(model, min(tokens, WARM)))
    ids = ids_of(model, tokens)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (Linux)
    before, start, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()
    values = work(model, ids)
    told = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(told | {"extra_mb": (_status("VmHWM") - before) / 1e3, "values": values.ravel().tolist()}))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def run_all(analyses: list[str], lengths: list[int] | None, repeats: int, threads: int) -> list[dict]:
    rows = []
    for analysis in analyses:
        roads = ANALYSES[analysis]
        for tokens in sorted({n for _, of in roads.values() for n in of} & set(lengths or range(1 << 20))):
            reference: list[float] | None = None
            for road, (_, of) in roads.items():
                if tokens not in of:
                    continue
                runs = [_run(analysis, road, tokens, threads) for _ in range(repeats)]
                if road not in ESTIMATES:
                    reference = reference or runs[0]["values"]
                    worst = max(abs(a - b) for a, b in zip(runs[0]["values"], reference, strict=True))
                    if worst > 1e-4:
                        raise SystemExit(
                            f"{analysis} by {road} at {tokens} tokens differs from the others by {worst:.2g}"
                        )
                median = {k: statistics.median(run[k] for run in runs) for k in ("seconds", "cpu_seconds", "extra_mb")}
                rows.append({"analysis": analysis, "tokens": tokens, "road": road} | median)
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def _run(analysis: str, road: str, tokens: int, threads: int) -> dict:
    command = [sys.executable, __file__, "--one", analysis, road, str(tokens), "--threads", str(threads)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{analysis} by {road} at {tokens} tokens failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rows: list[dict]) -> str:
    lines = ["| analysis | tokens | road | seconds | CPU seconds | extra peak memory |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['analysis']} | {row['tokens']:,} | {row['road']} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} "
        f"| {row['extra_mb']:,.0f} MB |"
        for row in rows
    ]
    return "\n".join(lines)


def machine(threads: int) -> dict[str, str]:
    from importlib.metadata import version

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = {name: version(name) for name in ("torch", "transformers", "scipy", "networkx")}
    return {"cpu": cpu, "threads": str(threads), "python": platform.python_version(), **packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("ANALYSIS", "ROAD", "TOKENS"), help="measure one in this process")
    parser.add_argument("--analyses", nargs="+", choices=list(ANALYSES), default=list(ANALYSES))
    parser.add_argument("--lengths", type=int, nargs="+", help="of the lengths of each road, only these")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for analyses.md")
    arguments = parser.parse_args()
    if arguments.one:
        analysis, road, tokens = arguments.one
        measure(analysis, road, int(tokens), arguments.threads)
        return
    rows = run_all(arguments.analyses, arguments.lengths, arguments.repeats, arguments.threads)
    print(table(rows))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        told = ", ".join(f"{key} {value}" for key, value in machine(arguments.threads).items())
        text = f"{table(rows)}\n\nThe demo model; median of {arguments.repeats}; {told}.\n"
        (arguments.out / "analyses.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
