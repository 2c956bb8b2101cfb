"""One question in SQL: what DuckDB may do while it answers, and which statements are questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interp.errors import InputError

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

SAFE = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
"""DuckDB reads no file and no variable of Python, writes none, and loads no extension."""
QUESTIONS = ("SELECT", "EXPLAIN", "MULTI")
"""Kinds of statements that are answered; DESCRIBE, SHOW, SUMMARIZE and FROM are of the first, PIVOT is of the last."""


def connected() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches nothing outside.

    Raises:
        InputError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise InputError(
            'SQL needs DuckDB, which is not installed; pip install "interp[batch]" (to_frame() needs it for views only)'
        ) from None
    return duckdb.connect(":memory:", config=dict(SAFE))


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> pd.DataFrame:
    """The rows that one question gives.

    Raises:
        InputError: it is none, or several, or cannot be answered.
    """
    import duckdb

    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise InputError(f"the query has {len(statements)} statements; give one, such as select * from strongest")
        kind = statements[0].type.name
        if kind not in QUESTIONS:
            raise InputError(f"the query is a {kind} statement, and a batch can only be read; give a select")
        return connection.execute(sql).df()
    except duckdb.Error as error:
        raise InputError(f"the query cannot be answered: {str(error).strip()}") from None


@contextmanager
def reading_shards() -> Iterator[None]:
    """Raises:
    InputError: a file of a shard is missing or damaged.
    """
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"a shard cannot be read ({error}); open_store(FOLDER).check() names those that are damaged"
        ) from None
