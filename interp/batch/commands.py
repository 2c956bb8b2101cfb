"""The commands of batches: `interp batch` and `interp query`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 160
"""Columns of a table that goes into a pipe; rich would fold it at 80."""


def add_batch_commands(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("batch")(batch)
    app.command("query")(query)


def batch(
    plan: Annotated[Path, typer.Argument(help="TOML file of the plan; docs/batch.md has its keys.")],
    engine: Annotated[str, typer.Option(help="local, or ray: on a Ray cluster (docs/scale.md).")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(help="Each has its model (default: one, or one for each GPU; of ray: all there is room for)."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each worker (default: the cores shared among them; of ray one).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do what is missing in the output folder.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: also try again what failed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan, time a piece of it, print what it would take.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Scan many models over many texts, as a plan says; killed at any moment, --resume does what is missing.

    Exit codes: 0 all units are done, 1 some failed (the summary names them), 2 bad input, 130 interrupted.

    Example: interp batch plan.toml --workers 2
    """
    from interp.batch.plan import read_plan

    made = read_plan(plan)
    if retry_failed and not resume:
        raise InputError("--retry-failed goes with --resume")
    if dry_run:
        from interp.batch.estimate import estimate

        found = estimate(made, workers=1 if workers is None else workers, progress=not quiet)
        typer.echo(json.dumps(found.as_json()) if as_json else str(found))
        return

    from interp.batch.run import run_batch

    try:
        # Ray prints what happens to its machines; on stdout is the summary alone.
        with redirect_stdout(sys.stderr):
            summary = run_batch(
                made,
                engine=engine,
                workers=workers,
                threads=threads,
                resume=resume,
                retry_failed=retry_failed,
                progress=not quiet,
            )
    except KeyboardInterrupt:
        typer.echo(f"what is finished is kept in {made.output}; --resume does the rest", err=True)
        raise
    typer.echo(json.dumps(summary.as_json()) if as_json else str(summary))
    if not summary.is_complete:
        raise typer.Exit(1)


def query(
    folder: Annotated[Path, typer.Argument(help="Output folder of interp batch.")],
    sql: Annotated[str, typer.Argument(help="Question in SQL; docs/batch.md has the tables and views.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
) -> None:
    """Ask a batch in SQL. The question can read the batch's tables, and nothing else.

    Example: interp query out "select * from strongest where detector = 'induction'"
    """
    if as_json and as_csv:
        raise InputError("give either --json or --csv")

    from interp.batch.store import open_store

    frame = open_store(folder).query(sql)
    if as_json:
        typer.echo(_json(frame))
    elif as_csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        _print(frame)


def _json(frame: pd.DataFrame) -> str:
    """Rows as JSON, numbers with all their digits, which ``DataFrame.to_json`` cuts; null for numbers that are not finite."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return json.dumps(_plain(rows), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _harmless(text: str) -> str:
    """Names and tokens may hold what a terminal obeys: it is shown as an escape."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _print(frame: pd.DataFrame) -> None:
    import pandas as pd
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in frame.columns:
        table.add_column(str(name), overflow="fold")
    for row in frame.itertuples(index=False):
        cells = ["–" if pd.api.types.is_scalar(value) and pd.isna(value) else value for value in row]
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else _harmless(str(cell)) for cell in cells))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=WIDTH)
    console.print(table)
