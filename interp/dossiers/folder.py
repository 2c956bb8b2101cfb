"""A run of head dossiers on disk while it is under way: one folder a finished part, so that what is done is never done again.

    run.json              the settings that the parts depend on
    parts/00042/*.parquet the tables of part 42 (``Part.to_tables``); ``part.parquet`` is written last and makes it whole
    parts/00042/source.parquet  the checksum of the passages that it was measured on

An interruption at any moment, SIGKILL too, leaves whole parts alone: a part without ``part.parquet`` is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.dossiers.part import TABLES, Part
from interp.errors import InputError
from interp.folders import check_output_folder, write_together

if TYPE_CHECKING:
    import pandas as pd

RUN, PARTS, SOURCE = "run.json", "parts", "source"
FORMAT = "interp.dossier_run.2"


class RunFolder:
    """The finished parts of one run.

    settings: what the parts depend on; versions: of the libraries that their numbers depend on

    Raises:
        InputError: the folder cannot be written, or holds the parts of other settings or versions, or of something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        self.folder = folder
        # As a file gives them back, so that what was read and what is asked for compare.
        asked = json.loads(json.dumps({"settings": dict(settings), "versions": dict(versions)}, default=str))
        check_output_folder(folder, RUN, "run of head dossiers", overwrite=True, how="")
        if (folder / RUN).exists():
            self._check(folder / RUN, asked)
        else:
            text = json.dumps({"format": FORMAT, **asked}, indent=1, ensure_ascii=False) + "\n"
            write_together(folder, {RUN: lambda path: path.write_text(text, encoding="utf-8")}, "run of head dossiers")

    def finished(self, number: int, sha256: str) -> Part | None:
        """Part ``number``, None where it is still to be measured. sha256: of the passages that it is of.

        Raises:
            InputError: a file of it is damaged, or it was measured on other passages.
        """
        import pandas as pd

        folder = self._path(number)
        if not (folder / "part.parquet").is_file():
            return None
        try:
            tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in (*TABLES, SOURCE)}
            found = str(tables[SOURCE]["sha256"].iloc[0])
            part = Part.of_tables(tables)
        except (OSError, ValueError, KeyError, IndexError, InputError) as error:
            raise InputError(
                f"{folder} cannot be read ({error}); delete it, and that part is measured again"
            ) from error
        if found != sha256:
            raise InputError(
                f"{folder} was measured on other passages; give the same ones in the same order, or another folder"
            )
        return part

    def keep(self, number: int, part: Part, sha256: str) -> None:
        """Write a part.

        Raises:
            RunError: the disk is full, or the folder can no longer be written.
        """
        import pandas as pd

        tables = part.to_tables()
        last = {"part": tables.pop("part")}
        ordered = {SOURCE: pd.DataFrame({"sha256": [sha256]}), **tables, **last}
        writers: dict[str, Callable[[Path], object]] = {
            f"{name}.parquet": partial(_write, table) for name, table in ordered.items()
        }
        write_together(self._path(number), writers, "part")

    def _path(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:05d}"

    def _check(self, path: Path, asked: dict[str, Any]) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            format_of = content["format"]
            settings, versions = (dict(content[name]) for name in asked) if format_of == FORMAT else ({}, {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); give another folder") from error
        if format_of != FORMAT:
            raise InputError(
                f"{path} has the format {format_of!r:.60}, this interp goes on with {FORMAT!r}; finish the run with the interp "
                "that began it, or give another folder"
            )
        differing = _differing(settings, asked["settings"])
        if differing:
            said = "; ".join(f"{name}: {there!r:.60} there, {here!r:.60} asked for" for name, there, here in differing)
            raise InputError(f"{self.folder} holds parts of another run ({said}); give the same, or another folder")
        differing = _differing(versions, asked["versions"])
        if differing:
            said = ", ".join(
                f"{name} {there or 'none'} there, {here or 'none'} here" for name, there, here in differing
            )
            raise InputError(
                f"{self.folder} was begun with other versions ({said}), and numbers may differ in their last digits; install "
                "these and go on, or give another folder, in which all is measured anew"
            )


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Names whose values differ, with both."""
    left, right = dict(_flat(there)), dict(_flat(here))
    return [
        (name, left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def _flat(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its whole name, such as "settings.seed"."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False, compression="zstd")
