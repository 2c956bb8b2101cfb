"""The command line. Imports that take time wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.batch.commands import add_batch_commands
from interp.demo.commands import add_demo_commands
from interp.errors import InputError, InterpError

if TYPE_CHECKING:
    from interp.scores import HeadScores

app = typer.Typer(
    help="Find out what the attention heads of a transformer do, at any context length.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "INTERP", "help_option_names": ["-h", "--help"]},
)

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
STRONGEST = 3


@app.command()
def scan(
    model: Annotated[str, typer.Argument(help="'demo', a local model folder, or a Hugging Face name.")],
    detectors: Annotated[
        str, typer.Option(help="'standard', or names separated by commas (see interp detectors).")
    ] = "standard",
    text: Annotated[Path | None, typer.Option(help="Text file to measure on; without it, random tokens.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for table, settings and report (default: interp-scans/MODEL).")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Cut the text into windows of so many tokens.")] = None,
    samples: Annotated[int, typer.Option(help="Random sequences to draw.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the random tokens.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a Hugging Face name.")] = None,
    beyond_context: Annotated[
        bool, typer.Option("--beyond-context", help="Allow inputs longer than the model's context.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a scan that the folder already holds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Score every head of MODEL for each detector, print the strongest, and write table and report.

    Examples:

      interp scan demo --text story.txt --out out/demo

      interp scan ./my-model --detectors induction,previous_token --json
    """
    from interp.heads.registry import chosen
    from interp.inputs.textfile import read_text
    from interp.store import check_folder

    names = [name.strip() for name in detectors.split(",") if name.strip()]
    chosen(names)
    content = None if text is None else read_text(text, "--text")
    folder = out if out is not None else Path("interp-scans") / _slug(model)
    check_folder(folder, overwrite=overwrite)

    from interp.loading.load import load
    from interp.scan import check_options
    from interp.scan import scan as run_scan

    check_options(content, window, samples, seed)
    with _loading_bar(not quiet):
        hooked = load(model, revision=revision, device=device, dtype=dtype)
    scores = run_scan(
        hooked,
        "standard" if names == ["standard"] else names,
        text=content,
        window=window,
        samples=samples,
        seed=seed,
        beyond_context=beyond_context,
        progress=not quiet,
    )
    report_path = scores.save(folder, overwrite=overwrite)
    if as_json:
        rows = json.loads(scores.to_frame().to_json(orient="records"))
        print(json.dumps({"scores": rows, "settings": scores.settings, "folder": str(folder)}, default=str))
    _print_strongest(scores, to_stderr=as_json)
    for name, why in scores.settings["left_out"].items():
        typer.echo(f"left out {name}: {why}", err=True)
    typer.echo(f"report: {report_path}", err=as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with a stored scan, head dossiers or a batch with these.")],
) -> None:
    """Write the HTML report of a stored scan, or of stored head dossiers, into its folder; of a batch, one for each model's."""
    from interp.batch.folder import BatchFolder
    from interp.dossiers.stored import holds_dossiers, write_report
    from interp.store import SETTINGS, load_scan

    if holds_dossiers(folder):
        paths = [write_report(folder)]
    elif BatchFolder(folder).holds_batch and not (folder / SETTINGS).exists():
        from interp.batch.dossiers import write_reports
        from interp.batch.store import open_store

        paths = write_reports(open_store(folder))
    else:
        paths = [load_scan(folder).save(folder, overwrite=True)]
    for path in paths:
        typer.echo(f"report: {path}")


@app.command()
def detectors(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the detectors: definition, source, threshold."""
    from dataclasses import asdict

    from interp.heads.registry import detectors as registered

    if as_json:
        print(json.dumps([asdict(detector) for detector in registered().values()]))
        return
    table = _table("detector", "score", "threshold", "source")
    for d in registered().values():
        table.add_row(d.name, d.definition, f"{d.threshold:g} ({d.threshold_source})", d.source)
    _print_table(table)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the models that can be loaded without a download: the demo and those in the Hugging Face cache."""
    from interp.loading.listing import local_models

    found = local_models()
    if as_json:
        print(json.dumps(found))
        return
    table = _table("model", "architecture", "layers", "heads", "context", "can be scanned")
    for entry in found:
        table.add_row(*(str(entry[key]) for key in ("model", "architecture", "layers", "heads", "context", "status")))
    _print_table(table)
    typer.echo("Any local folder in Hugging Face form, or a Hugging Face name, can be given too.", err=True)


@app.command()
def version(
    env: Annotated[bool, typer.Option("--env", help="Also versions of libraries, system, processor, GPU.")] = False,
) -> None:
    """Print the version; with --env what a bug report should hold."""
    from interp import __version__
    from interp.versions import environment

    facts = environment() if env else {"interp": __version__}
    for key, value in facts.items():
        typer.echo(f"{key}: {value}")


add_demo_commands(app)
add_batch_commands(app)


def _add_commands_of_other_packages() -> None:
    """Commands under the entry point "interp.commands", such as the dashboard's, which interp knows nothing of."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="interp.commands"):
        app.command(entry.name)(entry.load())


_add_commands_of_other_packages()


@contextmanager
def _loading_bar(is_shown: bool) -> Iterator[None]:
    """Lets transformers show its own progress while it reads weights, or not."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    if not is_shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _slug(model: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in model).strip("-.") or "model"


def _table(*columns: str):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print_table(table, *, to_stderr: bool = False) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr, markup=False, highlight=False)
    if not console.is_terminal:
        # Piped output keeps whole lines; rich would fold them at 80 columns.
        console = Console(stderr=to_stderr, markup=False, highlight=False, width=160)
    console.print(table)


def _print_strongest(scores: HeadScores, *, to_stderr: bool) -> None:
    from interp.naming import head_name

    table = _table("detector", "above", "threshold", "chance", *(f"{n}. head" for n in range(1, STRONGEST + 1)))
    for name in scores.detectors:
        rows = scores.of(name)
        best = rows.head(STRONGEST).to_dict("records")
        cells = [
            f"{head_name(row['layer'], row['head'])} {row['score']:.3f}"
            + (f" ±{row['stderr']:.3f}" if row["samples"] > 1 else "")
            for row in best
        ]
        cells += [""] * (STRONGEST - len(cells))
        above = f"{int(rows['is_above'].sum())} of {len(rows)}"
        chance = rows["chance"].mean()
        level = "–" if isnan(chance) else f"{chance:.3f}"
        table.add_row(name, above, f"{rows['threshold'].iloc[0]:g}", level, *cells)
    _print_table(table, to_stderr=to_stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    try:
        # Usage errors are shown, and end with 2, by typer itself; an interruption ends with 130.
        code = app(arguments, prog_name="interp")
    except InputError as error:
        code = _fail(str(error), EXIT_BAD_INPUT)
    except InterpError as error:
        code = _fail(str(error), EXIT_FAILED)
    except SystemExit as stopped:
        code = stopped.code
        if code == EXIT_INTERRUPTED:
            _fail("interrupted", EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    typer.echo(f"interp: {message}", err=True)
    return code
