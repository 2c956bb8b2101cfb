"""One self-contained HTML page of a scan: who the strongest heads are, the grids, and how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from interp.heads.registry import detectors as registered
from interp.naming import head_name
from interp.plots.heads import head_grid
from interp.plots.script import plotly_script
from interp.scores import HeadScores, chance_text

STRONGEST = 4


def report_html(scores: HeadScores) -> str:
    """The page as one string. Plotly's script is inside, so it opens without a network."""
    settings = scores.settings
    model = settings.get("model", {})
    style = resources.files("interp").joinpath("report.css").read_text(encoding="utf-8")
    name = escape(str(model.get("model", "a model")))
    sections = "\n".join(_section(scores, detector) for detector in scores.detectors)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Heads of {name}</title>
<style>{style}</style>
<script>{plotly_script()}</script>
</head>
<body>
<header>
<h1>Attention heads of <span class="model">{name}</span></h1>
<p>{_subtitle(scores)}</p>
</header>
<main>
<section>
<h2>Strongest heads</h2>
{_summary(scores)}
<p class="note">A head is named by layer and query head, both counted from 0. <b>Score</b> is the mean over samples, ± its
standard error (– with one sample); <b>chance</b> is what uniform attention over the visible keys would get on the same
input. <b>Bold</b> heads are above the threshold.</p>
</section>
{sections}
<section>
<h2>How it was measured</h2>
{_left_out(scores)}
<pre>{escape(json.dumps(dict(settings), indent=2, ensure_ascii=False, default=str))}</pre>
</section>
</main>
</body>
</html>
"""


def _subtitle(scores: HeadScores) -> str:
    model = scores.settings.get("model", {})
    layers, heads = scores.grid(scores.detectors[0]).shape
    parts = [
        f"{layers} layers × {heads} heads",
        str(model.get("architecture", "")),
        f"{model.get('dtype', '')} on {model.get('device', '')}",
    ]
    if scores.settings.get("beyond_context"):
        parts.append("input longer than the model's context")
    return " · ".join(escape(part) for part in parts if part)


def _summary(scores: HeadScores) -> str:
    rows = []
    for detector in scores.detectors:
        table = scores.of(detector)
        cells = "".join(_head_cell(row) for row in table.head(STRONGEST).to_dict("records"))
        above = int(table["is_above"].sum())
        rows.append(
            f'<tr><th scope="row"><a href="#{escape(detector)}">{escape(detector)}</a></th>'
            f"<td>{above} of {len(table)} &gt; {table['threshold'].iloc[0]:g}</td>"
            f"<td>{chance_text(table['chance'])}</td>{cells}</tr>"
        )
    head = "".join(f"<th>{_ordinal(n)}</th>" for n in range(1, STRONGEST + 1))
    return (
        '<div class="scroll"><table><thead><tr><th>detector</th><th>heads</th><th>chance</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _head_cell(row: dict) -> str:
    name = head_name(row["layer"], row["head"])
    name = f"<b>{name}</b>" if row["is_above"] else name
    return f'<td>{name} {row["score"]:.3f}<span class="small"> {_error(row["stderr"])}</span></td>'


def _error(value: float) -> str:
    return "–" if math.isnan(value) else f"± {value:.3f}"


def _ordinal(n: int) -> str:
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n, 'th') }"


def _section(scores: HeadScores, detector: str) -> str:
    table = scores.of(detector)
    threshold = float(table["threshold"].iloc[0])
    facts = _facts(scores, detector, threshold)
    described = ""
    if facts:
        described = (
            f"<p>{escape(str(facts['definition']))}.</p>"
            f'<p class="small">Source: {escape(str(facts["source"]))}. '
            f"Threshold {threshold:g}: {escape(str(facts['threshold_source']))}.</p>"
        )
    given = scores.settings.get("inputs", {}).get(detector, "")
    level = chance_text(table["chance"])
    figure = head_grid(scores, detector).to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displaylogo": False, "modeBarButtons": [["toImage"]]},
        div_id=f"grid-{escape(detector)}",
    )
    return f"""<section id="{escape(detector)}">
<h2>{escape(detector)}</h2>
{described}
<figure>
<div class="scroll">{figure}</div>
<figcaption>Each cell is a head: row = layer (0 at the top), column = query head. Colour = score from {_range(scores, detector)},
the same range for every model. A frame marks heads above the threshold of {threshold:g}. Chance level
{level}. Hover for the numbers. Measured on {escape(given)}.</figcaption>
</figure>
</section>"""


def _facts(scores: HeadScores, detector: str, threshold: float) -> Mapping[str, Any]:
    """How a detector is defined: as the scan says it; else as the registry has it, if the threshold is the same."""
    said = scores.settings.get("methods", {})
    found = said.get(detector) if isinstance(said, Mapping) else None
    if isinstance(found, Mapping) and {"definition", "source", "threshold_source"} <= found.keys():
        return found
    known = registered().get(detector)
    return known.facts() if known is not None and known.threshold == threshold else {}


def _range(scores: HeadScores, detector: str) -> str:
    low, high = scores.range(detector)
    ends = ("blue", "red") if low < 0 < high else ("dark", "bright")
    return f"{low:g} ({ends[0]}) to {high:g} ({ends[1]})"


def _left_out(scores: HeadScores) -> str:
    left_out = scores.settings.get("left_out") or {}
    if not left_out:
        return ""
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in left_out.items())
    return f"<p>Left out of the standard detectors:</p><ul>{items}</ul>"
