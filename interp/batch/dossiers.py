"""Head dossiers in the store of a batch: which there are, one set of them, and their pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from interp.batch.kinds.dossier_tables import HEAD, TABLES, dossier_schemas, dossiers_of_tables
from interp.batch.query import reading_shards
from interp.errors import InputError
from interp.folders import write_together
from interp.naming import nearest

if TYPE_CHECKING:
    from interp.batch.store import BatchStore
    from interp.dossiers import HeadDossiers

REPORTS = "reports"
"""Folder of the pages within that of the batch."""


@dataclass(frozen=True)
class StoredDossiers:
    """One set of head dossiers in a store. unit: whose shard it is; settings: how they were made, as JSON."""

    unit: str
    model: str
    checkpoint: str
    settings: str

    @property
    def label(self) -> str:
        """For people: "pythia@step1000"."""
        return f"{self.model}@{self.checkpoint}" if self.checkpoint else self.model


def listed(store: BatchStore) -> list[StoredDossiers]:
    """The sets of a store that are finished, in the plan's order.

    Raises:
        InputError: a shard is damaged.
    """
    if HEAD not in store.tables:
        return []
    rows = store.to_frame(HEAD)[["unit", "model", "checkpoint", "settings"]].to_dict("records")
    return [StoredDossiers(**{str(key): str(value) for key, value in row.items()}) for row in rows]


def opened(store: BatchStore, unit: str) -> HeadDossiers:
    """The set in the shard of a unit.

    Raises:
        InputError: the shard is damaged.
    """
    import pyarrow.parquet as pq

    from interp.batch.folder import BatchFolder

    shard = BatchFolder(store.folder).shard(unit)
    schemas = dossier_schemas()
    with reading_shards():
        tables = {name: pq.read_table(shard / f"{name}.parquet") for name in (HEAD, *TABLES)}
        other = [name for name, table in tables.items() if table.schema.names != schemas[name].names]
        other += [HEAD] if not other and not tables[HEAD].num_rows else []
        if other:
            raise InputError(
                f"a shard cannot be read ({', '.join(other)} of {shard} is another table); check() names those"
            )
        return dossiers_of_tables(tables)


def dossiers_of(store: BatchStore, model: str | None, checkpoint: str | None) -> HeadDossiers:
    """See ``BatchStore.dossiers``."""
    found = listed(store)
    if not found:
        raise InputError(
            f"{store.folder} holds no finished head dossiers; they are of batches of the kinds dossiers and scan+dossiers, made "
            "when all other units of a model are finished (the tables units and errors say which are not)"
        )
    for name, given in (("model", model), ("checkpoint", checkpoint)):
        known = list(dict.fromkeys(str(getattr(each, name)) for each in found))
        if given is None and len(known) > 1:
            raise InputError(f"{name}: the store holds dossiers of several, give one of {', '.join(known)}")
        if given is not None and given not in known:
            raise InputError(f"{name}: there are no dossiers of {given!r}; {nearest(str(given), known)}")
        found = [each for each in found if given is None or getattr(each, name) == given]
    return opened(store, found[0].unit)


def write_reports(store: BatchStore) -> list[Path]:
    """Write a page of each set of dossiers into the store's folder ``reports``; returns their paths.

    Raises:
        InputError: there is none, or a shard is damaged.
        RunError: a page cannot be written.
    """
    found = listed(store)
    if not found:
        dossiers_of(store, None, None)
    paths = []
    for name, each in zip(file_names(found), found, strict=True):
        page = opened(store, each.unit).report()
        write_together(store.folder / REPORTS, {name: partial(_write, page)}, "report")
        paths.append(store.folder / REPORTS / name)
    return paths


def _write(page: str, path: Path) -> None:
    path.write_text(page, encoding="utf-8")


def file_names(found: Sequence[StoredDossiers]) -> list[str]:
    """A name of a file for each: its label in plain letters, told apart by its unit where that is not enough."""
    plain = [re.sub(r"[^A-Za-z0-9_.@-]+", "-", each.label).strip(".-")[:100] or "model" for each in found]
    return [
        f"{name}.html" if plain.count(name) == 1 else f"{name}-{each.unit[:8]}.html"
        for name, each in zip(plain, found, strict=True)
    ]
