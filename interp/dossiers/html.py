"""Head dossiers as HTML: one head for a notebook, and a self-contained page of many heads for ``interp report``."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.dossiers.metrics import METRICS
from interp.dossiers.payload import passages_payload
from interp.models.heads import HeadSpec, ordered_heads
from interp.naming import head_name
from interp.plots.script import plotly_script
from interp.views.token_html import in_text
from interp.views.token_payload import as_json
from interp.views.token_text import shown

if TYPE_CHECKING:
    import pandas as pd

    from interp.dossiers.head import HeadDossier, ShownPassage
    from interp.dossiers.result import HeadDossiers

MOST_HEADS = 48
"""Heads of a report where none are named."""
LEADING = ("induction_text", "copying", "previous_token", "first_token_sink", "current_token", "entropy", "distance")
"""Metrics whose leading heads, in turn, are taken where not all fit."""
STRONGEST, OF_EACH_FIFTH = 4, 1
"""Passages of a head in a report."""
TOKENS = 10
"""Tokens of each list."""
LEGEND = (
    "Hover a token: blue is where it looks, orange who looks at it (as far as links were kept: the strongest of each query); "
    "the colour is the square root of the weight. A click locks it, Escape releases it; with the keyboard, Tab reaches a "
    "passage, the arrow keys move. Framed at first is the query of the strongest link to another token than itself and the "
    "first. Attention weight shows where a head reads, not why the model answers as it does."
)


@cache
def script() -> str:
    """passages.js, which puts ``interpPassages`` on the window."""
    return resources.files("interp.dossiers").joinpath("passages.js").read_text(encoding="utf-8")


@cache
def style() -> str:
    """passages.css"""
    return resources.files("interp.dossiers").joinpath("passages.css").read_text(encoding="utf-8")


def dossier_html(dossier: HeadDossier) -> str:
    """One head for the output of a notebook's cell: numbers, leading tokens, passages."""
    passages = _chosen(dossier, 3, 1)
    return f"""<style>{style()}</style>
<div><p><b>{escape(dossier.name)}</b>, {escape(_counts(dossier.settings))}</p>
{_metrics(dossier)}
{_tokens(dossier)}
{_passages(dossier, passages)}
<p><small>{escape(LEGEND)}</small></p></div>
<script>
{script()}
{_MOUNT}
</script>
"""


def report_html(dossiers: HeadDossiers, heads: HeadSpec | list[HeadSpec] | None = None) -> str:
    """A page of its own that fetches nothing: an overview of all heads, then a section for each head.

    heads: those with a section; without, all of them, or of more than 48 those that lead in one metric or another.

    Raises:
        InputError: a head that does not exist.
    """
    chosen = _heads(dossiers, heads)
    name = escape(str(dossiers.settings.get("model", {}).get("model", "a model")))
    css = resources.files("interp").joinpath("report.css").read_text(encoding="utf-8")
    sections = "\n".join(_section(dossiers.head(layer, head)) for layer, head in chosen)
    left = len(dossiers) - len(chosen)
    more = (
        f"<p>{left:,} of {len(dossiers):,} heads have no section here; HeadDossiers.report(heads) takes any.</p>"
        if left
        else ""
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Head dossiers of {name}</title>
<style>{css}
{style()}
.two {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 4px 28px; }}
.tokens {{ font-size: 13px; }} .tokens th, .tokens td {{ padding: 2px 8px 2px 0; }}
.numbers th, .numbers td {{ padding: 4px 6px; font-size: 12.5px; }}
.names a {{ display: inline-block; min-width: 3.4em; }}
</style>
<script>{plotly_script()}</script>
<script>{script()}</script>
</head>
<body class="ipd-light">
<header>
<h1>Head dossiers of <span class="model">{name}</span></h1>
<p>{escape(_counts(dossiers.settings))} · {len(dossiers):,} heads · passages ranked by {escape(dossiers.by)}</p>
</header>
<main>
<section>
<h2>All heads</h2>
<figure><div class="scroll">{_figure(dossiers.plot(), "all-heads")}</div>
<figcaption>Each point is a head, its colour the layer. Dotted lines are chance: uniform attention over the visible
keys.</figcaption>
</figure>
<p class="names">{" ".join(f'<a href="#{head_name(a, b)}">{head_name(a, b)}</a>' for a, b in chosen)}</p>
{more}
<p class="note">{escape(LEGEND)}</p>
</section>
{sections}
<section>
<h2>How it was measured</h2>
<div class="scroll"><table><thead><tr><th>metric</th><th>definition</th></tr></thead>
<tbody>{_definitions(dossiers)}</tbody></table></div>
<pre>{escape(json.dumps(dict(dossiers.settings), indent=2, ensure_ascii=False, default=str))}</pre>
</section>
</main>
<script>{_MOUNT}</script>
</body>
</html>
"""


_MOUNT = """for (const place of document.querySelectorAll("[data-interp-passages]:not([data-mounted])")) {
  window.interpPassages.mount(place, JSON.parse(place.querySelector("script").textContent));
}"""


def _section(dossier: HeadDossier) -> str:
    figure = dossier.plot()
    return f"""<section id="{dossier.name}">
<h2>{dossier.name}</h2>
<div class="scroll">{_metrics(dossier)}</div>
<figure><div class="scroll">{_figure(figure, f"figure-{dossier.name}")}</div>
<figcaption>Left: passages by {escape(dossier.by)}; dashed lines cut them into fifths. Right: attention by distance (bars, ± two
standard errors) and that of uniform attention (dotted).</figcaption></figure>
{_tokens(dossier)}
{_passages(dossier, _chosen(dossier, STRONGEST, OF_EACH_FIFTH))}
</section>"""


def _figure(figure: Any, place: str) -> str:
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]]}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=place)


def _metrics(dossier: HeadDossier) -> str:
    rows = dossier.metrics.to_dict("records")
    head = "".join(f"<th>{escape(row['metric'])}</th>" for row in rows)
    values = "".join(f"<td>{_number(row['value'])} {_error(row['stderr'])}</td>" for row in rows)
    chance = "".join(f"<td>{_number(row['chance'])}</td>" for row in rows)
    return (
        f'<table class="numbers"><thead><tr><th></th>{head}</tr></thead><tbody><tr><th>mean</th>{values}</tr>'
        f"<tr><th>chance</th>{chance}</tr></tbody></table>"
    )


def _tokens(dossier: HeadDossier) -> str:
    sides = (("query", "look most at others"), ("key", "are looked at most"))
    return f'<div class="two">{"".join(_side(dossier, side, said) for side, said in sides)}</div>'


def _side(dossier: HeadDossier, side: Any, said: str) -> str:
    tables = "".join(
        _token_table(dossier.leading(side, ranked).head(TOKENS), f"tokens that {said}, by {what}")  # pyright: ignore[reportArgumentType]
        for ranked, what in (("weight", "sum"), ("lift", "lift over uniform attention"))
    )
    return f"<div>{tables}</div>"


def _token_table(rows: pd.DataFrame, title: str) -> str:
    cells = "".join(
        f"<tr><td>{in_text(shown(str(row['token'])).replace(chr(10), ''))}</td><td>{row['count']:,}</td>"
        f"<td>{row['share']:.1%}</td>"
        f"<td>{_number(row['lift'])}</td></tr>"
        for row in rows.to_dict("records")
    )
    return (
        f'<details><summary>{escape(title)}: {_first(rows)}</summary><table class="tokens"><thead><tr><th>token</th><th>times'
        f"</th><th>share</th><th>lift</th></tr></thead><tbody>{cells}</tbody></table></details>"
    )


def _first(rows: pd.DataFrame) -> str:
    """The leading tokens in a line."""
    return " ".join(f"“{in_text(shown(str(token)).replace(chr(10), ''))}”" for token in rows["token"].head(5))


def _passages(dossier: HeadDossier, passages: list[ShownPassage]) -> str:
    """Where the script mounts them, and what is read where no script runs."""
    content = passages_payload(passages, dossier.by)
    text = as_json(content)
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    fallback = "".join(
        f"<p><b>{escape(each['title'])}</b> {escape(each['note'])}<br>{''.join(in_text(token) for token in each['tokens'])}</p>"
        for each in content["passages"]
    )
    return (
        f'<div class="interp-passages" data-interp-passages="{mark}"><script type="application/json">{text}</script>'
        f"{fallback}</div>"
    )


def _chosen(dossier: HeadDossier, strongest: int, of_each: int) -> list[ShownPassage]:
    return [p for p in dossier.passages if p.rank < (strongest if p.group == "strongest" else of_each)]


def _heads(dossiers: HeadDossiers, heads: HeadSpec | list[HeadSpec] | None) -> list[tuple[int, int]]:
    if heads is not None:
        found = ordered_heads(heads, dict.fromkeys(dossiers.layers, dossiers.heads))
        return [(int(layer), head) for layer, head in found]
    everyone = [(layer, head) for layer in dossiers.layers for head in range(dossiers.heads)]
    if len(everyone) <= MOST_HEADS:
        return everyone
    known = set(dossiers.metrics["metric"])
    ranked = [dossiers.of(name) for name in LEADING if name in known]
    turns = [(int(t["layer"].iloc[n]), int(t["head"].iloc[n])) for n in range(MOST_HEADS) for t in ranked if n < len(t)]
    return sorted(list(dict.fromkeys(turns))[:MOST_HEADS])


def _definitions(dossiers: HeadDossiers) -> str:
    known = set(dossiers.metrics["metric"])
    return "".join(
        f'<tr><th scope="row">{escape(m.name)}</th><td style="white-space: normal">{escape(m.definition)}'
        f"{f' ({escape(m.unit)})' if m.unit else ''}</td></tr>"
        for m in METRICS
        if m.name in known
    )


def _counts(settings: Any) -> str:
    inputs = settings.get("inputs", {})
    return f"{inputs.get('passages', 0):,} passages, {inputs.get('tokens', 0):,} tokens"


def _number(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def _error(value: float) -> str:
    return "" if np.isnan(value) else f'<span class="small">± {value:.2g}</span>'
