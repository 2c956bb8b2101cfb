"""A scan on disk: a folder with the table, the settings and a report, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from interp.errors import InputError
from interp.folders import check_output_folder, checked_path, write_together
from interp.scores import COLUMNS, HeadScores

TABLE, SETTINGS, REPORT = "scores.parquet", "scan.json", "report.html"
FORMAT, FORMAT_VERSION = "interp.scan", 1


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse an output folder that cannot take a scan, before anything is computed.

    Raises:
        InputError: it is a file, cannot be written, or already holds a scan and ``overwrite`` is not set.
    """
    check_output_folder(folder, SETTINGS, "scan", overwrite=overwrite, how="--overwrite")


def save_scan(scores: HeadScores, folder: Path, *, overwrite: bool = False) -> Path:
    """Write ``scores.parquet``, ``scan.json`` and ``report.html`` into ``folder``; returns the report's path.

    All or none; the settings come last: a folder that has them is a whole scan.
    """
    from interp.report import report_html

    check_folder(folder, overwrite=overwrite)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **scores.settings}
    settings = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    report = report_html(scores)
    writers: dict[str, Callable[[Path], object]] = {
        TABLE: lambda path: scores.frame.to_parquet(path, index=False),
        REPORT: lambda path: path.write_text(report, encoding="utf-8"),
        SETTINGS: lambda path: path.write_text(settings, encoding="utf-8"),
    }
    write_together(folder, writers, "scan")
    return folder / REPORT


def load_scan(folder: str | Path) -> HeadScores:
    """The scan stored in ``folder``.

    Raises:
        InputError: there is none, or it is damaged or of a format that this version does not know.
    """
    folder = checked_path("folder", folder)
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} holds no scan (no {SETTINGS}); give a folder that interp scan --out wrote")
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or settings.pop("format", None) != FORMAT:
            raise InputError(f"{folder / SETTINGS} was not written by interp scan")
        version = settings.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise InputError(f"{folder} has format version {version}, this interp reads {FORMAT_VERSION}")
        for key in ("model", "inputs", "left_out"):
            if not isinstance(settings.get(key, {}), dict):
                raise InputError(f"{folder / SETTINGS} is damaged: {key!r} holds {settings[key]!r:.40}")
        frame = pd.read_parquet(folder / TABLE)
        missing = [column for column in COLUMNS if column not in frame]
        if missing:
            raise InputError(f"{folder / TABLE} lacks the columns {', '.join(missing)}")
        if frame.empty:
            raise InputError(f"{folder / TABLE} has no rows")
        return HeadScores(frame[list(COLUMNS)].astype(COLUMNS), settings)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the scan in {folder} cannot be read: {error}") from error
