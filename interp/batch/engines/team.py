"""The loop that every engine with several workers runs: who gets which unit, and what becomes of those of a worker that dies.

An engine brings a ``Team``: how workers are started, told and heard. Everything that is decided is decided here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from interp.batch.engines.schedule import Schedule
from interp.batch.shard import Outcome
from interp.batch.units import Unit
from interp.errors import RunError
from interp.folders import WriteError

ATTEMPTS = 2
"""A unit whose worker died is tried by another one: the first may have died of something else."""
NODE_ATTEMPTS = 5
"""One whose worker's whole machine was lost is tried more often: a machine is seldom lost for what runs on it."""


@dataclass(eq=False)
class Worker:
    """What a worker does (unit), and what it does after that and reads meanwhile (then). is_ready: it has answered once."""

    number: int
    unit: Unit | None = None
    then: Unit | None = None
    is_ready: bool = False


@dataclass(frozen=True)
class Death:
    """A worker is gone. how: for people; of_node: its machine is, or cannot be reached."""

    how: str
    of_node: bool = False


W = TypeVar("W", bound=Worker)


class Team(Protocol[W]):
    """Workers of one kind."""

    def start(self, number: int) -> W:
        """A worker, which answers ``{"ready": True}`` when it can take its first unit."""
        ...

    def tell(self, worker: W, told: Mapping[str, Any]) -> None:
        """Give it a unit and the one after it; see ``worker.answer``. Of a dead worker ``answers`` says so."""
        ...

    def answers(self, workers: Sequence[W]) -> Iterable[tuple[W, Mapping[str, Any] | Death]]:
        """What those say that have something to say; waits for some time until one has.

        Raises:
            RunError: none of them will ever answer.
        """
        ...

    def end(self, worker: W) -> None:
        """It has nothing more to do."""
        ...

    def stop(self, workers: Sequence[W]) -> None:
        """End them at once, whatever they are doing."""
        ...


def do_units(units: Sequence[Unit], count: int, team: Team[W]) -> Iterator[Outcome]:
    """All units, by so many workers, each of which has at most one unit in work and one ahead.

    A worker that cannot begin ends the run while nothing is done: something is wrong with the set-up. Later, as when a machine
    joins that is not like the others, the run warns and goes on without it.

    Raises:
        RunError: a worker cannot begin, or none is left; WriteError: one cannot write shards.
    """
    schedule = Schedule(units)
    deaths: dict[tuple[str, bool], int] = {}
    running: list[W] = []
    has_begun = False
    try:
        running.extend(team.start(number) for number in range(min(count, len(units))))
        while running:
            for worker, answer in team.answers(list(running)):
                why = None if worker.is_ready else _why_not(answer)
                if why is not None:
                    _warn(why, has_begun)
                    running.remove(worker)
                    team.stop([worker])
                    continue
                if isinstance(answer, Death):
                    running.remove(worker)
                    outcome = _lost(worker, answer, schedule, deaths)
                    if schedule.has_units:
                        running.append(team.start(worker.number))
                else:
                    outcome = _said(answer)
                    worker.is_ready = True
                    worker.unit = None
                    if not _give(worker, schedule, running, team):
                        running.remove(worker)
                        team.end(worker)
                if outcome is not None:
                    has_begun = True
                    yield outcome
            if not schedule.has_units and not any(worker.then for worker in running):
                # Nothing is left for who has not begun; should a unit come back, another worker is started for it.
                for worker in [each for each in running if not each.is_ready]:
                    running.remove(worker)
                    team.stop([worker])
        if schedule.has_units:
            raise RunError("no worker is left that could do the rest; what was finished is kept")
    finally:
        team.stop(running)


def _why_not(answer: Mapping[str, Any] | Death) -> str | None:
    """Why a worker cannot begin; None where it can, or was lost with its machine."""
    if isinstance(answer, Death):
        how = f"a worker could not start ({answer.how}); what it said stands above, or in the logs of its machine"
        return None if answer.of_node else how
    return answer.get("refused")


def _warn(why: str, has_begun: bool) -> None:
    if not has_begun:
        raise RunError(why)
    warnings.warn(f"{why}; the run goes on with a worker less", RuntimeWarning, stacklevel=1)


def _said(answer: Mapping[str, Any]) -> Outcome | None:
    """The outcome in what a worker says; None where it is ready for its first unit."""
    if "stopped" in answer:
        raise WriteError(answer["stopped"])
    return Outcome(**answer["outcome"]) if "outcome" in answer else None


def _give(worker: W, schedule: Schedule, running: Sequence[W], team: Team[W]) -> bool:
    """Tell a worker its next unit; False where there is none left."""
    unit = worker.then or schedule.take(None) or _promised(running)
    if unit is None:
        return False
    worker.unit, worker.then = unit, schedule.take(unit)
    team.tell(worker, {"unit": unit.as_json(), "then": None if worker.then is None else worker.then.as_json()})
    return True


def _promised(running: Sequence[W]) -> Unit | None:
    """A unit that another worker was only to do later: in the end nobody idles while one has two."""
    for worker in running:
        if worker.then is not None:
            unit, worker.then = worker.then, None
            return unit
    return None


def _lost(worker: Worker, death: Death, schedule: Schedule, deaths: dict[tuple[str, bool], int]) -> Outcome | None:
    """What a dead worker had is given back, or has failed, where workers died in it often enough."""
    outcome = None
    for unit in (worker.then, worker.unit):
        if unit is None:
            continue
        if unit is worker.unit:
            key = (unit.id, death.of_node)
            deaths[key] = deaths.get(key, 0) + 1
            if deaths[key] == (NODE_ATTEMPTS if death.of_node else ATTEMPTS):
                message = (
                    f"the worker died in this unit ({death.how}), {deaths[key]} times; if memory ran out, use fewer "
                    "workers, a shorter window or a smaller dtype"
                )
                outcome = Outcome(unit.id, 0.0, 0, "WorkerDied", message)
                continue
        schedule.give_back(unit)
    return outcome
