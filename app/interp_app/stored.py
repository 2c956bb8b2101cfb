"""Stored scans and head dossiers: the folders under one folder that ``interp scan --out`` and ``HeadDossiers.save`` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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


def listed_dossiers(folder: Path, model: str) -> list[str]:
    """Names of the folders that hold head dossiers of a model, the newest first; passed over are the same as of scans."""
    found: list[tuple[float, str]] = []
    if folder.is_dir():
        for each in sorted(folder.iterdir())[:MOST]:
            if not NAME.fullmatch(each.name) or each.is_symlink() or not holds_dossiers(each):
                continue
            try:
                content = json.loads((each / CONTENT).read_text(encoding="utf-8"))
                if content["settings"]["model"]["model"] == model:
                    found.append(((each / CONTENT).stat().st_mtime, each.name))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
    return [name for _, name in sorted(found, key=lambda row: -row[0])]


def opened(folder: Path, name: str) -> HeadScores:
    """One of the scans. ``name`` comes from an address: only a folder that lies directly in ``folder`` is opened.

    Raises:
        InputError: there is none of that name, or it cannot be read.
    """
    return _opened(folder, name, "scan", load_scan)


def opened_dossiers(folder: Path, name: str) -> HeadDossiers:
    """The head dossiers in a folder, in the same way.

    Raises:
        InputError: there are none of that name, or they cannot be read.
    """
    from interp.dossiers import load_dossiers

    return _opened(folder, name, "set of head dossiers", load_dossiers)


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
