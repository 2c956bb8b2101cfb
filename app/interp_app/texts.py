"""The texts that pages show: some that come with the dashboard, and what people paste, by an id made from their content.

They are held in memory alone. A link with the id of a text that is no longer held says so.
"""

from __future__ import annotations

import hashlib
import textwrap
import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib import resources

from interp.errors import InputError

HELD = 64
"""Pasted texts that are held; the least recently used go first."""
EXCERPT = 2400
"""Characters of the built-in prose that a page begins with: they fit into the demo model's context."""
PASSAGE = 900
COLUMNS = 70
"""Of a line of the built-in texts, as in the books that the demo model was trained on; see its card."""
TITLE = 48


@dataclass(frozen=True)
class Text:
    """id: what the address holds; title: what a list shows."""

    id: str
    title: str
    content: str


class Texts:
    """limit: bytes that one text may have; opening: a text to begin with. ``prose``: that which comes with interp, whole."""

    def __init__(self, limit: int, opening: str | None = None) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._pasted: OrderedDict[str, Text] = OrderedDict()
        prose = resources.files("interp").joinpath("demo/prose.txt").read_text(encoding="utf-8")
        self.prose = prose
        passage = _wrapped(_whole_lines(prose, PASSAGE))
        built_in = [
            Text("prose", "The Lamp at Corran Point (excerpt)", _wrapped(_whole_lines(prose, EXCERPT))),
            Text("twice", "The same passage twice (for induction)", f"{passage}\n\n{passage}"),
        ]
        if opening is not None:
            built_in.insert(0, Text("opening", _title(opening), self._checked(opening)))
        self._built_in = {text.id: text for text in built_in}

    @property
    def first(self) -> Text:
        """What a page shows that names no text."""
        return next(iter(self._built_in.values()))

    def all(self) -> list[Text]:
        """Those to choose from, the built-in ones first."""
        with self._lock:
            return [*self._built_in.values(), *reversed(self._pasted.values())]

    def add(self, content: str) -> Text:
        """Hold a text that someone gave.

        Raises:
            InputError: it is empty or too long.
        """
        content = self._checked(content)
        text = Text(hashlib.sha256(content.encode()).hexdigest()[:16], _title(content), content)
        with self._lock:
            self._pasted[text.id] = text
            self._pasted.move_to_end(text.id)
            while len(self._pasted) > HELD:
                self._pasted.popitem(last=False)
        return text

    def get(self, id: str) -> Text:
        """The text of an id, "" for the first.

        Raises:
            InputError: it is not held (any more).
        """
        if not id:
            return self.first
        with self._lock:
            found = self._built_in.get(id) or self._pasted.get(id)
            if found is None:
                raise InputError(
                    f"the text {id} is not held by this server any more; paste it again on the Text page, and the same link works"
                )
            if id in self._pasted:
                self._pasted.move_to_end(id)
            return found

    def _checked(self, content: str) -> str:
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        if not content.strip():
            raise InputError("the text is empty; type or paste one of at least two words")
        if "\0" in content:
            raise InputError("the text holds NUL characters; give plain text in UTF-8")
        try:
            size = len(content.encode())
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text holds half a character (a lone surrogate, character {error.start}); give plain text in UTF-8"
            ) from None
        if size > self.limit:
            raise InputError(f"the text has {size:,} bytes, at most {self.limit:,} are taken; give a shorter one")
        return content


def _whole_lines(prose: str, most: int) -> str:
    """The beginning, up to the last end of a sentence within ``most`` characters."""
    return prose[: prose.rfind(". ", 0, most) + 1]


def _wrapped(prose: str) -> str:
    """Lines of at most ``COLUMNS`` characters: some spaces become line ends, nothing else changes."""
    paragraphs = prose.split("\n\n")
    return "\n\n".join(
        textwrap.fill(each, COLUMNS, break_long_words=False, break_on_hyphens=False) for each in paragraphs
    )


def _title(content: str) -> str:
    # Marks that turn the direction of writing would turn what stands beside the title.
    beginning = "".join(character if character.isprintable() else " " for character in content[: 4 * TITLE])
    words = " ".join(beginning.split()) or "(a text without letters)"
    return words if len(words) <= TITLE else f"{words[: TITLE - 1]}…"
