"""What a worker on another machine must find there, checked before its first unit: versions, the output folder, models, texts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.batch.folder import BatchFolder
from interp.batch.shard import Order
from interp.batch.units import Unit, used_versions
from interp.errors import InputError

PATIENCE = 10.0
"""Seconds in which a file must be seen that another machine has just written; network file systems may be late."""


@dataclass(frozen=True)
class Ground:
    """What the run sees on its own machine, as JSON can hold it.

    versions  package -> version, of those on which numbers may depend
    token     path of a file in the output folder, which holds ``secret``
    models    folder -> bytes of its weights
    texts     files of documents: of each folder one
    """

    versions: Mapping[str, str]
    token: str
    secret: str
    models: Mapping[str, int]
    texts: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def problems(self, device: str) -> list[str]:
        """What is otherwise here; empty where all is as it should be."""
        return [*self._versions(), *self._folder(), *self._models(), *self._texts(), *_device(device)]

    def _versions(self) -> Iterator[str]:
        here = used_versions()
        for name in sorted({*self.versions, *here}):
            wanted, found = self.versions.get(name, "none"), here.get(name, "none")
            if wanted != found:
                yield f"{name} is {found}, where the run was started it is {wanted}; install the same"

    def _folder(self) -> Iterator[str]:
        path, end = Path(self.token), time.monotonic() + PATIENCE
        while True:
            try:
                if path.read_text(encoding="utf-8") == self.secret:
                    return
            except OSError:
                pass
            if time.monotonic() > end:
                yield f"the output folder {path.parent} is not the one of the run; give one that all machines share"
                return
            time.sleep(0.1)

    def _models(self) -> Iterator[str]:
        for folder, wanted in self.models.items():
            found = weight_bytes(Path(folder))
            if found != wanted:
                yield f"the model folder {folder} holds {found:,} bytes of weights, where the run was started {wanted:,}"

    def _texts(self) -> Iterator[str]:
        for file in self.texts:
            if not Path(file).is_file():
                yield f"the text {file} is not there"


def _device(device: str) -> Iterator[str]:
    from interp.loading.load import chosen_device

    try:
        chosen_device(device)
    except InputError as error:
        yield str(error)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a model's folder; 0 where there is none."""
    from interp.loading.folder import WEIGHTS

    return sum(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern))


@contextmanager
def prepared(order: Order, units: Sequence[Unit]) -> Iterator[Ground]:
    """The ground of a run. While it lasts, the token lies in the output folder.

    Raises:
        WriteError: it cannot be written.
    """
    folders = sorted({unit.model.source for unit in units if Path(unit.model.source).is_absolute()})
    by_folder = {Path(document.path).parent: document.path for unit in units for document in unit.documents}
    secret = secrets.token_hex(16)
    with BatchFolder(Path(order.folder)).token(secret) as token:
        yield Ground(
            used_versions(),
            str(token),
            secret,
            {folder: weight_bytes(Path(folder)) for folder in folders},
            sorted(by_folder.values()),
        )
