"""The start of the server: the first page is not empty, and a start that takes long goes on behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interp_app.jobs import Failed, Pending
from interp_app.serve import warm
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    made = Workspace(AppSettings())
    yield made
    made.close()


def test_scan_and_reading_are_there_once_it_is_warm(workspace: Workspace):
    assert warm(workspace, wait=60)
    assert workspace.scan(View()).detectors
    assert workspace.reading(View()).losses is not None


def test_what_takes_longer_goes_on(workspace: Workspace):
    assert not warm(workspace, wait=0)
    with pytest.raises(Pending):
        workspace.scan(View())
    assert ready(lambda: workspace.scan(View())).detectors


def test_what_cannot_be_made_does_not_hold_it_up(workspace: Workspace):
    workspace.settings = AppSettings(models=("./no-such-folder",))
    assert warm(workspace, wait=60)
    with pytest.raises(Failed, match="no-such-folder"):
        workspace.scan(View())
