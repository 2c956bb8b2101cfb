"""Head dossiers as JSON, for programs that read nothing else: one file a head, and an index. docs/dossiers.md has the schema.

index.json        format, version, settings, layers, heads, by; metrics: one object a head; heads: their files
heads/L2H5.json   everything of one head
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.dossiers.metrics import METRICS
from interp.folders import WriteError, check_output_folder, write_together
from interp.plain import plain

if TYPE_CHECKING:
    from interp.dossiers.head import HeadDossier, ShownPassage
    from interp.dossiers.result import HeadDossiers

FORMAT, INDEX_FORMAT, VERSION = "interp.head_dossier", "interp.head_dossiers_index", 1
INDEX, HEADS = "index.json", "heads"
DIGITS = 6
"""Decimals of weights and shares."""


def head_json(dossier: HeadDossier) -> dict[str, Any]:
    """One head's dossier of plain values; a number that is not defined is None."""
    units = {metric.name: metric.unit for metric in METRICS}
    histogram = dossier.histogram()
    distance = dossier.distance
    return _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "model": dossier.settings.get("model", {}).get("model"),
            "head": dossier.name,
            "layer": dossier.layer,
            "number": dossier.head,
            "metrics": [
                {
                    "name": row["metric"],
                    "unit": units.get(row["metric"], ""),
                    **{name: row[name] for name in ("value", "stderr", "chance", "passages")},
                }
                for row in dossier.metrics.to_dict("records")
            ],
            "histogram": {
                "metric": dossier.by,
                "edges": [*histogram["low"].tolist(), float(histogram["high"].iloc[-1])],
                "counts": histogram["count"].tolist(),
                "cuts": [float(histogram[f"cut_{n}"].iloc[0]) for n in range(1, 5)],
            },
            "distance": {
                "edges": [*distance["low"].tolist(), int(distance["high"].iloc[-1])],
                "mass": distance["mass"].round(DIGITS).tolist(),
                "chance": distance["chance"].round(DIGITS).tolist(),
            },
            "tokens": {
                side: {
                    f"by_{ranked}": dossier.leading(side, ranked).to_dict("records") for ranked in ("weight", "lift")
                }
                for side in ("query", "key")
            },
            "passages": [_passage(passage) for passage in dossier.passages],
        }
    )


def save_json(dossiers: HeadDossiers, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the index and a file a head; returns the index. It is written last: a folder that has it holds all of them.

    Raises:
        InputError: the folder cannot be written, or holds an index already and ``overwrite`` is not set.
        RunError: the disk is full.
    """
    check_output_folder(folder, INDEX, "set of head dossiers", overwrite=overwrite, how="overwrite=True")
    # One from before goes first: it would make a mixture of old and new heads look whole.
    try:
        (folder / INDEX).unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"writing the index of head dossiers into {folder} failed: {error}") from error
    for dossier in dossiers:
        write_together(folder / HEADS, {f"{dossier.name}.json": _writer(dossier.as_json())}, "dossier")
    table = dossiers.to_frame()
    content = {
        "format": INDEX_FORMAT,
        "version": VERSION,
        "settings": dossiers.settings,
        "layers": list(dossiers.layers),
        "heads_per_layer": dossiers.heads,
        "by": dossiers.by,
        "metrics": table.to_dict("records"),
        "heads": {dossier.name: f"{HEADS}/{dossier.name}.json" for dossier in dossiers},
    }
    write_together(folder, {INDEX: _writer(_plain(content))}, "index of head dossiers")
    return folder / INDEX


def _passage(passage: ShownPassage) -> dict[str, Any]:
    edges = passage.edges
    return {
        "group": passage.group,
        "rank": passage.rank,
        "value": passage.value,
        "text": passage.text,
        "start": passage.start,
        "ids": passage.ids.tolist(),
        "tokens": list(passage.tokens),
        "edges": [
            [query, key, round(weight, DIGITS)]
            for query, key, weight in zip(
                edges["query"].tolist(), edges["key"].tolist(), edges["weight"].tolist(), strict=True
            )
        ],
    }


def _plain(value: Any) -> Any:
    """As JSON holds it: what is not finite is None."""
    value = plain(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _writer(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
