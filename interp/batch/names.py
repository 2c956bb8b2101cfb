"""Names and paths that a plan gives: patterns of paths, and whether a name can stand in a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interp.errors import InputError

MARKERS = frozenset("*?[")


def is_pattern(given: str) -> bool:
    """Whether it stands for several paths."""
    return bool(MARKERS & set(given))


def expanded(given: str | Path, base: Path | None = None) -> Path:
    """A path as it was given, "~" as a home folder; from ``base`` where it is relative.

    Raises:
        InputError: it is empty, no text, or of a user who is not there.
    """
    if not str(given) or "\0" in str(given) or not is_text(str(given)):
        raise InputError(f"expected a path, got {str(given)!r:.60}")
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise InputError(f"{str(given)!r:.60}: there is no home folder of that user; write the path out") from None
    return path if base is None else base / path


def matching(pattern: str, base: Path) -> Iterator[Path]:
    """The paths that match a pattern. Where it is relative it starts from ``base``, whose own name is no pattern."""
    path = expanded(pattern)
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
