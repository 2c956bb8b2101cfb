"""One unit of work, from a plan to its shard: the same function for every engine and every worker."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from interp.batch.folder import BatchFolder
from interp.batch.models import ModelRef
from interp.batch.texts import read_documents
from interp.batch.units import Unit
from interp.errors import InterpError, RunError
from interp.folders import WriteError

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

TRACE_LINES = 12
"""Last lines of a traceback that are kept of an error that interp did not foresee."""


@dataclass(frozen=True)
class Order:
    """What every worker of a run must know, as JSON can hold it."""

    folder: str
    kind: str
    settings: Mapping[str, Any]
    device: str
    dtype: str
    threads: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What became of a unit. kind, message, trace: of its error, "" where it has its shard."""

    unit: str
    seconds: float
    positions: int = 0
    kind: str = ""
    message: str = ""
    trace: str = ""

    @property
    def is_done(self) -> bool:
        return not self.kind


class ShardRunner:
    """Does units one after the other: it keeps the model until one needs another, and reads the next one's input meanwhile.

    with ShardRunner(order) as runner:
        outcome = runner.run(unit, then=next_unit)
    """

    def __init__(self, order: Order) -> None:
        from interp.batch.kinds import KINDS

        self.order = order
        self.folder = BatchFolder(Path(order.folder))
        self.kind = KINDS[order.kind]
        self.settings = self.kind.of_json(order.settings)
        self._model: HookedModel | None = None
        self._loaded: ModelRef | None = None
        self._broken: dict[ModelRef, Exception] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="interp-batch-reader")
        self._ahead: dict[str, Future[list[str]]] = {}
        if order.threads is not None:
            import torch

            torch.set_num_threads(order.threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    def run(self, unit: Unit, then: Unit | None = None) -> Outcome:
        """Measure a unit and write its shard.

        An error is an outcome; the next unit may do well. A shard that cannot be written is none: nothing else could be.

        then: the unit after it, whose documents and weights are read from the disk meanwhile

        Raises:
            WriteError: the shard cannot be written.
        """
        start = time.perf_counter()
        try:
            documents = self._documents(unit)
            if then is not None:
                self._read_ahead(unit, then)
            gathered = self._gathered(unit)
            model = self._model_of(unit.model)
            tables = self.kind.run(model, unit, documents, self.settings, gathered=gathered, progress=False)
            counted = tables["inputs"].column("positions").to_pylist() if "inputs" in tables else []
            positions = sum(each for each in counted if each is not None)
            self.folder.write_shard(unit, tables)
        except WriteError:
            raise
        except InterpError as error:
            _forget(error)
            return Outcome(unit.id, time.perf_counter() - start, 0, type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - one bad unit must not cost the others
            lines = traceback.format_exception(error)
            trace = "".join(lines).rstrip().splitlines()[-TRACE_LINES:]
            self._let_go(error)
            kind = type(error).__name__
            return Outcome(unit.id, time.perf_counter() - start, 0, kind, str(error) or kind, "\n".join(trace))
        return Outcome(unit.id, time.perf_counter() - start, positions)

    def _gathered(self, unit: Unit) -> list[Path]:
        """Shards of what a unit gathers.

        Raises:
            RunError: some of them have none.
        """
        lacking = len(set(unit.gathers) - self.folder.finished()) if unit.gathers else 0
        if lacking:
            raise RunError(
                f"{lacking} of the {len(unit.gathers)} units that it is made of failed; with --resume --retry-failed "
                "(retry_failed=True) they and it are tried again"
            )
        return [self.folder.shard(name) for name in unit.gathers]

    def _documents(self, unit: Unit) -> list[str]:
        ahead = self._ahead.pop(unit.id, None)
        return read_documents(unit.documents) if ahead is None else ahead.result()

    def _read_ahead(self, unit: Unit, then: Unit) -> None:
        if then.id not in self._ahead:
            self._ahead[then.id] = self._reader.submit(read_documents, then.documents)
            if then.model != unit.model:
                self._reader.submit(_warm, then.model)

    def _model_of(self, ref: ModelRef) -> HookedModel:
        """The model, loaded unless it is there. One that could not be loaded is not tried again."""
        if ref in self._broken:
            raise self._broken[ref]
        if self._loaded != ref:
            import torch

            if self._model is not None:
                # The former one goes first, so that two are never in memory.
                self._model = self._loaded = None
                gc.collect()
            try:
                self._model = ref.load(self.order.device, self.order.dtype)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                self._broken[ref] = error
                raise
            self._loaded = ref
        assert self._model is not None
        return self._model

    def _let_go(self, error: BaseException) -> None:
        """After an error that nobody foresaw (out of memory): the model, and what frames of the error hold."""
        import torch

        _forget(error)
        self._model = self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _forget(error: BaseException) -> None:
    """Have an error, and those that led to it, hold no variables: among them may be a model, and errors of loading are kept."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            each.__traceback__ = None
            chain += [each.__cause__, each.__context__]


def _warm(ref: ModelRef) -> None:
    """Have the system read the weights of a model that comes next."""
    from interp.loading.folder import WEIGHTS

    if hasattr(os, "posix_fadvise") and Path(ref.source).is_absolute():
        for file in (each for pattern in WEIGHTS for each in Path(ref.source).glob(pattern)):
            with contextlib.suppress(OSError), file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
