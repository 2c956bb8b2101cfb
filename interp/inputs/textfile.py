"""Reading a text file, with what is wrong with it said."""

from __future__ import annotations

from pathlib import Path

from interp.errors import InputError


def read_text(path: Path, option: str = "") -> str:
    """The text of a UTF-8 file as it stands in it, line ends included, without a byte order mark.

    option: the option of a command that named it, for messages

    Raises:
        InputError: there is no such file, it is a folder, empty, not UTF-8, or cannot be read.
    """
    named = f"{option} {path}".strip()
    if path.is_dir():
        raise InputError(f"{named} is a folder; give a text file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise InputError(f"{named}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{named} is not UTF-8 text (byte {error.start}); convert it first") from None
    except OSError as error:
        raise InputError(f"{named} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{named} is empty; give a text with at least one word")
    return text
