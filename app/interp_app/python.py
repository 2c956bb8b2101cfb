"""“Copy as Python”: the call that makes in a notebook what a page shows."""

from __future__ import annotations

from interp_app.view import View
from interp_app.workspace import Workspace

LONGEST = 4000
"""Characters of a text that is written into the call; of a longer one a file is read."""


def call(workspace: Workspace, view: View, expression: str, *, needs_text: bool = True) -> str:
    """Loading the model, the view's text, and ``expression`` of ``model`` and ``text``."""
    opening = f"import interp\n\nmodel = interp.load({workspace.model_name(view)!r})\n"
    if not needs_text:
        return f"{opening}{expression}\n"
    text = workspace.text(view).content
    written = (
        repr(text) if len(text) <= LONGEST else 'open("text.txt", encoding="utf-8").read()  # the text of the page'
    )
    return f"{opening}text = {written}\n{expression}\n"


def options(**given: object) -> str:
    """Keyword arguments as they are written, those that are None or False left out."""
    return "".join(f", {name}={value!r}" for name, value in given.items() if value is not None and value is not False)
