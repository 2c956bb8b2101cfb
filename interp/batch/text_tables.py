"""Columns of Parquet files, and of the files of data sets that Hugging Face saved, read in pieces or row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256
"""Rows of a column that are read together."""


class ParquetTable:
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


class ArrowTable:
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
def open_table(source: str, path: Path) -> Iterator[ParquetTable | ArrowTable]:
    table = ParquetTable(path) if source == "parquet" else ArrowTable(path)
    try:
        yield table
    finally:
        table.close()
