"""Views of one head's map beside the dense way: seconds, CPU seconds and memory, by length of the text.

    python benchmarks/map_views.py --out benchmarks/results
    python benchmarks/map_views.py --lengths 1000 4096

One causal head of width 64, float32, of drawn q, k and v. Two roads, each with a process of its own for each length, in which a
short text is run first (compiled code is loaded):

    interp  the lazy map of ``attend``, and ``interp.views`` of it
    dense   P itself by torch's softmax, and the same numbers from it; up to 16,384 tokens, where P takes 1.1 GB

What is measured:

    map                 attention with its log-sum-exp; dense: P
    overview            the whole text in at most 224 x 224 squares, means over the visible cells
    overview, x value   the same of P_ij ||v_j||
    pyramid             all levels of squares
    zoom step           from the pyramid: the middle of the text at each width from all to 224 tokens, halved each time
    tile                224 x 224 single weights
    figure of the tile  as a Plotly figure in JSON, with its tokens
    profile             entropy, largest weight, first key, attention received and distances, each with its chance; of the
                        dense road without chance
    top keys            12, from the profile

Times are medians of up to five runs that end within some seconds. Memory is the peak of the resident size while a thing is made,
less the size before the map was there: it holds the map of its road. Both roads' numbers must agree to 1e-4 of each; the tile is
compared with its definition in float64 too, at every length. On a machine with other work CPU seconds say more than seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.views import Pyramid, head_profile, region, top_keys, work
from interp_kernels import AttentionMap, Mask, attend

LENGTHS = (1000, 4096, 16384, 65536)
DENSE_MOST = 16384
WIDTH, CELLS, WARM = 64, 224, 300
RUNS, SECONDS = 5, 3.0
AGREE = 1e-4


def drawn(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [1, 1, T, 64]: queries point somewhere, so that the map is far from uniform."""
    draw = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(1, 1, tokens, WIDTH, generator=draw) for _ in range(3))
    return 2 * q, k, v


def spans(tokens: int) -> list[tuple[int, int]]:
    """The middle of the text at every width, in whole squares."""
    found, width = [], tokens
    while width >= CELLS:
        block = block_of(width)
        start = (tokens - width) // 2 // block * block
        found.append((start, min(start + -(-width // block) * block, tokens)))
        width //= 2
    return found


def block_of(size: int, cells: int = CELLS) -> int:
    """The least power of two of which so many squares hold the size."""
    return 1 << (-(-size // cells) - 1).bit_length()


Work = Callable[[], Any]
Steps = Iterator[tuple[str, list[Work], Callable[[Any], dict[str, np.ndarray]]]]
"""What is measured, its work (each step of a zoom is one), and which numbers of the last one's result are compared."""


def interp_steps(q: Tensor, k: Tensor, v: Tensor) -> Steps:
    from interp.plots.attention_map import map_figure

    tokens = q.shape[2]
    last = (tokens - CELLS, tokens)
    held: dict[str, Any] = {}

    def keep(name: str, value: Any) -> Any:
        held[name] = value
        return value

    yield "map", [lambda: keep("map", attend(q, k, v, mask=Mask.causal()).map)], lambda lazy: {}
    lazy: AttentionMap = held["map"]
    yield "overview", [lambda: region(lazy, 0)], lambda found: {"": found.values}
    yield "overview, × value", [lambda: region(lazy, 0, weighting="value")], lambda found: {"": found.values}
    yield "pyramid", [lambda: keep("pyramid", Pyramid.build(lazy, 0))], lambda made: {"": made.levels[0]}
    made: Pyramid = held["pyramid"]
    yield (
        "zoom step",
        [lambda span=span: made.region(span, span) for span in spans(tokens)],
        lambda found: {"": found.values},
    )
    tile = [lambda: keep("tile", region(lazy, 0, rows=last, cols=last))]
    yield "tile", tile, lambda found: {"": found.values}
    texts = [f" w{n}" for n in range(tokens)]
    yield "figure of the tile", [lambda: map_figure(held["tile"], texts).to_json()], lambda text: {}
    yield (
        "profile",
        [lambda: keep("profile", head_profile(lazy, 0))],
        lambda it: {name: getattr(it, name) for name in ("entropy", "peak", "first_mass", "received", "distance")},
    )
    yield "top keys", [lambda: top_keys(held["profile"])], lambda frame: {"": frame["share"].to_numpy()}


def dense_steps(q: Tensor, k: Tensor, v: Tensor) -> Steps:
    tokens = q.shape[2]
    last = slice(tokens - CELLS, tokens)
    held: dict[str, Tensor] = {}

    def whole() -> Tensor:
        scores = q[0, 0] @ k[0, 0].T
        scores *= WIDTH**-0.5
        scores.masked_fill_(torch.ones(tokens, tokens, dtype=torch.bool).triu_(1), -torch.inf)
        held["map"] = scores.softmax(dim=1)
        return held["map"]

    yield "map", [whole], lambda p: {}
    p = held["map"]
    yield "overview", [lambda: pooled(p, 0, tokens)], lambda x: {"": x.numpy()}
    value = lambda: pooled(p * v[0, 0].norm(dim=1), 0, tokens)  # noqa: E731
    yield "overview, × value", [value], lambda x: {"": x.numpy()}
    yield "pyramid", [lambda: pooled(p, 0, tokens, 2048, 2)], lambda x: {"": x.numpy()}
    yield (
        "zoom step",
        [lambda span=span: pooled(p[slice(*span), slice(*span)], span[0], tokens) for span in spans(tokens)],
        lambda x: {"": x.numpy()},
    )
    yield "tile", [p[last, last].clone], lambda x: {"": hidden_above(x).numpy()}
    yield "profile", [lambda: dense_profile(p)], lambda x: {name: value.numpy() for name, value in x.items()}
    yield "top keys", [lambda: p.mean(dim=0).topk(12).values], lambda x: {"": x.numpy()}


def pooled(p: Tensor, first: int, end: int, cells: int = CELLS, least: int = 1) -> Tensor:
    """Means over the visible cells in the squares of ``region``, of a part of P that begins and ends on the diagonal."""
    size = len(p)
    block = max(least, block_of(size, cells))
    if block == 1:
        return hidden_above(p)
    if first % block or ((first + size) % block and first + size != end):
        raise SystemExit(f"squares of {block} do not begin at {first}")
    missing = -size % block
    total = torch.nn.functional.pad(p, (0, missing, 0, missing)).unflatten(1, (-1, block)).sum(dim=2)
    total = total.unflatten(0, (-1, block)).sum(dim=1)
    # Of a causal map a square below the diagonal is seen whole, one on it as a triangle; those at the end are cut.
    sides = torch.full((len(total),), block).float()
    sides[-1] = block - missing
    counts = (sides[:, None] * sides).tril(-1) + torch.diag(sides * (sides + 1) / 2)
    return (total / counts).masked_fill(counts == 0, torch.nan)


def hidden_above(p: Tensor) -> Tensor:
    return p.masked_fill(torch.ones_like(p, dtype=torch.bool).triu(1), torch.nan)


def dense_profile(p: Tensor) -> dict[str, Tensor]:
    tokens = len(p)
    upto = torch.nn.functional.pad(p.cumsum(dim=1), (1, 0))  # [T, T + 1]: the mass of the keys before each
    edges = [0, 1]
    while edges[-1] < tokens:
        edges.append(2 * edges[-1])
    i = torch.arange(tokens)
    near = [upto[i, i + 1] - upto[i, (i + 1 - edge).clamp(min=0)] for edge in edges]
    return {
        "entropy": torch.special.entr(p).sum(dim=1),
        "peak": p.amax(dim=1),
        "first_mass": p[:, 0],
        "received": p.sum(dim=0) / torch.arange(tokens, 0, -1),
        "distance": torch.stack([(far - close).mean() for close, far in pairwise(near)]),
    }


def exact_tile(q: Tensor, k: Tensor) -> np.ndarray:
    """The tile by its definition, in float64."""
    tokens = q.shape[2]
    rows = torch.arange(tokens - CELLS, tokens)
    scores = (q[0, 0, rows].double() @ k[0, 0].double().T) * WIDTH**-0.5
    scores.masked_fill_(torch.arange(tokens) > rows[:, None], -torch.inf)
    return hidden_above(scores.softmax(dim=1)[:, -CELLS:]).numpy()


def measure(road: str, tokens: int, threads: int, folder: Path) -> None:
    """Measure in this process; one JSON line to stdout, the numbers into a file."""
    torch.set_num_threads(threads)
    steps = {"interp": interp_steps, "dense": dense_steps}[road]
    for _, works, numbers in steps(*drawn(WARM)):
        for each in works:
            numbers(each())
    operands = drawn(tokens)
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    rows: list[dict[str, Any]] = []
    values: dict[str, np.ndarray] = {}
    for what, works, numbers in steps(*operands):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (Linux)
        timed = [_timed(each) for each in works]
        result = timed[-1][2]
        values |= {f"{what}|{name}": found for name, found in numbers(result).items()}
        rows.append(
            {
                "what": what,
                "seconds": statistics.median(seconds for seconds, _, _ in timed),
                "cpu_seconds": statistics.median(cpu for _, cpu, _ in timed),
                "slowest": max(seconds for seconds, _, _ in timed),
                "mb": max(0.0, (_status("VmHWM") - before) / 1e3),
            }
        )
    if road == "interp":
        lazy = attend(*operands, mask=Mask.causal()).map
        rows[1]["cells"] = work(lazy, 0)
        values["tile|exact"] = exact_tile(*operands[:2])
    np.savez(folder / f"{road}.npz", **values)  # pyright: ignore[reportArgumentType]
    print(json.dumps(rows))


def _timed(work: Work) -> tuple[float, float, Any]:
    """Medians of seconds and of CPU seconds, and the last result."""
    seconds, cpu, begun, result = [], [], time.perf_counter(), None
    while len(seconds) < RUNS and (not seconds or time.perf_counter() - begun < SECONDS):
        start, used = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return statistics.median(seconds), statistics.median(cpu), result


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def run_all(lengths: list[int], threads: int) -> tuple[list[dict], float]:
    """All rows, and by how much the roads' numbers differ at most, relative to the dense one."""
    rows: list[dict] = []
    worst = 0.0
    for tokens in lengths:
        with TemporaryDirectory() as folder:
            roads = ["interp", *(["dense"] if tokens <= DENSE_MOST else [])]
            for road in roads:
                sys.stderr.write(f"{road} at {tokens:,} tokens\n")
                rows += [row | {"tokens": tokens, "road": road} for row in _run(road, tokens, threads, folder)]
            ours = dict(np.load(Path(folder) / "interp.npz"))
            exact = {"tile|": ours.pop("tile|exact")}
            others = dict(np.load(Path(folder) / "dense.npz")) if "dense" in roads else {}
            for name, expected in [*exact.items(), *others.items()]:
                worst = max(worst, _differ(f"{name} at {tokens:,} tokens", ours[name], expected))
    return rows, worst


def _differ(what: str, ours: np.ndarray, expected: np.ndarray) -> float:
    if ours.shape != expected.shape or (np.isnan(ours) != np.isnan(expected)).any():
        raise SystemExit(f"{what}: the roads do not show the same cells: {ours.shape} and {expected.shape}")
    ours, expected = np.nan_to_num(ours.astype(np.float64)), np.nan_to_num(expected.astype(np.float64))
    # A first token's entropy is 0: what is not 0 by rounding alone is no difference.
    apart = np.abs(ours - expected) - 1e-6 * np.abs(expected).max()
    worst = float((apart / np.maximum(np.abs(expected), 1e-30)).max())
    if worst > AGREE:
        raise SystemExit(f"{what}: the roads differ by {worst:.2g}")
    return max(worst, 0.0)


def _run(road: str, tokens: int, threads: int, folder: str) -> list[dict]:
    command = [sys.executable, __file__, "--one", road, str(tokens), folder, "--threads", str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{road} at {tokens} tokens failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rows: list[dict]) -> str:
    lines = [
        "| tokens | what | interp | CPU | memory | dense | CPU | memory | dense to interp, CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    dense = {(row["tokens"], row["what"]): row for row in rows if row["road"] == "dense"}
    for row in (row for row in rows if row["road"] == "interp"):
        other = dense.get((row["tokens"], row["what"]))
        slowest = f" (slowest {_readable(row['slowest'])})" if row["what"] == "zoom step" else ""
        cells = [
            f"{row['tokens']:,}",
            row["what"],
            _readable(row["seconds"]) + slowest,
            _readable(row["cpu_seconds"]),
            f"{row['mb']:,.0f} MB",
        ]
        if other is None:
            cells += [""] * 4
        else:
            ratio = other["cpu_seconds"] / row["cpu_seconds"]
            cells += [
                _readable(other["seconds"]),
                _readable(other["cpu_seconds"]),
                f"{other['mb']:,.0f} MB",
                f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _readable(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1e3:.2g} ms"
        if seconds < 0.1
        else f"{seconds * 1e3:.0f} ms"
    )


def rates(rows: list[dict]) -> str:
    """Cells of an overview a second of one core."""
    named = [
        f"{r['cells'] / r['cpu_seconds'] / 1e6:,.0f} million at {r['tokens']:,} tokens" for r in rows if "cells" in r
    ]
    return f"Cells that an overview scores in a CPU second: {', '.join(named)}."


def machine(threads: int) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "numba", "plotly"))
    return f"{cpu}, {os.cpu_count()} CPUs, {threads} thread(s), Python {platform.python_version()}, {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("ROAD", "TOKENS", "FOLDER"), help="measure one in this process")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for map_views.md")
    given = parser.parse_args()
    if given.one:
        road, tokens, folder = given.one
        measure(road, int(tokens), given.threads, Path(folder))
        return
    load = os.getloadavg()[0]
    rows, worst = run_all(given.lengths, given.threads)
    text = (
        f"{table(rows)}\n\n{rates(rows)}\nWhere both roads ran, their numbers differ by at most {worst:.1g} of each and 1e-6 of "
        f"the largest.\n\n{machine(given.threads)}; the load of the machine was {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after.\n\n`python benchmarks/map_views.py --out benchmarks/results`\n"
    )
    sys.stdout.write(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "map_views.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
