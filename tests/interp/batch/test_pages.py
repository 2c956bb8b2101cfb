"""The pages of batches and of dossiers name every key, table and column."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from interp.batch.kinds import KINDS
from interp.batch.kinds.dossier_tables import dossier_schemas
from interp.batch.kinds.dossiers import DossierKeys
from interp.batch.kinds.scan_settings import ScanSettings
from interp.batch.units import PLACE
from tests.interp.batch.stores import store_of

DOCS = Path(__file__).parents[3] / "docs"


def rows(page: str) -> dict[str, set[str]]:
    """First code word of each row of a table -> all code words from there to the next row that begins with such a word."""
    found: dict[str, set[str]] = {}
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        words = re.findall(r"`([A-Za-z_0-9]+)`", line)
        if line.startswith("| `") and words:
            found.setdefault(words[0], set()).update(words)
    return found


def test_every_column_of_a_scan_is_described(tmp_path: Path):
    said = set().union(*rows("batch.md").values())
    schemas = KINDS["scan"].schemas()
    assert set(schemas) | {name for schema in schemas.values() for name in schema.names} - set(PLACE) <= said
    row = {"model": "m", "detector": "x", "layer": 0, "head": 0, "score": 0.5, "step": 3, "checkpoint": "c"}
    store = store_of(tmp_path / "store", [row])
    for table in (*store.tables, *store.views):
        assert table in said, table
        assert set(store.to_frame(table).columns) - set(PLACE) <= said, table


@pytest.mark.parametrize("table", [name for name in dossier_schemas() if name != "dossiers"])
def test_every_column_of_dossiers_is_described(table: str):
    # Layer and head are told once, above the tables.
    told = {"layer", "head", "document", "number", *PLACE}
    assert set(dossier_schemas()[table].names) - told <= rows("dossiers.md")[table] | {"metric"}


def test_every_key_of_a_plan_is_described():
    said = set().union(*rows("batch.md").values())
    keys = {field.name for settings in (ScanSettings, DossierKeys) for field in fields(settings)} - {"seed"}
    assert keys | {"output", "kind", "device", "dtype", "unit_characters", "models", "texts"} <= said
    assert {field.name for field in fields(DossierKeys)} <= set().union(*rows("dossiers.md").values())
