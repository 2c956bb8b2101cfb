"""What a plan would cost: its units are counted, and a small piece of the work is run and timed, one model of each name."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.folder import BatchFolder
from interp.batch.plan import Plan
from interp.batch.texts import read_documents
from interp.batch.units import Unit, Work, work_of
from interp.errors import InputError
from interp.progress import Bar
from interp.sizes import readable

if TYPE_CHECKING:
    import pyarrow as pa

PIECE = 8_000
"""Characters of text that are timed: about 2,000 tokens of English."""
WINDOWS = 6
"""Characters of the piece for each position of a window, so that it fills one."""


@dataclass(frozen=True)
class Estimate:
    """What is to be done, and what it would take on this machine.

    units, finished, documents, characters  of the plan; finished: units that the store holds already
    models       name -> checkpoints
    seconds      of the units that are left, for ``workers`` workers: loading, and each part at the rate of its piece
    load_seconds, rates  model name -> seconds to load one; part -> characters a second (units a second, of parts without text)
    weights      model name -> bytes of its weights on the disk
    memory       bytes of one worker at the piece's peak; longer documents fill larger runs, up to 8,192 positions
    """

    units: int
    finished: int
    documents: int
    characters: int
    models: Mapping[str, int]
    workers: int
    seconds: float
    load_seconds: Mapping[str, float]
    rates: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, int]
    memory: int

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def __str__(self) -> str:
        named = ", ".join(f"{name} ({count} checkpoints)" if count > 1 else name for name, count in self.models.items())
        left = self.units - self.finished
        largest = max(self.weights.values(), default=0)
        workers = f"{self.workers} worker{_s(self.workers)}"
        several = len(self.models) > 1
        lines = [
            f"{len(self.models)} models: {named}; the largest has {readable(largest)} of weights"
            if several
            else f"a model: {named}; it has {readable(largest)} of weights",
            f"{self.documents:,} document{_s(self.documents)}, {self.characters:,} characters",
            f"{self.units} unit{_s(self.units)} of work, {self.finished} finished, {left} to do",
            f"about {duration(self.seconds)} with {workers}, after a piece that was run",
            f"about {readable(self.memory)} of memory for each worker",
        ]
        return "\n".join(lines)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def duration(seconds: float) -> str:
    """ "3 h 20 min": two units at most."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def estimate(plan: Plan, *, workers: int = 1, progress: bool = True) -> Estimate:
    """Check a plan whole, and estimate what it takes; nothing is written.

    Raises:
        InputError: the plan cannot be run, ``workers`` is no number of them, or a model of it cannot be loaded.
    """
    from interp.loading.load import chosen_device
    from interp.loading.quiet import without_loading_bar

    if type(workers) is not int or workers < 1:
        raise InputError(f"workers: expected an integer of at least 1, got {workers!r}")
    folder = BatchFolder(plan.output)
    finished: set[str] = set()
    if folder.holds_batch:
        folder.manifest()
        finished = folder.finished()
    work = work_of(plan, folder.checksums(), chosen_device(plan.device).type, progress=progress)
    left = [unit for unit in work.units if unit.id not in finished]
    counts: dict[str, int] = {}
    for ref in plan.models:
        counts[ref.model] = counts.get(ref.model, 0) + 1
    known = {unit.id: unit for unit in work.units}
    timed: dict[str, _Timed] = {}
    with without_loading_bar():
        for name in Bar(list(counts), unit="model", what="time a piece", show=progress):
            of_model = [unit for unit in left if unit.model.model == name]
            if of_model:
                timed[name] = _timed(plan, of_model, known)
    return Estimate(
        units=len(work.units),
        finished=len(work.units) - len(left),
        documents=work.documents,
        characters=work.characters,
        models=counts,
        workers=workers,
        seconds=_seconds(left, timed, {unit.id: unit.characters for unit in work.units}) / workers,
        load_seconds={name: each.load for name, each in timed.items()},
        rates={name: each.rates for name, each in timed.items()},
        weights=_weights(work),
        memory=max((each.memory for each in timed.values()), default=0),
    )


@dataclass(eq=False)
class _Timed:
    """What a model of one name takes.

    rates   part -> characters a second (units a second, of parts without text)
    most    part that gathers -> characters of what it runs, however long the corpus is
    memory  bytes at the peak
    """

    load: float
    rates: dict[str, float]
    most: dict[str, float]
    memory: int = 0

    def seconds(self, unit: Unit, characters: Mapping[str, int]) -> float:
        """characters: of every unit of the plan."""
        size = unit.characters
        if unit.gathers:
            size = min(sum(characters[each] for each in unit.gathers), self.most[unit.part])
        return (size or 1) / self.rates[unit.part]


def _timed(plan: Plan, left: Sequence[Unit], known: Mapping[str, Unit]) -> _Timed:
    """Run a piece of each part that is left on the first model of ``left``. known: all units of the plan, by id."""
    import torch

    from interp.batch.kinds import KINDS

    kind = KINDS[plan.kind]
    start = time.perf_counter()
    model = left[0].model.load(plan.device, plan.dtype)
    timed = _Timed(time.perf_counter() - start, {}, {})
    size = max(PIECE, WINDOWS * int(plan.settings.window or model.shape.context or 0))

    def run(unit: Unit, gathered: Sequence[Path] = ()) -> tuple[Unit, dict[str, pa.Table], float]:
        """The piece of a unit, its tables, and its seconds: the first run compiles and fills caches, the second is the work."""
        documents, kept, room = [], [], size
        for ref, text in zip(unit.documents, read_documents(unit.documents), strict=True):
            if room > 0:
                documents.append(text[:room])
                kept.append(replace(ref, characters=len(documents[-1])))
                room -= len(text)
        piece, tables, spent = replace(unit, documents=tuple(kept)), {}, 0.0
        for _ in range(2):
            start = time.perf_counter()
            tables = kind.run(model, piece, documents, plan.settings, gathered=gathered, progress=False)
            spent = time.perf_counter() - start
        return piece, tables, spent

    for part in dict.fromkeys(unit.part for unit in left):
        unit = max((each for each in left if each.part == part), key=lambda each: each.characters)
        if not unit.gathers:
            piece, _, spent = run(unit)
            timed.rates[part] = (piece.characters or 1) / spent
            continue
        with tempfile.TemporaryDirectory() as place:
            largest = max((known[each] for each in unit.gathers), key=lambda each: each.characters)
            piece, tables, _ = run(largest)
            folder = BatchFolder(Path(place))
            folder.write_shard(piece, tables)
            _, _, spent = run(unit, [folder.shard(piece.id)])
        sequences = sum(tables["inputs"].column("sequences").to_pylist())
        heads = len(model.layers) * model.shape.heads
        timed.rates[part] = piece.characters / spent
        timed.most[part] = kind.most_gathered(plan.settings, heads) * piece.characters / max(1, sequences)
    if model.device.type == "cuda":
        timed.memory = torch.cuda.max_memory_allocated(model.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timed.memory = peak if sys.platform == "darwin" else peak * 1024
    return timed


def _seconds(units: Sequence[Unit], timed: Mapping[str, _Timed], characters: Mapping[str, int]) -> float:
    total = sum(timed[ref.model].load for ref in {unit.model for unit in units})
    return total + sum(timed[unit.model.model].seconds(unit, characters) for unit in units)


def _weights(work: Work) -> dict[str, int]:
    largest: dict[str, int] = {}
    for facts in work.models.values():
        largest[facts["model"]] = max(largest.get(facts["model"], 0), facts["nbytes"])
    return largest
