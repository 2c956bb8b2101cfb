"""A scan on disk: a folder with the table, the settings and a report, each written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from interp.errors import InputError, RunError
from interp.scores import COLUMNS, HeadScores

TABLE, SETTINGS, REPORT = "scores.parquet", "scan.json", "report.html"
FORMAT, FORMAT_VERSION = "interp.scan", 1


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse an output folder that cannot take a scan, before anything is computed.

    Raises:
        InputError: it is a file, cannot be written, or already holds a scan and ``overwrite`` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder")
    if (folder / SETTINGS).exists() and not overwrite:
        raise InputError(f"{folder} already holds a scan; give another folder, or overwrite it (--overwrite)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}; give a folder that can be written") from error


def save_scan(scores: HeadScores, folder: Path, *, overwrite: bool = False) -> Path:
    """Write ``scores.parquet``, ``scan.json`` and ``report.html`` into ``folder``; returns the report's path.

    The settings come last: a folder that has them is a whole scan.
    """
    from interp.report import report_html

    check_folder(folder, overwrite=overwrite)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **scores.settings}
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    try:
        _write(folder / TABLE, lambda path: scores.frame.to_parquet(path, index=False))
        _write(folder / REPORT, lambda path: path.write_text(report_html(scores), encoding="utf-8"))
        _write(folder / SETTINGS, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    except OSError as error:
        raise RunError(f"writing the scan into {folder} failed: {error}") from error
    return folder / REPORT


def load_scan(folder: str | Path) -> HeadScores:
    """The scan stored in ``folder``.

    Raises:
        InputError: there is none, or it is damaged or of a format that this version does not know.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} holds no scan (no {SETTINGS}); give a folder that interp scan --out wrote")
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if settings.pop("format", None) != FORMAT:
            raise InputError(f"{folder / SETTINGS} was not written by interp scan")
        version = settings.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise InputError(f"{folder} has format version {version}, this interp reads {FORMAT_VERSION}")
        frame = pd.read_parquet(folder / TABLE)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the scan in {folder} cannot be read: {error}") from error
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise InputError(f"{folder / TABLE} lacks the columns {', '.join(missing)}")
    return HeadScores(frame[list(COLUMNS)].astype(COLUMNS), settings)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the target and move into place, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
