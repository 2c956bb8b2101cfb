"""One dashboard on the demo model for all tests, served on a free port; and a browser to look at it with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.serving import make_server

import interp
from interp_app.serve import Quiet
from interp_app.server import create_app
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready
from tests.interp.command import Command
from tests.interp.conftest import encoder_folder, own_model, tokenizer

__all__ = ["encoder_folder", "own_model", "tokenizer"]  # shared with the tests of interp


@dataclass(frozen=True)
class Served:
    """A running dashboard."""

    address: str
    workspace: Workspace


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one stored scan, named "demo"."""
    folder = tmp_path_factory.mktemp("scans")
    interp.scan(interp.load("demo"), detectors=["induction", "previous_token"], samples=2, progress=False).save(
        folder / "demo"
    )
    return folder


@pytest.fixture(scope="session")
def workspace(scans: Path) -> Iterator[Workspace]:
    """The demo model, scanned on the first text."""
    made = Workspace(AppSettings(scans=scans))
    ready(lambda: made.scan(View()))
    ready(lambda: made.reading(View()))
    yield made
    made.close()


@contextmanager
def serving(workspace: Workspace) -> Iterator[Served]:
    """A dashboard of the workspace on a free port."""
    server = make_server(
        "127.0.0.1",
        0,
        create_app(workspace.settings, workspace=workspace).server,
        threaded=True,
        request_handler=Quiet,
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", workspace)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def served(workspace: Workspace) -> Iterator[Served]:
    with serving(workspace) as running:
        yield running


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, run in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Command(capfd)
