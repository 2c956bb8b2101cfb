"""Output folders: looked at before the work, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interp.arguments import shown
from interp.errors import InputError, RunError

PARTIAL = ".partial"
"""How the names of files and folders end that are being written. They begin with a dot and hold the machine and the process that
writes them."""
ABANDONED = 3600.0
"""Seconds after which what another machine left half written is taken to be left for good; a shard is written in moments."""


class WriteError(RunError):
    """A result cannot be written: the disk is full, or not there any more."""


def checked_path(what: str, given: Any) -> Path:
    """A path as users give it, "~" written out.

    Raises:
        InputError: it is neither a text that says something nor a ``Path``, or no path that the system takes.
    """
    if not isinstance(given, str | Path) or given == "":
        raise InputError(f"{what}: expected a path, got {shown(given, 60)}")
    path = Path(given)
    try:
        path = path.expanduser()
        path.lstat()
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{what}: {shown(str(given), 60)} cannot be used as a path: {why}") from None
    return path


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

    All are written beside their places, and are on the disk, before the first is moved there: where the disk fills up or the
    power goes, what was there stays whole.

    Raises:
        WriteError: one cannot be written.
    """
    partial = {name: partial_path(folder, name) for name in writers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            write(partial[name])
            flush(partial[name])
        for name in writers:
            partial[name].replace(folder / name)
        flush(folder)
    except OSError as error:
        raise WriteError(f"writing the {what} into {folder} failed: {error}") from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def write_folder(folder: Path, writers: Mapping[str, Callable[[Path], object]], what: str) -> None:
    """Make ``folder`` with these files in it, whole or not at all: it has its name when all of them are on the disk.

    A folder that is there already stays as it is: whoever made it had the same to write.

    Raises:
        WriteError: one cannot be written.
    """
    partial = partial_path(folder.parent, folder.name)
    try:
        # One of a process that was killed and had the same number, as in containers they have.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, write in writers.items():
            write(partial / name)
            flush(partial / name)
        flush(partial)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        flush(folder.parent)
    except OSError as error:
        raise WriteError(f"writing the {what} into {folder} failed: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(folder: Path, name: str) -> Path:
    """Where this process writes what is to become ``folder / name``."""
    return folder / f".{name}.{_host()}.{os.getpid()}{PARTIAL}"


def remove_partial(folder: Path) -> None:
    """Remove what processes that are no more left half written in ``folder``; of another machine's, what is old. This process has
    begun nothing there yet."""
    for path in folder.glob(f".*{PARTIAL}"):
        rest, _, process = path.name.removesuffix(PARTIAL).rpartition(".")
        if not process.isdigit():
            continue
        is_gone = int(process) == os.getpid() or not _is_running(int(process))
        if is_gone if rest.endswith(f".{_host()}") else _age(path) > ABANDONED:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _host() -> str:
    """This machine's name, without dots."""
    return socket.gethostname().replace(".", "-")


def _age(path: Path) -> float:
    """Seconds since it was changed; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk and not in the memory of the system alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
