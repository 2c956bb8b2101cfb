"""Docstrings as they are laid out in the source: columns of names and meanings keep their columns."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

COLUMN = re.compile(r"^[\w*`\"'(\[][^\n]*?\S {2,}\S")
SECTION = re.compile(r"^[A-Z][a-z]+:$")


class Columns(Extension):
    """Paragraphs of columns become preformatted, which Markdown would join into one line."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = preformatted(obj.docstring.value)


def preformatted(text: str) -> str:
    """The docstring with columns indented by four."""
    paragraphs = re.split(r"\n\s*\n", text)
    made = []
    for paragraph in paragraphs:
        lines = paragraph.split("\n")
        has_columns = bool(COLUMN.match(lines[0])) and not any(SECTION.match(line) for line in lines)
        made.append("\n".join(f"    {line}" for line in lines) if has_columns and len(lines) > 1 else paragraph)
    return "\n\n".join(made)
