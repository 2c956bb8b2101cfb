"""Plans small enough for tests, and stores compared file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.batch.folder import LOCK, MANIFEST, BatchFolder
from interp.batch.kinds import KINDS
from interp.batch.models import ModelRef
from interp.batch.plan import Plan, make_plan
from interp.batch.store import BatchStore, open_store
from interp.batch.texts import DocumentRef
from interp.batch.units import Unit, in_place, units_table
from tests.interp.tiny import token_ids
from tests.interp.words import text_of

SMALL = {"window": 24, "samples": 2, "detectors": ["induction", "previous_token", "copying"]}


def write_documents(path: Path, count: int, shortest: int = 12) -> Path:
    """JSON lines with ``count`` texts of different lengths, in words of the tests' tokenizer."""
    lines = []
    for n in range(count):
        ids = token_ids((shortest + 7 * n % 40,), seed=n).tolist()
        # Some words come twice, as detectors of copies want.
        ids[6:10] = ids[1:5]
        lines.append(json.dumps({"id": f"d{n}", "text": text_of(ids)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_plan(model: Path, folder: Path, documents: int = 6, **keys: Any) -> Plan:
    """A tiny model on a few documents, two or so a unit; in ``folder / "store"`` unless said otherwise. None leaves a key out."""
    texts = [{"jsonl": str(write_documents(folder / "texts.jsonl", documents)), "id_column": "id"}]
    given = {
        "models": [str(model)],
        "texts": texts,
        "output": folder / "store",
        "unit_characters": 200,
        "device": "cpu",
    }
    return make_plan(**{key: value for key, value in {**given, **SMALL, **keys}.items() if value is not None})


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a store, by its path; of the manifest all but its runs, which hold times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name != LOCK:
            found[name] = path.read_bytes()
    manifest = json.loads(found[MANIFEST])
    del manifest["runs"]
    found[MANIFEST] = manifest
    return found


COLUMNS = {"seed": 0, "text": None, "document": None, "stderr": None, "chance": None, "threshold": 0.5, "samples": 1}
"""What a row of scores holds where a test does not say otherwise."""


def store_of(folder: Path, rows: list[dict[str, Any]]) -> BatchStore:
    """A store with these rows of scores: model, checkpoint, step, document, detector, layer, head, score and so on."""
    schemas = KINDS["scan"].schemas()
    units: dict[tuple[Any, ...], tuple[Unit, list[dict[str, Any]]]] = {}
    for given in rows:
        row = {**COLUMNS, "checkpoint": "", "step": None, "is_above": None, "share_above": None, **given}
        place = tuple(row[key] for key in ("model", "checkpoint", "step", "document", "seed"))
        if place not in units:
            ref = ModelRef(row["model"], row["checkpoint"], row["step"], row["model"])
            document = row["document"]
            of_document = () if document is None else (DocumentRef("t", document, "files", "", "text", 0, 1, ""),)
            units[place] = Unit(f"{len(units):032x}", ref, "text", row["seed"], True, of_document), []
        units[place][1].append(row)
    batch = BatchFolder(folder)
    for unit, of_unit in units.values():
        tables = {name: schema.empty_table() for name, schema in schemas.items()}
        batch.write_shard(unit, tables | {"scores": in_place(unit, schemas["scores"], of_unit)})
    known = {"kind": "scan", "models": {row["model"]: {} for row in rows}, "versions": {}, "runs": []}
    batch.write_manifest(known, units_table([unit for unit, _ in units.values()]))
    return open_store(folder)
