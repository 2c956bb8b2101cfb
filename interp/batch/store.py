"""A batch as tables: one data frame, or SQL by DuckDB that can read these tables and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.batch.folder import SHARDS, UNITS, BatchFolder
from interp.batch.names import expanded
from interp.batch.query import answer, connected, reading_shards
from interp.batch.units import units_schema
from interp.batch.views import VIEWS
from interp.errors import InputError
from interp.naming import nearest

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds

    from interp.batch.kinds import Kind
    from interp.batch.published import Comparison, PublishedHeads
    from interp.dossiers import HeadDossiers


def open_store(folder: str | Path) -> BatchStore:
    """The batch that ``interp batch`` wrote, or is writing, into ``folder``: what is finished so far.

    Raises:
        InputError: it holds no batch, a damaged one, or one of another schema; the message says what to do.
    """
    path = expanded(folder)
    return BatchStore(path, BatchFolder(path).manifest())


@dataclass(frozen=True, eq=False, repr=False)
class BatchStore:
    """Tables of a batch, as they were when it was opened.

    manifest  the plan, the models, versions, and each run with its times
    """

    folder: Path
    manifest: dict[str, Any]

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Tables that ``to_frame`` gives."""
        return (*self._schemas, "units", "errors")

    @property
    def views(self) -> tuple[str, ...]:
        """What SQL has beside the tables; ``to_frame`` gives them too."""
        return tuple(VIEWS) if "scores" in self._schemas else ()

    def to_frame(self, table: str = "scores") -> pd.DataFrame:
        """A table or view as a data frame, units in the plan's order. Views need DuckDB (the extra ``batch``).

        Raises:
            InputError: there is no such table, or a shard is damaged.
        """
        if table in self.views:
            return _tidy(self.query(f"select * from {table}"))
        if table not in self.tables:
            raise InputError(f"{self.folder} has no table {table!r}; {nearest(table, (*self.tables, *self.views))}")
        import pyarrow as pa

        with reading_shards():
            read = self._arrow(table)
            return _tidy((read if isinstance(read, pa.Table) else read.to_table()).to_pandas())

    def query(self, sql: str) -> pd.DataFrame:
        """The answer to a question in SQL over ``tables`` and ``views``. It can neither change the store nor reach any file.

        Raises:
            InputError: DuckDB is not installed; it is not one question, or not understood; a shard is damaged.
        """
        connection = self.connect()
        try:
            return answer(connection, sql)
        finally:
            connection.close()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of DuckDB with the tables and views, for more than one question. Close it in the end.

        Raises:
            InputError: DuckDB is not installed.
        """
        connection = connected()
        with reading_shards():
            for table in self.tables:
                connection.register(table, self._arrow(table))
        for name in self.views:
            connection.execute(f"create view {name} as {VIEWS[name]}")
        connection.execute("set lock_configuration = true")
        return connection

    def compare(
        self, published: PublishedHeads, detector: str, *, model: str | None = None, checkpoint: str | None = None
    ) -> Comparison:
        """Rank correlation of a detector's scores with a published table of the same heads; see ``interp.batch.published``.

        model, checkpoint: needed where the store holds several

        Raises:
            InputError: there is no such detector, model or checkpoint, or the tables do not fit together.
        """
        from interp.batch.published import compare

        return compare(self, published, detector, model=model, checkpoint=checkpoint)

    def dossiers(self, model: str | None = None, checkpoint: str | None = None) -> HeadDossiers:
        """The head dossiers of a model, as ``interp.head_dossiers`` gives them.

        model, checkpoint: needed where the store holds several

        Raises:
            InputError: there are none of that model or checkpoint, or several; a shard is damaged.
        """
        from interp.batch.dossiers import dossiers_of

        return dossiers_of(self, model, checkpoint)

    def check(self) -> dict[str, str]:
        """Shards that are not as they were written -> what is wrong; all of them are read."""
        return BatchFolder(self.folder).damaged()

    @property
    def _schemas(self) -> dict[str, pa.Schema]:
        return self._kind.schemas()

    @cached_property
    def _kind(self) -> Kind:
        from interp.batch.kinds import KINDS

        kind = self.manifest.get("kind")
        if kind not in KINDS:
            raise InputError(
                f"{self.folder} holds a batch of the kind {kind!r}, which this interp does not know; update it"
            )
        return KINDS[kind]

    @cached_property
    def _units(self) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.folder / UNITS)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.folder / UNITS} cannot be read: {error}") from error
        lacking = [name for name in units_schema().names if name not in table.column_names]
        if lacking:
            raise InputError(f"{self.folder / UNITS} cannot be read: it lacks {', '.join(lacking)}")
        folder = BatchFolder(self.folder)
        finished, failed = folder.finished(), folder.failed()
        states = [
            "finished" if unit in finished else "failed" if unit in failed else "missing"
            for unit in table.column("unit").to_pylist()
        ]
        return table.append_column("state", pa.array(states, type=pa.string()))

    def _arrow(self, table: str) -> pa.Table | ds.Dataset:
        import pyarrow.dataset as ds

        if table == "units":
            return self._units
        if table == "errors":
            return self._errors()
        rows = zip(*(self._units.column(name).to_pylist() for name in ("unit", "part", "state")), strict=True)
        files = [
            str(self.folder / SHARDS / unit / f"{table}.parquet")
            for unit, part, state in rows
            if state == "finished" and table in self._kind.tables_of(part)
        ]
        schema = self._schemas[table]
        return ds.dataset(files, schema=schema, format="parquet") if files else schema.empty_table()

    def _errors(self) -> pa.Table:
        import pyarrow as pa

        rows = self._units.to_pylist()
        names = ("kind", "message", "trace")
        found = []
        for row in rows:
            if row["state"] == "failed":
                error = BatchFolder(self.folder).error(row["unit"])
                place = {key: row[key] for key in ("unit", "model", "checkpoint", "step", "text", "first_document")}
                found.append({**place, **{name: error[name] for name in names}})
        words = pa.string()
        columns = [("unit", words), ("model", words), ("checkpoint", words), ("step", pa.int64()), ("text", words)]
        schema = pa.schema([*columns, ("first_document", words), *((name, words) for name in names)])
        return pa.Table.from_pylist(found, schema=schema)

    def __repr__(self) -> str:
        states = self._units.column("state").to_pylist()
        return (
            f"BatchStore({self.folder}: {states.count('finished')} of {len(states)} units finished, "
            f"{states.count('failed')} failed, {len(self.manifest['models'])} models)"
        )


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Words as words, and steps as integers where some are not known."""
    words = {name: "str" for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)}
    steps = {name: "Int64" for name in ("step", "first_above") if name in frame}
    return frame.astype({**words, **steps})
