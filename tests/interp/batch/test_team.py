"""What the loop of all engines decides: who gets which unit, and what becomes of those of workers that are lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from interp.batch.engines.team import NODE_ATTEMPTS, Death, Worker, do_units
from interp.batch.models import ModelRef
from interp.batch.units import Unit
from interp.errors import RunError
from interp.folders import WriteError


def units_of(count: int) -> list[Unit]:
    return [Unit(f"u{n}", ModelRef("a", "", None, "a"), "text", 0, True) for n in range(count)]


Play = Callable[[Worker, str], Mapping[str, Any] | Death | None]


class Stage:
    """A team that answers at once what ``play`` says of a worker and its unit ("" at the start); None: it is silent.

    told: (worker, unit, the one after it) in order
    """

    def __init__(self, play: Play) -> None:
        self.play = play
        self.told: list[tuple[int, str, str | None]] = []
        self.started: list[int] = []
        self.stopped: list[int] = []
        self._due: deque[tuple[Worker, str]] = deque()

    def start(self, number: int) -> Worker:
        worker = Worker(number)
        self.started.append(number)
        self._due.append((worker, ""))
        return worker

    def tell(self, worker: Worker, told: Mapping[str, Any]) -> None:
        then = told["then"]
        self.told.append((worker.number, told["unit"]["id"], then and then["id"]))
        self._due.append((worker, told["unit"]["id"]))

    def answers(self, workers: Sequence[Worker]) -> Iterator[tuple[Worker, Mapping[str, Any] | Death]]:
        for _ in range(len(self._due)):
            worker, unit = self._due.popleft()
            answer = self.play(worker, unit)
            if answer is None:
                self._due.append((worker, unit))
            elif worker in workers:
                yield worker, answer

    def end(self, worker: Worker) -> None:
        pass

    def stop(self, workers: Sequence[Worker]) -> None:
        self.stopped += [worker.number for worker in workers]


def done(unit: str) -> dict[str, Any]:
    return {"outcome": {"unit": unit, "seconds": 0.0}} if unit else {"ready": True}


def test_who_has_nothing_left_takes_what_another_was_to_do_later():
    """Worker 0 is slow in its first unit: the other one does the rest, also the unit that was promised to worker 0."""
    rest: set[str] = set()

    def play(worker: Worker, unit: str) -> dict[str, Any] | None:
        if worker.number == 0 and unit and len(rest) < 4:
            return None
        rest.add(unit)
        return done(unit)

    stage = Stage(play)
    outcomes = [outcome.unit for outcome in do_units(units_of(4), 2, stage)]
    assert stage.told == [(0, "u0", "u1"), (1, "u2", "u3"), (1, "u3", None), (1, "u1", None)]
    assert outcomes == ["u2", "u3", "u1", "u0"]


def test_a_worker_for_which_there_is_no_room_is_not_waited_for():
    stage = Stage(lambda worker, unit: done(unit) if worker.number == 0 else None)
    assert [outcome.unit for outcome in do_units(units_of(3), 2, stage)] == ["u0", "u1", "u2"]
    assert stage.stopped == [1]


def test_a_worker_that_has_not_begun_is_kept_while_something_is_left_for_it():
    """The first one has both units, one of them for later: that is what the second one begins with."""
    looks = [0]

    def play(worker: Worker, unit: str) -> dict[str, Any] | None:
        looks[0] += worker.number == 1
        if worker.number == 0:
            return done(unit) if not unit or looks[0] > 3 else None
        return done(unit) if unit or looks[0] == 3 else None

    stage = Stage(play)
    assert {outcome.unit for outcome in do_units(units_of(2), 2, stage)} == {"u0", "u1"}
    assert stage.told == [(0, "u0", "u1"), (1, "u1", None)]


def test_a_unit_whose_machines_are_lost_is_tried_more_often_than_one_whose_workers_die():
    def play(worker: Worker, unit: str) -> dict[str, Any] | Death:
        return Death("gone", of_node=True) if unit == "u1" else done(unit)

    stage = Stage(play)
    outcomes = {outcome.unit: outcome for outcome in do_units(units_of(3), 1, stage)}
    assert sorted(outcomes) == ["u0", "u1", "u2"]
    assert [unit for unit, outcome in outcomes.items() if not outcome.is_done] == ["u1"]
    assert sum(unit == "u1" for _, unit, _ in stage.told) == NODE_ATTEMPTS == len(stage.started) - 1
    assert outcomes["u1"].message.startswith("the worker died in this unit (gone), 5 times")


def test_a_worker_whose_machine_is_lost_before_it_begins_is_replaced():
    lost = [Death("gone", of_node=True)]
    stage = Stage(lambda worker, unit: lost.pop() if lost else done(unit))
    assert [outcome.unit for outcome in do_units(units_of(2), 1, stage)] == ["u0", "u1"]
    assert stage.started == [0, 0]


def test_a_full_disk_ends_the_run():
    stage = Stage(lambda worker, unit: {"stopped": "why"} if unit == "u1" else done(unit))
    with pytest.raises(WriteError, match="why"):
        list(do_units(units_of(5), 2, stage))
    assert sorted(stage.stopped) == [0, 1]


UNFIT = [Death("broken"), {"refused": "torch is 1.0"}]


@pytest.mark.parametrize("unfit", UNFIT, ids=["dies", "refuses"])
def test_a_worker_that_cannot_begin_ends_a_run_in_which_nothing_is_done(unfit: Any):
    """Also where the other one could."""
    stage = Stage(lambda worker, unit: unfit if worker.number else done(unit))
    with pytest.raises(RunError, match=r"broken|torch is 1\.0"):
        list(do_units(units_of(5), 2, stage))
    assert 0 in stage.stopped


@pytest.mark.parametrize("unfit", UNFIT, ids=["dies", "refuses"])
def test_one_that_cannot_begin_later_is_gone_on_without(unfit: Any):
    """Worker 1 loses its machine in u3, and what takes its place is not as the others are."""
    born: list[Worker] = []

    def play(worker: Worker, unit: str) -> Any:
        if worker not in born:
            born.append(worker)
        if unit == "u3" and worker.number == 1:
            return Death("gone", of_node=True)
        return unfit if worker in born[2:] else done(unit)

    stage = Stage(play)
    with pytest.warns(RuntimeWarning, match=r"(broken|torch is 1\.0).*; the run goes on with a worker less"):
        outcomes = [outcome.unit for outcome in do_units(units_of(9), 2, stage)]
    assert sorted(outcomes) == [f"u{n}" for n in range(9)]
    assert stage.started == [0, 1, 1]


def test_a_run_without_any_worker_left_ends_and_says_so():
    def play(worker: Worker, unit: str) -> Any:
        if unit == "u1":
            return Death("gone", of_node=True)
        return UNFIT[0] if len(stage.started) > 1 else done(unit)

    stage = Stage(play)
    with pytest.warns(RuntimeWarning), pytest.raises(RunError, match="no worker is left that could do the rest"):
        list(do_units(units_of(3), 1, stage))
