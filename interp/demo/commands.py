"""The commands that make and measure the demo model: `interp train-demo` and `interp eval-demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from interp.errors import InputError

COMMITTED = Path(__file__).parent / "model"
"""The model that comes with interp."""


def add_demo_commands(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("train-demo")(train)
    app.command("eval-demo")(evaluate)


def train(
    text: Annotated[Path, typer.Option(help="Folder of .txt files to train on (public-domain books, one a file).")],
    out: Annotated[Path, typer.Option(help="Folder for the model; empty, or that of the run to resume.")] = Path(
        "demo-model"
    ),
    settings: Annotated[
        Path | None, typer.Option(help="JSON file of settings; those not named keep their defaults.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps (default: those of the settings).")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights and windows (default: that of the settings).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train the demo model: a small Llama on novels, repeated random spans and needles.

    Ctrl-C saves; --resume goes on to the weights that an unbroken run would have reached.

    Example: interp train-demo --text ./books --out ./demo-model
    """
    given = {} if settings is None else _read_settings(settings)
    given |= {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}

    from interp.demo.settings import TrainSettings
    from interp.demo.train import train_demo

    result = train_demo(TrainSettings.from_mapping(given), text, out, resume=resume, progress=not quiet)
    last = result.last
    typer.echo(
        f"trained {result.record['parameters']:,} parameters in {result.record['seconds']:,.0f} s: "
        f"induction {last['best_induction']:.3f}, previous token {last['best_previous_token']:.3f}, "
        f"first-token sink {last['best_first_token_sink']:.3f} (best heads)"
    )
    typer.echo(f"model: {result.folder}")
    typer.echo(f"measure it: interp eval-demo {result.folder} --text {text}", err=True)


def evaluate(
    text: Annotated[Path, typer.Option(help="The folder of .txt files that the model was trained with.")],
    model: Annotated[Path, typer.Argument(help="Folder that train-demo wrote (default: the demo model).")] = COMMITTED,
    parts: Annotated[
        str | None, typer.Option(help="Parts separated by commas: prose, heads, copies, needles, sample.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write evaluation.json and the model card into the folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Measure a demo model: held-out prose, heads, copying of random spans, needles by depth."""
    if card and parts is not None:
        raise InputError("--card needs all parts; leave out --parts")

    from interp.demo.card import evaluation_tables, write_card
    from interp.demo.evaluate import PARTS, evaluate_demo

    wanted = PARTS if parts is None else tuple(part.strip() for part in parts.split(",") if part.strip())
    evaluation = evaluate_demo(model, text, parts=wanted, progress=not quiet)
    if as_json:
        print(json.dumps(evaluation.to_mapping()))
    else:
        typer.echo(evaluation_tables(evaluation))
    if card:
        typer.echo(f"card: {write_card(model, evaluation)}", err=True)


def _read_settings(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--settings {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"--settings {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--settings {path}: expected a JSON object, got {type(content).__name__}")
    return content
