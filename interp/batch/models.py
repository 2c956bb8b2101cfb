"""Which models a batch runs on: names, folders, revisions and training checkpoints, and what tells two of them apart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.names import expanded, is_pattern, is_text, matching
from interp.batch.problems import Keys, Problems
from interp.errors import InputError

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

LAST_NUMBER = r"(\d+)(?!.*\d)"
"""The last number in a checkpoint's name is its step, unless the plan says otherwise."""
BLOCK = 1 << 22


@dataclass(frozen=True)
class ModelRef:
    """One model of a plan: a checkpoint, where there are several of one model.

    model       what tables call it
    checkpoint  what tables call the checkpoint; "" where there is one only
    step        its training step, None where that is not known
    source      "demo", a folder (absolute) or a hub name, as ``interp.load`` takes it
    """

    model: str
    checkpoint: str
    step: int | None
    source: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def label(self) -> str:
        """For people: "pythia@step1000"."""
        return f"{self.model}@{self.checkpoint}" if self.checkpoint else self.model

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, device: str, dtype: str) -> HookedModel:
        """The model itself; see ``interp.load``."""
        from interp.loading.load import load

        return load(
            self.source,
            revision=self.revision,
            device=device,
            dtype=dtype,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of. sha256: of its files' names and contents, or of name and commit while it is on the hub.

    folder: where the files are, None while they are on the hub
    """

    sha256: str
    nbytes: int
    folder: Path | None


def read_models(entries: Any, base: Path, problems: Problems) -> tuple[ModelRef, ...]:
    """The models of a plan, each checkpoint one; problems are collected. base: what relative folders start from."""
    if not isinstance(entries, list | tuple) or not entries:
        problems.add("models", "expected at least one: [[models]] with source or checkpoints")
        return ()
    found: list[ModelRef] = []
    for number, given in enumerate(entries):
        where = f"models[{number}]"
        entry = {"source": given} if isinstance(given, str) else given
        if not isinstance(entry, dict):
            problems.add(where, f"expected a table or a string, got {entry!r:.60}")
            continue
        found += _read_model(Keys(entry, where, problems), base)
    seen: set[tuple[str, str]] = set()
    for ref in found:
        if (ref.model, ref.checkpoint) in seen:
            problems.add("models", f"two are called {ref.label!r}; give one of them another name")
        seen.add((ref.model, ref.checkpoint))
    return tuple(found)


def _read_model(keys: Keys, base: Path) -> list[ModelRef]:
    source = keys.take("source", str)
    checkpoints = keys.strings("checkpoints")
    name = keys.take("name", str)
    revision = keys.take("revision", str)
    revisions = keys.strings("revisions")
    step = _pattern(keys)
    trusted = keys.take("trust_remote_code", bool, False)
    keys.end()
    if (source is None) == (checkpoints is None):
        if not (keys.has("source") or keys.has("checkpoints")) or (source and checkpoints):
            keys.problems.add(keys.where, "give either source (one model) or checkpoints (folders, globs of folders)")
        return []
    if revision is not None and revisions is not None:
        keys.problems.add(keys.where, "give either revision or revisions")
        return []
    if checkpoints is not None:
        if revision is not None or revisions is not None:
            keys.problems.add(keys.where, "revisions are of hub names; checkpoints are folders, taken as they are")
        folders = list(_folders(checkpoints, base, keys))
        refs = [ModelRef(name or f.parent.name, f.name, _step(step, f.name), str(f), None, trusted) for f in folders]
    elif revisions is not None:
        assert source is not None
        refs = [ModelRef(name or source, r, _step(step, r), source, r, trusted) for r in revisions]
    else:
        assert source is not None
        try:
            path = _as_folder(source, base)
        except InputError as error:
            keys.problems.add(keys.place("source"), str(error))
            return []
        model = name or (source if path is None else path.name)
        refs = [ModelRef(model, "", None, source if path is None else str(path), revision, trusted)]
    for ref in refs:
        _check(ref, keys)
    return refs


def _pattern(keys: Keys) -> re.Pattern[str] | None:
    given = keys.take("step", str, LAST_NUMBER)
    try:
        pattern = re.compile(given)
    except re.error as error:
        keys.problems.add(keys.place("step"), f"{given!r} is no regular expression: {error}")
        return None
    if pattern.groups != 1:
        keys.problems.add(keys.place("step"), f"expected a regular expression with one group, the step; got {given!r}")
        return None
    return pattern


def _step(pattern: re.Pattern[str] | None, name: str) -> int | None:
    found = None if pattern is None else pattern.search(name)
    return int(found[1]) if found and found[1] and found[1].isdigit() else None


def _folders(patterns: list[str], base: Path, keys: Keys) -> Iterator[Path]:
    """Folders of checkpoints, those of a glob by step and name."""
    for pattern in patterns:
        try:
            path = expanded(pattern, base)
        except InputError as error:
            keys.problems.add(keys.place("checkpoints"), str(error))
            continue
        if not is_pattern(pattern):
            yield path
            continue
        found = [each for each in matching(pattern, base) if each.is_dir()]
        if not found:
            keys.problems.add(keys.place("checkpoints"), f"no folder matches {pattern!r}")
        yield from sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """step9 before step10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _as_folder(source: str, base: Path) -> Path | None:
    """The folder that a source names, None for the demo and for hub names."""
    path = expanded(source, base)
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    return path if source != "demo" and (looks_like_path or path.is_dir()) else None


def _check(ref: ModelRef, keys: Keys) -> None:
    """What can be known of a model before it is read: its folder is there, with configuration and weights."""
    from interp.loading.folder import ModelFolder

    path = Path(ref.source)
    if not is_text(ref.label) or not is_text(ref.source):
        keys.problems.add(keys.where, f"the name {ref.label!r} or its path is no UTF-8 text; rename the folder")
        return
    if not path.is_absolute():
        return
    if not path.is_dir():
        keys.problems.add(keys.where, f"there is no folder {path}")
        return
    try:
        ModelFolder(path, str(path)).check()
    except InputError as error:
        keys.problems.add(keys.where, str(error))


def model_files(ref: ModelRef, known: MutableMapping[str, str]) -> ModelFiles:
    """What tells a model apart from all others.

    known: hashes of files from before, by path, size and time of change; new ones are put there

    Raises:
        InputError: it is neither on this machine nor on the hub.
    """
    from interp.loading.folder import WEIGHTS
    from interp.loading.hub import SMALL, asked, cached
    from interp.loading.load import DEMO, DEMO_FOLDER

    path = DEMO_FOLDER if ref.source == DEMO else Path(ref.source)
    if ref.source != DEMO and not path.is_absolute():
        found = cached(ref.source, ref.revision)
        if found is None:
            remote = asked(ref.source, ref.revision)
            told = hashlib.sha256(f"{ref.source}@{remote.commit}".encode()).hexdigest()
            sizes = [s for n, s in remote.files.items() if any(fnmatch(n, p) for p in remote.weights)]
            return ModelFiles(told, sum(size or 0 for size in sizes), None)
        if re.fullmatch(r"[0-9a-f]{40}", found.name):
            told = hashlib.sha256(f"{ref.source}@{found.name}".encode()).hexdigest()
            return ModelFiles(told, sum(f.stat().st_size for p in WEIGHTS for f in found.glob(p)), found)
        path = found
    files = sorted({file for pattern in (*WEIGHTS, *SMALL, "*.py") for file in path.glob(pattern) if file.is_file()})
    hashes = {file.name: _hash(file, known) for file in files}
    told = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return ModelFiles(told, sum(f.stat().st_size for p in WEIGHTS for f in path.glob(p)), path)


def _hash(file: Path, known: MutableMapping[str, str]) -> str:
    facts = file.stat()
    key = f"{file}|{facts.st_size}|{facts.st_mtime_ns}"
    if key not in known:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        known[key] = digest.hexdigest()
    return known[key]
