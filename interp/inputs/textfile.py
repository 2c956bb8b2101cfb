"""Reading a text file, with what is wrong with it said."""

from __future__ import annotations

from pathlib import Path

from interp.errors import InputError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file as it stands in it, line ends included, without a byte order mark.

    Raises:
        InputError: there is no such file, it is a folder, empty, not UTF-8, or cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a text file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{path} is empty; give a text with at least one word")
    return text
