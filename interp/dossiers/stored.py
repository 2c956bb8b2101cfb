"""Head dossiers in a folder: whether it holds some, and their report beside them."""

from __future__ import annotations

import json
from pathlib import Path

from interp.folders import write_together
from interp.results.store import CONTENT

KIND = "head_dossiers"
REPORT = "report.html"


def holds_dossiers(folder: Path) -> bool:
    """Whether ``HeadDossiers.save`` wrote into ``folder``; not whether they can be read."""
    try:
        content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of the dossiers in ``folder``; returns its path.

    Raises:
        InputError: they are damaged, or of another version.
        RunError: the page cannot be written.
    """
    from interp.dossiers.result import load_dossiers

    page = load_dossiers(folder).report()
    write_together(folder, {REPORT: lambda path: path.write_text(page, encoding="utf-8")}, "report")
    return folder / REPORT
