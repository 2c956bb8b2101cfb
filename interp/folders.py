"""Output folders: looked at before the work, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from interp.errors import InputError, RunError


def check_output_folder(folder: Path, marker: str, what: str, *, overwrite: bool, how: str) -> None:
    """Refuse a folder that cannot take ``what``, before anything is computed.

    marker: the file that a folder with one has; how: what to do to overwrite it

    Raises:
        InputError: it is a file, cannot be written, or already holds one and ``overwrite`` is not set.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder")
        if (folder / marker).exists() and not overwrite:
            raise InputError(f"{folder} already holds a {what}; give another folder, or overwrite it ({how})")
        # Nothing is made yet: a run that fails leaves no empty folder behind.
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}; give a folder that can be written") from error


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]], what: str) -> None:
    """Write files into ``folder``, each by its function of a path, in this order: the one that marks it as whole last.

    All are written beside their places before the first is moved there: where the disk fills up, what was there stays whole.

    Raises:
        RunError: one cannot be written.
    """
    partial = {name: folder / f".{name}.{os.getpid()}.partial" for name in writers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            write(partial[name])
        for name in writers:
            partial[name].replace(folder / name)
    except OSError as error:
        raise RunError(f"writing the {what} into {folder} failed: {error}") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
