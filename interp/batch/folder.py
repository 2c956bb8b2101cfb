"""A batch on disk: one folder, in which whatever has its name is whole.

    manifest.json         the plan, the models, versions, and each run with its times
    units.parquet         what the plan's units are, in order
    shards/UNIT/          a finished unit: its tables as Parquet, and shard.json with their checksums
    errors/UNIT.json      a unit that failed, and why
    checksums.json        checksums of files of models, so that they are read once
    reports/              pages of head dossiers, where ``interp report`` was asked for them
    lock                  held by the run that writes

Everything but the times in the manifest is the same after an undisturbed run and after any number of kills and resumptions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.names import as_text
from interp.batch.units import READABLE, SCHEMA, Unit
from interp.errors import InputError, RunError
from interp.folders import WriteError, flush, partial_path, remove_partial, write_folder, write_together

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "interp.batch"
MANIFEST, UNITS, SHARDS, ERRORS, CHECKSUMS, LOCK = (
    "manifest.json",
    "units.parquet",
    "shards",
    "errors",
    "checksums.json",
    "lock",
)
SHARD = "shard.json"
TOLD = {"kind": str, "models": dict, "versions": dict, "runs": list}
"""What others read out of a manifest."""


@dataclass(frozen=True)
class BatchFolder:
    """The files of a batch. It knows nothing of what their tables mean."""

    path: Path

    @property
    def holds_batch(self) -> bool:
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """What was done here.

        Raises:
            InputError: it holds no batch, a damaged one, or one of a schema that this interp does not read.
        """
        try:
            content = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self.path} holds no batch (no {MANIFEST}); give the output folder of interp batch"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / MANIFEST} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{self.path / MANIFEST} was not written by interp batch")
        schema = content.get("schema")
        if schema not in READABLE:
            versions = content.get("versions")
            made = versions.get("interp", "?") if isinstance(versions, dict) else "?"
            newer = isinstance(schema, int) and schema > SCHEMA
            do = (
                f"read it with interp {made} or a later one"
                if newer
                else f"read it with the interp that wrote it ({made}), or run its plan again into another folder"
            )
            known = " and ".join(map(str, READABLE))
            raise InputError(f"{self.path} has schema {schema!r}, this interp reads schemas {known}; {do}")
        lacking = [key for key, kind in TOLD.items() if not isinstance(content.get(key), kind)]
        if lacking:
            raise InputError(f"{self.path / MANIFEST} cannot be read: it lacks {', '.join(lacking)}")
        return content

    def write_manifest(self, content: Mapping[str, Any], units: pa.Table | None = None) -> None:
        """Put the manifest, and the table of units with it, in the place of the former one."""
        import pyarrow.parquet as pq

        told = {"format": FORMAT, "schema": SCHEMA, **content}
        writers: dict[str, Any] = {}
        if units is not None:
            writers[UNITS] = lambda path: pq.write_table(units, path)
        writers[MANIFEST] = partial(_write, _json(told))
        write_together(self.path, writers, "batch")

    def shard(self, unit: str) -> Path:
        """Where the tables of a finished unit are."""
        return self.path / SHARDS / unit

    def finished(self) -> set[str]:
        """Units with a shard."""
        return self._names(SHARDS, "")

    def failed(self) -> set[str]:
        """Units with an error and without a shard."""
        return self._names(ERRORS, ".json") - self.finished()

    def _names(self, part: str, suffix: str) -> set[str]:
        try:
            names = [path.name for path in (self.path / part).iterdir()]
        except FileNotFoundError:
            return set()
        return {n.removesuffix(suffix) for n in names if not n.startswith(".") and n.endswith(suffix)}

    def error(self, unit: str) -> dict[str, str]:
        """Why a unit failed: kind, message and trace; where the file is damaged, that it is."""
        try:
            content = json.loads((self.path / ERRORS / f"{unit}.json").read_text(encoding="utf-8"))
            return {name: str(content[name]) for name in ("kind", "message", "trace")}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"it failed, and what it said cannot be read ({error}); --resume --retry-failed tries it again"
            return {"kind": "Damaged", "message": message, "trace": ""}

    def write_shard(self, unit: Unit, tables: Mapping[str, pa.Table]) -> None:
        """Keep the tables of a finished unit; its error from before is gone.

        Raises:
            WriteError: the disk is full, or not there any more.
        """
        files = {f"{name}.parquet": _parquet(table) for name, table in tables.items()}
        content = {
            "unit": unit.id,
            "schema": SCHEMA,
            "tables": {
                name: {
                    "rows": tables[name.removesuffix(".parquet")].num_rows,
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
                for name, data in files.items()
            },
        }
        writers = {name: partial(_write, data) for name, data in files.items()}
        write_folder(self.shard(unit.id), {**writers, SHARD: partial(_write, _json(content))}, "shard")
        with contextlib.suppress(FileNotFoundError):
            (self.path / ERRORS / f"{unit.id}.json").unlink()

    def write_error(self, unit: Unit, kind: str, message: str, trace: str) -> None:
        """Keep why a unit failed."""
        said = {"kind": kind, "message": as_text(message), "trace": as_text(trace)}
        content = {"unit": unit.id, "label": unit.label, **said}
        write_together(self.path / ERRORS, {f"{unit.id}.json": partial(_write, _json(content))}, "error")

    def checksums(self) -> dict[str, str]:
        """Checksums of files from before; none where they cannot be read."""
        try:
            content = json.loads((self.path / CHECKSUMS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_checksums(self, known: Mapping[str, str]) -> None:
        write_together(self.path, {CHECKSUMS: partial(_write, _json(dict(sorted(known.items()))))}, "checksums")

    def clean(self) -> None:
        """Remove what a killed run left half written."""
        for folder in (self.path, self.path / SHARDS, self.path / ERRORS):
            remove_partial(folder)

    def damaged(self) -> dict[str, str]:
        """Shards whose tables are not what was written -> what is wrong. Reads all of them."""
        found = {}
        for unit in sorted(self.finished()):
            folder = self.path / SHARDS / unit
            try:
                content = json.loads((folder / SHARD).read_text(encoding="utf-8"))
                for name, facts in content["tables"].items():
                    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != facts["sha256"]:
                        found[unit] = f"{name} is not what was written"
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                found[unit] = f"{SHARD} cannot be read, or a table of it: {error}"
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, no other run writes here, on this machine or where the file system shares locks.

        Raises:
            InputError: another run does already.
            WriteError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise WriteError(f"cannot write into {self.path}: {error.strerror}") from error
        with file:
            try:
                # The system lets go of it when the process ends, however it ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InputError(
                    f"{self.path} is being written by another run ({holder}); wait until it ends, or give another output"
                ) from None
            except OSError as error:
                raise RunError(f"{self.path / LOCK} cannot be locked: {error.strerror}; give a local folder") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    @contextmanager
    def token(self, secret: str) -> Iterator[Path]:
        """While it lasts, a file that holds ``secret`` lies here, by which other machines know the folder.

        Its name is that of a half-written file: the next run removes what a killed one left.

        Raises:
            WriteError: it cannot be written.
        """
        path = partial_path(self.path, "token")
        try:
            path.write_text(secret, encoding="utf-8")
            flush(path)
        except OSError as error:
            raise WriteError(f"cannot write into {self.path}: {error.strerror}") from error
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _parquet(table: pa.Table) -> bytes:
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode("utf-8")


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
