"""The documents of a batch: text files, columns of Parquet and JSON lines, data sets that Hugging Face saved in a folder.

A plan reads every document once to know its checksum and length, one at a time, and keeps where it is, not what it says; whoever
works on it reads it again from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.problems import Keys, Problems
from interp.errors import InputError, RunError

if TYPE_CHECKING:
    import pyarrow as pa

SOURCES = ("files", "parquet", "jsonl", "dataset")
MARKERS = frozenset("*?[")
ROWS = 256
"""Rows of a column that are read together."""


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


@dataclass(frozen=True)
class DocumentRef:
    """Where a document is, and what tells whether it still says the same.

    text        name of its entry
    document    what tables call it: the file's name, the value of the id column, or "FILE:ROW"
    place       row (Parquet, data sets) or first byte (JSON lines); 0 of a text file
    sha256      of what is measured: the first ``characters`` characters of it
    """

    text: str
    document: str
    source: str
    path: str
    column: str
    place: int
    characters: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    if source in ("parquet", "dataset"):
        _check_columns(source, paths, column, id_column, keys)
    named_by = Path(paths[0]).stem if len(paths) == 1 else Path(paths[0]).parent.name
    return TextEntry(name or named_by, source, tuple(map(str, paths)), column, id_column, limit, characters)


def _paths(patterns: list[str], source: str, split: str | None, base: Path, keys: Keys) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        path = base / Path(pattern).expanduser()
        if source == "dataset":
            found += _arrow_files(path, split, keys)
        elif MARKERS & set(pattern):
            anchor = Path(path.anchor)
            matching = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
            if not matching:
                keys.problems.add(keys.place(source), f"no file matches {pattern!r}")
            found += matching
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
            with _table(source, path) as table:
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


def documents(entry: TextEntry) -> Iterator[DocumentRef]:
    """The documents of an entry, in order; one is in memory at a time.

    Raises:
        InputError: one cannot be read.
    """
    count = 0
    for path in entry.paths:
        for place, name, whole in _content(entry, Path(path)):
            if entry.limit is not None and count == entry.limit:
                return
            count += 1
            text = whole[: entry.max_characters]
            yield DocumentRef(entry.name, name, entry.source, path, entry.column, place, len(text), _sha256(text))


def _content(entry: TextEntry, path: Path) -> Iterator[tuple[int, str, str]]:
    """Place, name and text of each document of a file."""
    if entry.source == "files":
        # Files of one name in different folders are told apart by their folder.
        shared = [Path(other).name for other in entry.paths].count(path.name) > 1
        yield 0, f"{path.parent.name}/{path.name}" if shared else path.name, _file(path)
        return
    if entry.source == "jsonl":
        yield from _lines(entry, path)
        return
    with _table(entry.source, path) as table:
        row = 0
        columns = [entry.column] if entry.id_column is None else [entry.column, entry.id_column]
        for part in table.parts(columns):
            names = part.column(entry.id_column).to_pylist() if entry.id_column is not None else None
            for number, text in enumerate(part.column(entry.column).to_pylist()):
                yield row, f"{path.name}:{row}" if names is None else str(names[number]), text or ""
                row += 1


def _lines(entry: TextEntry, path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open("rb") as stream:
        place = 0
        for number, line in enumerate(stream):
            if line.strip():
                content = _line(line, path, number)
                name = f"{path.name}:{number}" if entry.id_column is None else str(content.get(entry.id_column))
                yield place, name, _of_key(content, entry.column, f"{path}, line {number + 1}")
            place += len(line)


def _line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number + 1} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}, line {number + 1}: expected a JSON object, got {type(content).__name__}")
    return content


def _of_key(content: dict[str, Any], key: str, where: str) -> str:
    text = content.get(key)
    if not isinstance(text, str):
        raise InputError(f"{where}: expected a text under {key!r}, got {text!r:.60}; its keys: {', '.join(content)}")
    return text


def _file(path: Path) -> str:
    from interp.inputs.textfile import read_text

    return read_text(path)


def read_documents(refs: Iterable[DocumentRef]) -> list[str]:
    """The documents themselves, in order.

    Raises:
        RunError: one is not there any more, or is not what the plan saw.
    """
    import pyarrow as pa

    found: dict[int, str] = {}
    numbered = list(enumerate(refs))
    for path in dict.fromkeys(ref.path for _, ref in numbered):
        here = [(n, ref) for n, ref in numbered if ref.path == path]
        try:
            texts = _read(Path(path), [ref for _, ref in here])
        except (OSError, InputError, ValueError, LookupError, pa.ArrowException) as error:
            raise RunError(f"the text {path} cannot be read any more: {error}") from error
        for (n, ref), text in zip(here, texts, strict=True):
            found[n] = text[: ref.characters]
            if _sha256(found[n]) != ref.sha256:
                raise RunError(
                    f"the document {ref.document} in {path} is not what it was when the run began; start the batch again"
                )
    return [found[n] for n, _ in numbered]


def _read(path: Path, refs: list[DocumentRef]) -> list[str]:
    if refs[0].source == "files":
        return [_file(path) for _ in refs]
    if refs[0].source == "jsonl":
        texts = []
        with path.open("rb") as stream:
            for ref in refs:
                stream.seek(ref.place)
                texts.append(_of_key(_line(stream.readline(), path, 0), ref.column, str(path)))
        return texts
    with _table(refs[0].source, path) as table:
        return table.rows(refs[0].column, [ref.place for ref in refs])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.file = pq.ParquetFile(path)

    @property
    def names(self) -> list[str]:
        return list(self.file.schema_arrow.names)

    def kind(self, name: str) -> pa.DataType:
        return self.file.schema_arrow.field(name).type

    def parts(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        return self.file.iter_batches(ROWS, columns=columns)

    def rows(self, column: str, rows: list[int]) -> list[str]:
        wanted, found, first = set(rows), {}, 0
        for group in range(self.file.num_row_groups):
            count = self.file.metadata.row_group(group).num_rows
            if any(first <= row < first + count for row in wanted):
                values = self.file.read_row_group(group, columns=[column]).column(0)
                found |= {row: values[row - first].as_py() or "" for row in wanted if first <= row < first + count}
            first += count
        return [found[row] for row in rows]

    def close(self) -> None:
        self.file.close()


class _Arrow:
    """A file of a saved data set: record batches, one after the other."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.map = pa.memory_map(str(path))
        self.stream = pa.ipc.open_stream(self.map)

    @property
    def names(self) -> list[str]:
        return list(self.stream.schema.names)

    def kind(self, name: str) -> pa.DataType:
        return self.stream.schema.field(name).type

    def parts(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in self.stream:
            yield batch.select(columns)

    def rows(self, column: str, rows: list[int]) -> list[str]:
        wanted, found, first = set(rows), {}, 0
        for batch in self.stream:
            values = batch.column(column)
            found |= {r: values[r - first].as_py() or "" for r in wanted if first <= r < first + batch.num_rows}
            first += batch.num_rows
        return [found[row] for row in rows]

    def close(self) -> None:
        self.map.close()


@contextmanager
def _table(source: str, path: Path) -> Iterator[_Parquet | _Arrow]:
    table = _Parquet(path) if source == "parquet" else _Arrow(path)
    try:
        yield table
    finally:
        table.close()
