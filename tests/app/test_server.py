"""Several apps in one process: each shows what its own workspace holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interp_app.server import create_app
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.callbacks import UPDATE, part, question


@pytest.fixture
def two() -> Iterator[list[Workspace]]:
    made = [Workspace(AppSettings()), Workspace(AppSettings())]
    yield made
    for workspace in made:
        workspace.close()


def test_an_app_shows_the_texts_of_its_own_workspace_whatever_app_was_made_after_it(two: list[Workspace]) -> None:
    texts = [
        workspace.texts.add(f"Words that server number {number} alone has.") for number, workspace in enumerate(two)
    ]
    clients = [create_app(workspace=workspace).server.test_client() for workspace in two]
    for client, own, other in zip(clients, texts, reversed(texts), strict=True):
        for text, is_held in ((own, True), (other, False)):
            opened = question(
                [("_pages_content", "children"), ("_pages_store", "data")],
                [
                    part("_pages_location", "pathname", "/text"),
                    part("_pages_location", "search", View(text=text.id).to_search()),
                ],
                [],
            )
            answer = client.post(UPDATE, json=opened, headers={"Host": "127.0.0.1"})
            assert answer.status_code == 200
            page = answer.get_data(as_text=True)
            assert (text.content in page) is is_held
            assert ("is not held by this server" in page) is not is_held
