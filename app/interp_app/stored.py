"""Stored scans and head dossiers: what ``interp scan``, ``HeadDossiers.save`` and ``interp batch`` wrote under one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interp.batch.folder import MANIFEST, SHARD, SHARDS
from interp.batch.kinds.dossier_tables import HEAD
from interp.dossiers.stored import holds_dossiers
from interp.errors import InputError
from interp.results.store import CONTENT
from interp.store import SETTINGS, load_scan

if TYPE_CHECKING:
    import pandas as pd

    from interp.dossiers import HeadDossiers
    from interp.scores import HeadScores

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
UNIT = 12
"""Digits of a unit's id in a name: its first 48 bits."""
MOST = 2000
"""Folders that are looked into."""


def listed(folder: Path) -> pd.DataFrame:
    """One row a scan: its folder's name, model, detectors, seed and when it was written; the newest first.

    Folders with other names than letters, digits and _.- are passed over: an address could not name them. So are links, which may
    lead out of the folder.
    """
    import pandas as pd

    rows = []
    if folder.is_dir():
        for each in sorted(folder.iterdir())[:MOST]:
            file = each / SETTINGS
            if not NAME.fullmatch(each.name) or each.is_symlink() or not file.is_file():
                continue
            try:
                settings = json.loads(file.read_text(encoding="utf-8"))
                model = settings.get("model", {})
                rows.append(
                    {
                        "scan": each.name,
                        "model": str(model.get("model", "?")),
                        "detectors": ", ".join(map(str, settings.get("detectors", []))),
                        "seed": settings.get("seed"),
                        "written": pd.Timestamp(file.stat().st_mtime, unit="s").floor("s"),
                    }
                )
            except (OSError, ValueError, AttributeError, TypeError, RecursionError):
                rows.append(
                    {"scan": each.name, "model": "cannot be read", "detectors": "", "seed": None, "written": None}
                )
    frame = pd.DataFrame(rows, columns=["scan", "model", "detectors", "seed", "written"])
    return frame.sort_values("written", ascending=False, ignore_index=True)


def listed_dossiers(folder: Path, model: str) -> dict[str, str]:
    """Head dossiers of a model, the newest first: what an address names them by, and what people are told.

    They are folders that ``HeadDossiers.save`` wrote, by their name, and those in the store of ``interp batch``, by the name of
    its folder and the beginning of the unit that they are. Passed over are the same folders as of scans.
    """
    found: list[tuple[float, str, str]] = []
    if folder.is_dir():
        for each in sorted(folder.iterdir())[:MOST]:
            if not NAME.fullmatch(each.name) or each.is_symlink():
                continue
            try:
                if holds_dossiers(each):
                    content = json.loads((each / CONTENT).read_text(encoding="utf-8"))
                    if content["settings"]["model"]["model"] == model:
                        found.append(((each / CONTENT).stat().st_mtime, each.name, each.name))
                elif (each / MANIFEST).is_file():
                    state = (each / MANIFEST).stat().st_mtime_ns, (each / SHARDS).stat().st_mtime_ns
                    found += [
                        (
                            (each / SHARDS / unit / SHARD).stat().st_mtime,
                            f"{each.name}:{unit[:UNIT]}",
                            f"{each.name}, {label}",
                        )
                        for unit, label, name in _in_store(each, state)
                        if name == model
                    ]
            except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
                continue
    return {name: told for _, name, told in sorted(found, key=lambda row: -row[0])}


@lru_cache(maxsize=64)
def _in_store(folder: Path, state: tuple[int, int]) -> list[tuple[str, str, str]]:
    """Unit, label and model of the dossiers in the store of a batch; none where it holds a link.

    state: when its manifest and its shards were last written, by which it is known whether to look again
    """
    from interp.batch import open_store
    from interp.batch.dossiers import listed as sets

    inside = [*folder.iterdir(), *(folder / SHARDS).iterdir(), *(folder / SHARDS).glob(f"*/{HEAD}.parquet")]
    if any(each.is_symlink() for each in inside):
        return []
    return [(each.unit, each.label, json.loads(each.settings)["model"]["model"]) for each in sets(open_store(folder))]


def dossiers_file(folder: Path, name: str) -> Path:
    """The file that is written last of the dossiers of that name, which must be among those listed."""
    store, _, unit = name.partition(":")
    if not unit:
        return folder / name / CONTENT
    return next((folder / store / SHARDS).glob(f"{unit}*")) / SHARD


def opened(folder: Path, name: str) -> HeadScores:
    """One of the scans. ``name`` comes from an address: only a folder that lies directly in ``folder`` is opened.

    Raises:
        InputError: there is none of that name, or it cannot be read.
    """
    return _opened(folder, name, "scan", load_scan)


def opened_dossiers(folder: Path, name: str) -> HeadDossiers:
    """The head dossiers of a name that ``listed_dossiers`` gives, in the same way.

    Raises:
        InputError: there are none of that name, or they cannot be read.
    """
    from interp.dossiers import load_dossiers

    place, _, unit = name.partition(":")
    if not unit:
        return _opened(folder, name, "set of head dossiers", load_dossiers)

    def load(store: Path) -> HeadDossiers:
        from interp.batch import open_store
        from interp.batch.dossiers import listed as sets
        from interp.batch.dossiers import opened as of_unit
        from interp.batch.folder import BatchFolder

        made = open_store(store)
        for each in sets(made):
            if each.unit.startswith(unit):
                shard = BatchFolder(store).shard(each.unit)
                if any(part.is_symlink() for part in (shard.parent, shard, *shard.iterdir())):
                    raise InputError(f"the stored dossiers {name!r} hold a link, which is not followed; store a copy")
                return of_unit(made, each.unit)
        raise InputError(f"there is no stored set of head dossiers {name!r}")

    return _opened(folder, place, "set of head dossiers", load)


def _opened(folder: Path, name: str, what: str, load: Callable[[Path], T]) -> T:
    if not NAME.fullmatch(name):
        raise InputError(f"there is no stored {what} {name!r:.40}")
    known = {each.name: each for each in folder.iterdir()} if folder.is_dir() else {}
    if name not in known or known[name].is_symlink() or not known[name].is_dir():
        raise InputError(f"there is no stored {what} {name!r} in the server's folder of scans")
    if any(each.is_symlink() for each in known[name].iterdir()):
        raise InputError(f"the stored {what} {name!r} holds a link, which is not followed; store a copy")
    try:
        return load(known[name])
    except InputError as error:
        # Where the folder lies is no business of a browser.
        raise InputError(str(error).replace(str(known[name]), name)) from error
    except RecursionError as error:
        raise InputError(f"the {what} in {name} cannot be read: its settings are nested too deep") from error
