"""``interp app``: the command that starts the dashboard. The command line finds it by the entry point "interp.commands"."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NEEDED = ("dash", "dash_mantine_components", "dash_ag_grid", "flask_compress")
"""What the extra "app" brings."""


def app(
    model: Annotated[str, typer.Argument(help="'demo', a local model folder, or a Hugging Face name.")] = "demo",
    also: Annotated[
        list[str] | None, typer.Option("--model", help="A further model that may be opened; repeat it.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file to begin with.")] = None,
    scans: Annotated[Path, typer.Option(help="Folder whose stored scans are listed.")] = Path("interp-scans"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than 127.0.0.1 ask for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 8050,
    token: Annotated[
        str | None, typer.Option(help="Token that browsers must show; made up where one is needed.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A further name that browsers use for this server; repeat it.")
    ] = None,
    memory: Annotated[int, typer.Option(help="Megabytes that kept readings may take.")] = 2048,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64.")] = "auto",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = False,
) -> None:
    """Open the dashboard: what the heads of MODEL do, in a browser.

    Examples:

      interp app

      interp app ./my-model --text story.txt --port 8051
    """
    from importlib.util import find_spec

    from interp.errors import InputError
    from interp.inputs.textfile import read_text
    from interp_app.settings import AppSettings

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f'the dashboard needs {", ".join(missing)}; install the extra: pip install "interp[app]" (in a clone: pip install -c '
            'constraints.txt -e ".[app]")'
        )
    settings = AppSettings(
        models=tuple(dict.fromkeys([model, *(also or [])])),
        text=None if text is None else read_text(text, "--text"),
        scans=scans,
        host=host,
        port=port,
        token=token,
        names=tuple(name or ()),
        memory=memory * 2**20,
        device=device,
        dtype=dtype,
    )
    from interp_app.serve import serve

    serve(settings, open_browser=open_browser)
