"""A question in SQL reads the tables of its batch, and nothing else: no file, no extension, no setting."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from interp.batch.store import BatchStore
from interp.errors import InputError
from tests.interp.batch.stores import store_of


@pytest.fixture
def store(tmp_path: Path) -> BatchStore:
    rows = [
        {"model": "m", "detector": name, "layer": 0, "head": head, "score": 0.1 * head}
        for name in ("induction", "copying")
        for head in range(3)
    ]
    return store_of(tmp_path / "store", rows)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with files that DuckDB could read, outside of the store."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "a.csv").write_text("word\nhidden\n", encoding="utf-8")
    pd.DataFrame({"word": ["hidden"]}).to_parquet(folder / "a.parquet")
    return folder


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('SECRET/a.csv')",
        "select * from read_text('SECRET/a.csv')",
        "select * from read_blob('SECRET/a.csv')",
        "select * from read_parquet('SECRET/a.parquet')",
        "select * from parquet_scan('SECRET/a.parquet')",
        "select * from parquet_metadata('SECRET/a.parquet')",
        "select * from glob('SECRET/*')",
        "select * from 'SECRET/a.parquet'",
        'select * from "SECRET/a.csv"',
        "select * from sniff_csv('SECRET/a.csv')",
        "select * from query('select * from read_csv(''SECRET/a.csv'')')",
        "select * from query_table('SECRET/a.parquet')",
        "select * from heads, read_csv('SECRET/a.csv')",
        "pivot (select * from read_csv('SECRET/a.csv')) on word",
        "explain analyze select * from read_csv('SECRET/a.csv')",
        "select getenv('HOME')",
        "select * from frame",
        "select * from sql",
    ],
)
def test_no_file_and_no_variable_can_be_read(store: BatchStore, secret: Path, sql: str):
    frame = pd.DataFrame({"word": ["hidden"]})
    assert len(frame) == 1
    with pytest.raises(InputError, match="the query cannot be answered") as raised:
        store.query(sql.replace("SECRET", str(secret)))
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("copy scores to 'SECRET/out.csv'", "COPY"),
        ("copy (select 1) to 'SECRET/out.parquet' (format parquet)", "COPY"),
        ("export database 'SECRET/out'", "EXPORT"),
        ("attach 'SECRET/out.db'", "ATTACH"),
        ("install httpfs", "LOAD"),
        ("load httpfs", "LOAD"),
        ("set enable_external_access = true", "SET"),
        ("reset lock_configuration", "SET"),
        ("pragma enable_profiling", "PRAGMA"),
        ("pragma profiling_output = 'SECRET/out.json'", "SET"),
        ("create table x as select 1", "CREATE"),
        ("create secret (type s3)", "CREATE"),
        ("delete from scores", "DELETE"),
        ("drop view heads", "DROP"),
        ("call pragma_version()", "CALL"),
    ],
)
def test_what_is_no_question_is_refused(store: BatchStore, secret: Path, sql: str, kind: str):
    with pytest.raises(InputError, match=f"is a {kind} statement, and a batch can only be read; give a select"):
        store.query(sql.replace("SECRET", str(secret)))
    assert sorted(path.name for path in secret.iterdir()) == ["a.csv", "a.parquet"]


@pytest.mark.parametrize(
    ("sql", "count"), [("select 1; select 2", 2), ("drop view heads; select 1", 2), ("", 0), (" ; -- nothing", 0)]
)
def test_several_statements_or_none_are_refused(store: BatchStore, sql: str, count: int):
    with pytest.raises(InputError, match=f"the query has {count} statements; give one"):
        store.query(sql)


def test_a_connection_for_more_questions_is_as_closed_in(store: BatchStore, secret: Path):
    import duckdb

    connection = store.connect()
    try:
        for sql in (
            f"copy scores to '{secret}/out.csv'",
            f"attach '{secret}/out.db'",
            f"select * from read_csv('{secret}/a.csv')",
            "install httpfs",
            "load httpfs",
            "set enable_external_access = true",
            "set python_enable_replacements = true",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)
        assert connection.execute("select count(*) from scores").fetchone() == (6,)
    finally:
        connection.close()
    assert sorted(path.name for path in secret.iterdir()) == ["a.csv", "a.parquet"]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select * from scores", 6),
        ("select * from scores;", 6),
        ("from heads", 6),
        ("with a as (select 1) select * from a -- a comment; with a semicolon", 1),
        ("select ';' as mark", 1),
        ("describe heads", 13),
        ("show tables", 9),
        ("pivot heads on detector using first(score) group by layer, head", 3),
    ],
)
def test_questions_in_every_form_are_answered(store: BatchStore, sql: str, rows: int):
    assert len(store.query(sql)) == rows


def test_an_unknown_table_or_column_is_told(store: BatchStore):
    with pytest.raises(InputError, match=r"the query cannot be answered: .*stores"):
        store.query("select * from stores")
    with pytest.raises(InputError, match=r"the query cannot be answered: .*scor"):
        store.query("select scor from scores")
    with pytest.raises(InputError, match=r"has no table 'score'; did you mean 'scores'\?"):
        store.to_frame("score")
