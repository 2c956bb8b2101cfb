"""Attention with probes against attention without: time, memory and arithmetic, peers in the same run.

    python benchmarks/kernels.py --out benchmarks/results                     # CPU: 12 heads of 64, float32 and bfloat16
    PYTHONPATH=kernels python benchmarks/kernels.py --device cuda --out ...   # 32 query heads on 8 KV heads of 128, bfloat16
    PYTHONPATH=kernels python benchmarks/kernels.py --device cuda --quick     # two lengths, ours, SDPA and flex, fewer repeats

The latter need torch and triton alone. ``kernel_roads.py`` says what each road is. Every measurement has a process of its
own. There the road is checked against the definition at 256 tokens, runs once for its memory (the peak above what was
there just before, less the same of the fastest SDPA backend), and then takes turns with that backend, so that a slow moment
of the machine falls on both: times are medians, the ratio is of the two medians in one process. A process in which that
backend took 1.2 times as long as in another one is measured again, at most twice. A road that fails, or whose results are wrong,
is told under "Not measured", and the exit status is 1. Writes kernels_DEVICE.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_tables import machine, plot, table

if TYPE_CHECKING:
    from kernel_roads import Setting
    from torch import Tensor

LENGTHS = {"cpu": (1024, 4096, 16384), "cuda": (4096, 16384, 65536, 131072)}
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("bfloat16",)}
SHAPES = {"cpu": (12, 12, 64), "cuda": (32, 8, 128)}
FLOORS = {"cpu": ("sdpa flash",), "cuda": ("sdpa cudnn", "sdpa flash", "sdpa efficient")}
OURS = ("interp", "interp scan", "interp received")
PEERS = ("sdpa math", "flex", "eager scan", "plain", "plain scan", "plain received")
QUICK_LENGTHS = {"cpu": (1024,), "cuda": (4096, 16384)}
QUICK_PEERS, QUICK_REPEATS, REPEATS = ("flex",), 5, 15
LONG = 1 << 20
PLAIN_MOST = 1 << 14
"""Beyond it plain torch would take up most of a run."""
CHECK_TOKENS = 256
LEAST, ENOUGH = 3, 12.0
"""After so many seconds so many repeats do."""
DISTURBED, AGAIN = 1.2, 2


class FailedError(Exception):
    """A measurement broke off; the message ends with what it wrote to stderr."""


def measure(road: str, floor: str, tokens: int, dtype: str, device: str, repeats: int, threads: int) -> dict:
    """Measure in this process: a row of the table, or one that says why there is none."""
    import torch
    from kernel_roads import Setting, SkippedError

    torch.set_num_threads(threads)
    setting = Setting(device, getattr(torch, dtype), tokens, *SHAPES[device])
    row = {"road": road, "tokens": tokens, "dtype": dtype, "floor": floor}
    try:
        with torch.no_grad():
            return row | _measured(road, floor, setting, repeats)
    except SkippedError as reason:
        return row | {"skipped": str(reason)}
    except torch.OutOfMemoryError:
        return row | {"skipped": "out of memory"}
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        return row | {"skipped": "torch has no such kernel for this call"}


def _measured(road: str, floor: str, setting: Setting, repeats: int) -> dict:
    from kernel_roads import prepare

    device = setting.device
    small = replace(setting, tokens=CHECK_TOKENS)
    _check(prepare(road, small)(), small)
    work = prepare(road, setting)
    if device == "cuda":
        # Configurations are chosen, by length up to here.
        prepare(road, replace(setting, tokens=min(setting.tokens, 1 << 16)))()
    before = _reset_peak(device)
    result = work()
    extra = _peak(device) - before
    sizes = sum(x.numel() * x.element_size() for x in (*setting.qkv, *result.values()))
    del result
    reference = work if floor == road else prepare(floor, setting)
    if repeats > 1:
        reference()
        work()
    pairs, start = [], time.perf_counter()
    while len(pairs) < min(LEAST, repeats) or (len(pairs) < repeats and time.perf_counter() - start < ENOUGH):
        of_road = _seconds(work, device)
        pairs.append((of_road, of_road if floor == road else _seconds(reference, device)))
    seconds, of_floor = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {
        "seconds": seconds,
        "floor_seconds": of_floor,
        "ratio": seconds / of_floor,
        "extra_bytes": extra,
        "flops": setting.flops,
        "tensor_bytes": sizes,
        "repeats": len(pairs),
    }


def _check(result: dict[str, Tensor], setting: Setting) -> None:
    """Compare with the dense definition in float64; nothing that is wrong is measured."""
    import torch
    from kernel_roads import OTHERS, SINGLE, probes_of

    import interp_kernels as ik

    known = [p for name in (*SINGLE, *OTHERS, "received") for p in probes_of(name, setting)]
    doubles = [x.double() for x in setting.qkv]
    golden = ik.attend(*doubles, probes=known, backend="reference")
    expected = {"output": golden.output, "lse": golden.lse, **golden.stats}
    for name, value in result.items():
        if name.endswith("_index"):
            continue
        # Fused backends sum in float32; eager attention rounds its scores, on which all its statistics stand.
        rounded = setting.dtype if name == "output" or "lse" not in result else torch.float32
        worst = float((value.double() - expected[name]).abs().max() / expected[name].abs().max())
        if not worst <= 8 * torch.finfo(rounded).eps + 1e-5:
            raise SystemExit(f"{name} is off by {worst:.2g} of its largest value at {setting.tokens} tokens")


def _seconds(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _reset_peak(device: str) -> int:
    """Forget the peak so far; bytes now."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # What was freed goes back first, or it would hide what is asked for next.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") - _status("RssFile")


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") - _status("RssFile")  # library pages come as code is used


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def ceilings(device: str, dtypes: list[str], threads: int) -> dict[str, float]:
    """What the machine reaches: multiply-adds of a square product in each type, FLOP/s; bytes read and written by a copy."""
    import torch

    torch.set_num_threads(threads)
    side, copied = (8192, 1 << 30) if device == "cuda" else (2048, 1 << 28)
    found: dict[str, float] = {}
    for dtype in dtypes:
        a = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        best = min(_seconds(lambda a=a: a @ a, device) for _ in range(10))
        found[f"matmul {dtype}"] = 2 * side**3 / best
    x = torch.zeros(copied, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    found["copy"] = 2 * copied / min(_seconds(lambda: y.copy_(x), device) for _ in range(10))
    return found


def in_own_process(arguments: argparse.Namespace, one: dict) -> dict:
    """What ``measure`` or ``ceilings`` gives, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(one), "--threads", str(arguments.threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise FailedError(f"{one} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_setting(arguments: argparse.Namespace, tokens: int, dtype: str, roads: list[str]) -> list[dict]:
    """Every road at one length and type, as ratios to the fastest SDPA backend."""
    floors = FLOORS[arguments.device][: 1 if tokens >= LONG else None]
    common = {"tokens": tokens, "dtype": dtype, "device": arguments.device}
    common["repeats"] = 1 if tokens >= LONG else arguments.repeats

    def measured(road: str, floor: str) -> dict:
        try:
            row = in_own_process(arguments, {"road": road, "floor": floor, **common})
        except FailedError as error:
            print(error, file=sys.stderr)
            reason = str(error).strip().splitlines()[-1]
            row = {"road": road, "tokens": tokens, "dtype": dtype, "skipped": f"it failed: {reason}", "failed": True}
        told = row.get("skipped") or f"{row['seconds'] * 1e3:.1f} ms, {row['ratio']:.2f} of {floor}"
        print(f"{tokens} {dtype} {road}: {told}", file=sys.stderr)
        return row

    rows = [measured(road, road) for road in floors]
    if all("skipped" in row for row in rows):
        raise SystemExit(f"no SDPA backend ran at {tokens} tokens in {dtype}, and nothing is compared: {rows}")
    fastest = min((row for row in rows if "seconds" in row), key=lambda row: row["seconds"])
    for row in rows:
        if "seconds" in row:
            ratio = row["seconds"] / fastest["seconds"]
            row |= {"floor": fastest["road"], "floor_seconds": fastest["seconds"], "ratio": ratio}
    for road in (road for road in roads if road not in floors):
        found = measured(road, fastest["road"])
        for _ in range(AGAIN):
            undisturbed = min(row.get("floor_seconds", float("inf")) for row in [*rows, found])
            if "skipped" in found or found["floor_seconds"] <= DISTURBED * undisturbed:
                break
            found = min(found, measured(road, fastest["road"]), key=lambda row: row["floor_seconds"])
        rows.append(found)
    for row in rows:
        if "seconds" in row:
            row["over_floor_bytes"] = row["extra_bytes"] - fastest["extra_bytes"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--roads", nargs="+", help="these alone, beside SDPA")
    parser.add_argument("--each", action="store_true", help="every probe by itself, too")
    parser.add_argument(
        "--long", action="store_true", help=f"{LONG:,} tokens, too: one SDPA backend and ours, one run each"
    )
    parser.add_argument(
        "--quick", action="store_true", help="where nothing else is said: few lengths, ours and flex, few repeats"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help=f"default {REPEATS} ({QUICK_REPEATS} with --quick); fewer, but {LEAST}, where they take over {ENOUGH:.0f} s",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for kernels_DEVICE.json, .md and .svg")
    parser.add_argument("--keep", action="store_true", help="keep the rows in --out that this run does not measure")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        work = ceilings if "dtypes" in arguments.one else measure
        print(json.dumps(work(**arguments.one, threads=arguments.threads)))
        return

    from kernel_roads import OTHERS, SINGLE

    quick = arguments.quick
    arguments.repeats = arguments.repeats or (QUICK_REPEATS if quick else REPEATS)
    lengths = arguments.lengths or list((QUICK_LENGTHS if quick else LENGTHS)[arguments.device])
    lengths += [LONG] if arguments.long else []
    dtypes = arguments.dtypes or list(DTYPES[arguments.device])
    each = [f"interp {name}" for name in (*SINGLE, *OTHERS)] if arguments.each else []
    roads = arguments.roads or [*OURS, *each, *(QUICK_PEERS if quick else PEERS)]
    facts = machine(arguments.device, arguments.threads)
    top = in_own_process(arguments, {"device": arguments.device, "dtypes": dtypes})
    told = {
        "machine": facts,
        "shape": SHAPES[arguments.device],
        "repeats": arguments.repeats,
        "ceilings": top,
        "rows": [],
    }
    path = arguments.out and arguments.out / f"kernels_{arguments.device}.json"
    if arguments.keep and path and path.exists():
        before = json.loads(path.read_text())
        if before["machine"] != facts:
            raise SystemExit(f"--keep: {path} is of another machine or other versions")
        told |= {"rows": before["rows"], "ceilings": before["ceilings"] | top}
    for dtype in dtypes:
        for tokens in lengths:
            here = [road for road in roads if road in OURS or tokens <= (PLAIN_MOST if "plain" in road else LONG - 1)]
            told["rows"] = merged(told["rows"], run_setting(arguments, tokens, dtype, here))
            if path:
                # After every setting, so that a long run that is cut off leaves what it has.
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(told, indent=1) + "\n")
                path.with_suffix(".md").write_text(table(told))
                path.with_suffix(".svg").write_text(plot(told))
    print(table(told))
    if any("failed" in row for row in told["rows"]):
        raise SystemExit(1)


def merged(rows: list[dict], new: list[dict]) -> list[dict]:
    """``rows`` with those of ``new`` in place of their like, by type and length."""

    def what(row: dict) -> tuple[str, int, str]:
        return row["dtype"], row["tokens"], row["road"]

    measured = {what(row) for row in new}
    found = [row for row in rows if what(row) not in measured] + new
    order = list(dict.fromkeys(row["dtype"] for row in rows + new))
    return sorted(found, key=lambda row: (order.index(row["dtype"]), row["tokens"], "sdpa" not in row["road"]))


if __name__ == "__main__":
    main()
