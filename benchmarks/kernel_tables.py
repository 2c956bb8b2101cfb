"""What `benchmarks/kernels.py` found, as a table and as a picture, and the machine that it ran on."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = {
    "interp": "#1b7837",
    "interp scan": "#5aae61",
    "interp received": "#762a83",
    "plain scan": "#9970ab",
    "flex": "#e08214",
    "eager scan": "#b2182b",
    "sdpa math": "#878787",
}
PANEL, HEIGHT, LEFT, TOP, GAP = 300, 240, 44, 40, 50
TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64)


def machine(device: str, threads: int) -> dict[str, str]:
    """Hardware and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in named.get("flags", "").split()]
    facts = {"cpu": f"{named.get('model name', platform.processor())} ({' '.join(flags)})", "threads": str(threads)}
    if device == "cuda":
        import torch

        facts = {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    packages = {}
    for name in ("torch", "numba", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {**facts, "python": platform.python_version(), **packages}


def table(told: dict) -> str:
    """A markdown table of all rows, and what they were measured on."""
    heads = ("type", "tokens", "road", "ms", "to fastest SDPA", "memory over SDPA", "TFLOP/s", "of matmul", "of copy")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    skipped = []
    for row in told["rows"]:
        if "skipped" in row:
            skipped.append(f"- {row['road']}, {row['dtype']}, {row['tokens']:,} tokens: {row['skipped']}.")
            continue
        speed = row["flops"] / row["seconds"]
        copied = row["tensor_bytes"] / row["seconds"] / told["ceilings"]["copy"]
        cells = (
            row["dtype"],
            f"{row['tokens']:,}",
            row["road"],
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['over_floor_bytes'] / 1e6:+,.0f} MB",
            f"{speed / 1e12:.3f}" if speed < 1e13 else f"{speed / 1e12:.0f}",
            f"{speed / told['ceilings']['matmul ' + row['dtype']]:.0%}",
            f"{copied:.1%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    heads_, kv, width = told["shape"]
    tops = ", ".join(
        f"{name} {value / 1e9:.0f} GB/s" if name == "copy" else f"{name} {value / 1e12:.2f} TFLOP/s"
        for name, value in told["ceilings"].items()
    )
    shape = f"{heads_} query heads on {kv} KV heads of {width}"
    how = (
        f"One layer, {shape}, causal. Medians of at most {told['repeats']} runs; the ratio is of medians of runs that take "
        "turns in one process. Operations are those of the two products over visible cells; bytes those of inputs and results."
    )
    notes = [
        how,
        f"Ceilings measured in the same run: {tops}.",
        ", ".join(f"{key} {value}" for key, value in told["machine"].items()) + ".",
    ]
    parts = ["\n".join(lines), *notes, *(["Not measured:", "\n".join(skipped)] if skipped else [])]
    return "\n\n".join(parts) + "\n"


def plot(told: dict) -> str:
    """Ratios to the fastest SDPA backend over the length, one panel a type, as SVG; both axes are logarithmic."""
    rows = [row for row in told["rows"] if "ratio" in row and row["road"] in COLOURS]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lengths = sorted({row["tokens"] for row in rows})
    highest = max((row["ratio"] for row in rows), default=2.0)
    top = next((tick for tick in TICKS if tick >= highest), TICKS[-1])
    marks = [tick for tick in TICKS if tick <= top]

    def x(panel: int, tokens: int) -> float:
        span = math.log2(lengths[-1] / lengths[0]) or 1.0
        return LEFT + panel * (PANEL + GAP) + PANEL * math.log2(tokens / lengths[0]) / span

    def y(ratio: float) -> float:
        return TOP + HEIGHT * (1 - math.log2(ratio / marks[0]) / math.log2(marks[-1] / marks[0]))

    width = LEFT + len(dtypes) * (PANEL + GAP) + 110
    box = f'viewBox="0 0 {width} {TOP + HEIGHT + 50}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{TOP + HEIGHT + 50}" fill="white"/>',
    ]
    for panel, dtype in enumerate(dtypes):
        left = x(panel, lengths[0])
        parts.append(f'<text x="{left}" y="{TOP - 16}">{escape(dtype)}: time over the fastest SDPA, by tokens</text>')
        for tick in marks:
            stroke = "#333" if tick == 1 else "#ddd"
            parts.append(f'<path d="M{left} {y(tick):.1f}h{PANEL}" stroke="{stroke}"/>')
            parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tokens in lengths:
            at = f'x="{x(panel, tokens):.1f}" y="{TOP + HEIGHT + 18}"'
            parts.append(f'<text {at} text-anchor="middle">{tokens:,}</text>')
        for road, colour in COLOURS.items():
            points = [(row["tokens"], row["ratio"]) for row in rows if (row["road"], row["dtype"]) == (road, dtype)]
            line = " ".join(f"{x(panel, t):.1f},{y(r):.1f}" for t, r in sorted(points))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x(panel, t):.1f}" cy="{y(r):.1f}" r="3" fill="{colour}"/>' for t, r in points]
    drawn = [road for road in COLOURS if any(row["road"] == road for row in rows)]
    for n, road in enumerate(drawn):
        left, down = LEFT + len(dtypes) * (PANEL + GAP) - GAP / 2, TOP + 12 + 18 * n
        parts.append(f'<path d="M{left} {down - 4}h18" stroke="{COLOURS[road]}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 24}" y="{down}">{escape(road)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
