"""Starts the server: the first model is loaded and scanned before it answers, so that the first page is not empty."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import replace

import typer
from werkzeug.serving import WSGIRequestHandler, make_server

from interp.errors import InputError, InterpError
from interp_app.jobs import Pending
from interp_app.server import create_app
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace

LONGEST_WAIT = 20.0
"""Seconds that the start waits for what the first page shows; what takes longer goes on while the page is open."""
POLL = 0.05


class Quiet(WSGIRequestHandler):
    """Says errors alone: a line for each request would bury them."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if isinstance(code, int) and code >= 500:
            super().log_request(code, size)


def serve(settings: AppSettings, *, open_browser: bool = False) -> None:
    """Serve until it is interrupted.

    Raises:
        InputError: the first model cannot be loaded, or the port is taken.
    """
    place = _bound(settings)  # before the model is loaded, which takes time
    workspace = Workspace(settings)
    try:
        typer.echo(f"loading {settings.models[0]} …", err=True)
        workspace.loaded(settings.models[0])
        warm(workspace)
        app = create_app(settings, workspace=workspace).server
        server = make_server(settings.host, settings.port, app, threaded=True, request_handler=Quiet, fd=place.fileno())
        _say(replace(settings, port=server.port), open_browser=open_browser)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("", err=True)
        finally:
            server.server_close()
    finally:
        place.close()
        workspace.close()


def _bound(settings: AppSettings) -> socket.socket:
    """A socket that holds the port; a browser that asks before the server is ready waits."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port that was served a moment ago may be taken again; one that is served now may not.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((settings.host, settings.port))
        place.listen()
    except OSError as error:
        place.close()
        raise InputError(
            f"cannot listen on {settings.host}, port {settings.port} ({error.strerror}); give another --host or --port"
        ) from error
    return place


def _say(settings: AppSettings, *, open_browser: bool) -> None:
    if not settings.is_local:
        typer.echo(
            f"warning: {settings.host} can be reached from other machines, over a connection that is not encrypted. Whoever "
            "has the token can run this model on texts of their own.",
            err=True,
        )
    typer.echo(f"interp is at {settings.address}   (Ctrl+C ends it)")
    if open_browser:
        threading.Timer(0.3, webbrowser.open, (settings.address,)).start()


def warm(workspace: Workspace, wait: float = LONGEST_WAIT) -> bool:
    """Make what the first page shows. Returns whether all of it was made, or could not be, within ``wait`` seconds.

    What fails is said by the page that shows it.
    """
    until = time.monotonic() + wait
    asked = [workspace.scan, workspace.reading]
    while True:
        # All are asked for each time: what nobody asks after is dropped from the queue.
        asked = [each for each in asked if _is_pending(each)]
        if not asked or time.monotonic() >= until:
            return not asked
        time.sleep(POLL)


def _is_pending(ask: Callable[[View], object]) -> bool:
    try:
        ask(View())
    except Pending:
        return True
    except InterpError:
        pass
    return False
