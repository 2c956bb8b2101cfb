"""Names and paths that a plan gives: patterns of paths, and whether a name can stand in a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MARKERS = frozenset("*?[")


def is_pattern(given: str) -> bool:
    """Whether it stands for several paths."""
    return bool(MARKERS & set(given))


def matching(pattern: str, base: Path) -> Iterator[Path]:
    """The paths that match a pattern. Where it is relative it starts from ``base``, whose own name is no pattern."""
    path = Path(pattern).expanduser()
    root = Path(path.anchor) if path.is_absolute() else base
    parts = path.relative_to(path.anchor).parts
    # What stands before the first marker is a folder as it is, however it is called.
    plain = next(number for number, part in enumerate(parts) if is_pattern(part))
    return root.joinpath(*parts[:plain]).glob(str(Path(*parts[plain:])))


def is_text(name: str) -> bool:
    """Whether a name is text that a file of UTF-8 can hold: names of files may hold bytes that are none."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_text(said: str) -> str:
    """What an error said, with what is no text written as escapes."""
    return said.encode("utf-8", "backslashreplace").decode("utf-8")
