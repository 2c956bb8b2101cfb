"""Documents from every source are the same texts, and are told when they changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interp.batch.problems import Problems
from interp.batch.texts import TextEntry, documents, read_documents, read_texts
from interp.errors import InputError, RunError

TEXTS = ["w3 w4 w5", "ünïcode w7", "w8 " * 40, "w9 w9"]


def entry(folder: Path, **keys: object) -> TextEntry:
    problems = Problems()
    found = read_texts([keys], folder, problems)
    problems.check("it")
    return found[0]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"t{number}.txt").write_text(text, encoding="utf-8")
    lines = [json.dumps({"text": text, "id": f"n{n}"}, ensure_ascii=n % 2 == 0) for n, text in enumerate(TEXTS)]
    (tmp_path / "t.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    table = pa.table({"text": TEXTS, "id": [f"n{n}" for n in range(len(TEXTS))], "size": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(tmp_path / "splits")
    return tmp_path


@pytest.mark.parametrize(
    "keys",
    [
        {"files": "t?.txt"},
        {"jsonl": "t.jsonl"},
        {"parquet": "t.parquet"},
        {"dataset": "saved"},
        {"dataset": "splits", "split": "train"},
    ],
    ids=str,
)
def test_every_source_gives_the_documents_in_order(sources: Path, keys: dict):
    refs = list(documents(entry(sources, **keys)))
    assert read_documents(refs) == TEXTS
    assert [ref.characters for ref in refs] == [len(text) for text in TEXTS]
    assert read_documents(refs[::-1]) == TEXTS[::-1]
    assert len({ref.document for ref in refs}) == len(TEXTS)


def test_documents_are_named_by_the_id_column_or_by_their_place(sources: Path):
    assert [ref.document for ref in documents(entry(sources, parquet="t.parquet", id_column="id"))] == [
        f"n{n}" for n in range(4)
    ]
    assert [ref.document for ref in documents(entry(sources, parquet="t.parquet"))][1] == "t.parquet:1"
    assert [ref.document for ref in documents(entry(sources, files="t?.txt"))][2] == "t2.txt"


def test_limits_cut_the_number_and_the_length(sources: Path):
    refs = list(documents(entry(sources, jsonl="t.jsonl", limit=3, max_characters=5)))
    assert read_documents(refs) == [text[:5] for text in TEXTS[:3]]


def test_a_document_that_changed_after_the_plan_was_made_is_refused(sources: Path):
    refs = list(documents(entry(sources, files="t?.txt")))
    (sources / "t1.txt").write_text("something else", encoding="utf-8")
    with pytest.raises(RunError, match=r"t1\.txt in .* is not what it was when the run began"):
        read_documents(refs)
    (sources / "t1.txt").unlink()
    with pytest.raises(RunError, match=r"t1\.txt cannot be read any more"):
        read_documents(refs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parquet": "t.parquet", "column": "txt"}, "has no column 'txt'; it has text, id, size"),
        ({"parquet": "t.parquet", "column": "size"}, "the column 'size' holds int64, expected strings"),
        ({"parquet": "t0.txt"}, "t0.txt cannot be read"),
        ({"dataset": "splits"}, "has the splits train; got none"),
        ({"dataset": "saved", "split": "train"}, "one data set without splits"),
        ({"dataset": "."}, "holds no data set"),
        ({"files": "."}, "is a folder; give a glob of its files"),
        ({"jsonl": "t.jsonl", "split": "train"}, "split: is of dataset alone"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_runs(sources: Path, keys: dict, message: str):
    with pytest.raises(InputError) as raised:
        entry(sources, **keys)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is no JSON"), ("[]", "expected a JSON object"), ('{"txt": "a"}', "expected a text under 'text'")],
)
def test_a_line_that_holds_no_text_is_named(tmp_path: Path, line: str, message: str):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n' + line, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(documents(entry(tmp_path, jsonl="bad.jsonl")))


@pytest.mark.parametrize("line", ['{"text": "a"}', '{"text": "a", "id": null}', '{"text": "a", "id": "\\ud800"}'])
def test_a_document_without_a_name_that_can_be_written_is_named(tmp_path: Path, line: str):
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "id": 7}\n' + line, encoding="utf-8")
    read = documents(entry(tmp_path, jsonl="bad.jsonl", id_column="id"))
    assert next(read).document == "7"
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2: expected a name under 'id', got "):
        next(read)


def test_a_file_whose_name_is_no_text_is_a_problem(tmp_path: Path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="is no UTF-8 text; rename it"):
        entry(tmp_path, files="*.txt")


def test_a_table_that_is_damaged_within_is_named(sources: Path):
    path = sources / "t.parquet"
    given = entry(sources, parquet="t.parquet")
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # the first page, not the footer that a plan reads
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet cannot be read: "):
        list(documents(given))
    path.unlink()
    with pytest.raises(InputError, match=r"t\.parquet cannot be read: "):
        list(documents(given))
