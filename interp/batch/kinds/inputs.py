"""Tables that every kind of work has: what each document gave to measure, and what was left out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def of_input() -> list[tuple[str, pa.DataType]]:
    """Columns that say of which document, or random tokens, a row is."""
    import pyarrow as pa

    return [("seed", pa.int64()), ("text", pa.string()), ("document", pa.string())]


def input_schemas() -> dict[str, pa.Schema]:
    """``inputs`` and ``left_out``; docs/batch.md says what their columns are."""
    import pyarrow as pa

    from interp.batch.units import place_schema

    return {
        "inputs": place_schema([*of_input(), ("sequences", pa.int64()), ("positions", pa.int64())]),
        "left_out": place_schema([*of_input(), ("detector", pa.string()), ("reason", pa.string())]),
    }
