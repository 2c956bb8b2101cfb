"""A short text for the tests of pages."""

from __future__ import annotations

import pytest

from interp_app.view import View
from interp_app.workspace import Workspace


@pytest.fixture(scope="module")
def passage(workspace: Workspace) -> View:
    """A text of some 150 tokens: the first words of the built-in one."""
    content = workspace.text(View()).content[:400]
    return View(text=workspace.texts.add(content).id, head="L2H5")
