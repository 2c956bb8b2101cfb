"""The texts of a plan: which files and columns, found and checked before anything is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.batch.names import expanded, is_pattern, is_text, matching
from interp.batch.problems import Keys, Problems
from interp.batch.text_tables import open_table
from interp.errors import InputError

SOURCES = ("files", "parquet", "jsonl", "dataset")


@dataclass(frozen=True)
class TextEntry:
    """One entry of a plan's texts.

    name      what tables call it
    source    one of ``SOURCES``
    paths     files, or the folder of a data set
    column    of Parquet, JSON lines and data sets: the column, or key, that holds the text
    id_column the column that names a document; None: its place does
    limit     the first so many documents only
    max_characters  the first so many characters of each document only
    """

    name: str
    source: str
    paths: tuple[str, ...]
    column: str = "text"
    id_column: str | None = None
    limit: int | None = None
    max_characters: int | None = None


def read_texts(entries: Any, base: Path, problems: Problems) -> tuple[TextEntry, ...]:
    """The texts of a plan; problems are collected. base: what relative paths start from."""
    if not isinstance(entries, list | tuple):
        problems.add("texts", "expected tables: [[texts]] with one of " + ", ".join(SOURCES))
        return ()
    found: list[TextEntry] = []
    for number, given in enumerate(entries):
        where = f"texts[{number}]"
        entry = {"files": given} if isinstance(given, str) else given
        if not isinstance(entry, dict):
            problems.add(where, f"expected a table or a string, got {entry!r:.60}")
            continue
        read = _read_text(Keys(entry, where, problems), base)
        if read is not None:
            found.append(read)
    for name in {entry.name for entry in found}:
        if sum(entry.name == name for entry in found) > 1:
            problems.add("texts", f"two are called {name!r}; give one of them another name")
    return tuple(found)


def _read_text(keys: Keys, base: Path) -> TextEntry | None:
    given = {source: keys.strings(source) for source in SOURCES}
    name = keys.take("name", str)
    column = keys.take("column", str, "text")
    id_column = keys.take("id_column", str)
    limit = keys.number("limit", None, 1)
    characters = keys.number("max_characters", None, 1)
    split = keys.take("split", str)
    keys.end()
    named = [source for source in SOURCES if keys.has(source)]
    if len(named) != 1:
        keys.problems.add(keys.where, f"give one of {', '.join(SOURCES)}, got {', '.join(named) or 'none'}")
        return None
    source = named[0]
    if source == "files" and (keys.has("column") or keys.has("id_column")):
        keys.problems.add(keys.where, "column and id_column are of parquet, jsonl and dataset; a file is one document")
    if given[source] is None:
        return None
    paths = _paths(given[source] or [], source, split, base, keys)
    if not paths:
        return None
    for path in paths:
        if not is_text(str(path)):
            keys.problems.add(keys.place(source), f"the path {str(path)!r} is no UTF-8 text; rename it")
    if source in ("parquet", "dataset"):
        _check_columns(source, paths, column, id_column, keys)
    if name is not None and not (name and is_text(name)):
        keys.problems.add(keys.place("name"), f"expected a name, got {name!r:.60}")
    named_by = Path(paths[0]).stem if len(paths) == 1 else Path(paths[0]).parent.name
    return TextEntry(name or named_by, source, tuple(map(str, paths)), column, id_column, limit, characters)


def _paths(patterns: list[str], source: str, split: str | None, base: Path, keys: Keys) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        try:
            path = expanded(pattern, base)
        except InputError as error:
            keys.problems.add(keys.place(source), str(error))
            continue
        if source == "dataset":
            found += _arrow_files(path, split, keys)
        elif is_pattern(pattern):
            files = sorted(each for each in matching(pattern, base) if each.is_file())
            if not files:
                keys.problems.add(keys.place(source), f"no file matches {pattern!r}")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            what = "is a folder; give a glob of its files" if path.is_dir() else "there is no such file"
            keys.problems.add(keys.place(source), f"{path}: {what}")
    if source != "dataset" and split is not None:
        keys.problems.add(keys.place("split"), "is of dataset alone")
    return list(dict.fromkeys(found))


def _arrow_files(folder: Path, split: str | None, keys: Keys) -> list[Path]:
    """The files of a data set that ``datasets.Dataset.save_to_disk`` wrote."""
    splits = _json(folder / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        if split not in splits:
            got = "none" if split is None else repr(split)
            keys.problems.add(keys.place("split"), f"{folder} has the splits {', '.join(splits)}; got {got}")
            return []
        folder = folder / str(split)
    elif split is not None:
        keys.problems.add(keys.place("split"), f"{folder} holds one data set without splits; leave it out")
    files = [folder / str(each.get("filename")) for each in _json(folder / "state.json").get("_data_files", [])]
    if not files or not all(file.is_file() for file in files):
        keys.problems.add(
            keys.place("dataset"), f"{folder} holds no data set; give a folder that datasets' save_to_disk wrote"
        )
        return []
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_columns(source: str, paths: list[Path], column: str, id_column: str | None, keys: Keys) -> None:
    import pyarrow as pa

    for path in paths:
        try:
            with open_table(source, path) as table:
                names = table.names
                kinds = {name: table.kind(name) for name in names}
        except (OSError, ValueError, pa.ArrowException) as error:
            keys.problems.add(keys.place(source), f"{path} cannot be read: {str(error).splitlines()[0]}")
            continue
        for wanted in (column, id_column):
            if wanted is not None and wanted not in names:
                keys.problems.add(keys.where, f"{path} has no column {wanted!r}; it has {', '.join(names)}")
        if column in kinds and not (pa.types.is_string(kinds[column]) or pa.types.is_large_string(kinds[column])):
            keys.problems.add(keys.where, f"{path}: the column {column!r} holds {kinds[column]}, expected strings")
