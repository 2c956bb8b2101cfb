"""The documents of a batch: text files, columns of Parquet and JSON lines, data sets that Hugging Face saved in a folder.

A plan reads every document once to know its checksum and length, one at a time, and keeps where it is, not what it says; whoever
works on it reads it again from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.batch.names import is_text
from interp.batch.text_entries import TextEntry, read_texts
from interp.batch.text_tables import open_table
from interp.errors import InputError, RunError

__all__ = ["DocumentRef", "TextEntry", "documents", "read_documents", "read_texts"]


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


def documents(entry: TextEntry) -> Iterator[DocumentRef]:
    """The documents of an entry, in order; one is in memory at a time.

    Raises:
        InputError: one cannot be read.
    """
    import pyarrow as pa

    count = 0
    for path in entry.paths:
        try:
            for place, name, whole in _content(entry, Path(path)):
                if entry.limit is not None and count == entry.limit:
                    return
                count += 1
                text = whole[: entry.max_characters]
                yield DocumentRef(entry.name, name, entry.source, path, entry.column, place, len(text), _sha256(text))
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


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
    with open_table(entry.source, path) as table:
        row = 0
        columns = [entry.column] if entry.id_column is None else [entry.column, entry.id_column]
        for part in table.parts(columns):
            names = part.column(entry.id_column).to_pylist() if entry.id_column is not None else None
            for number, text in enumerate(part.column(entry.column).to_pylist()):
                name = f"{path.name}:{row}" if names is None else _name(names[number], f"{path}, row {row}", entry)
                yield row, name, text or ""
                row += 1


def _lines(entry: TextEntry, path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open("rb") as stream:
        place = 0
        for number, line in enumerate(stream):
            if line.strip():
                content = _line(line, path, number)
                where = f"{path}, line {number + 1}"
                name = f"{path.name}:{number}"
                if entry.id_column is not None:
                    name = _name(content.get(entry.id_column), where, entry)
                yield place, name, _of_key(content, entry.column, where)
            place += len(line)


def _name(given: Any, where: str, entry: TextEntry) -> str:
    """What the id column calls a document."""
    if given is None or isinstance(given, dict | list) or not is_text(str(given)):
        raise InputError(f"{where}: expected a name under {entry.id_column!r}, got {given!r:.60}")
    return str(given)


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
    with open_table(refs[0].source, path) as table:
        return table.rows(refs[0].column, [ref.place for ref in refs])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
