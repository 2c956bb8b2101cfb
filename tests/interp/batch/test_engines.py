"""Workers in processes of their own: the same results, each model loaded as seldom as can be, and their deaths survived."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import interp.batch.engines.local as local  # noqa: PLR0402 - the package has a function of that name
from interp.batch import open_store, run_batch
from interp.batch.engines.schedule import Schedule
from interp.batch.models import ModelRef
from interp.batch.shard import Order
from interp.batch.units import Unit
from interp.errors import RunError
from interp.folders import WriteError
from tests.interp.batch.stores import contents, small_plan


def units_of(**counts: int) -> list[Unit]:
    return [
        Unit(f"{name}{n}", ModelRef(name, "", None, name), "text", 0, True)
        for name, c in counts.items()
        for n in range(c)
    ]


def test_a_worker_stays_with_its_model_and_helps_with_the_largest_in_the_end():
    schedule = Schedule(units_of(a=2, b=4))
    first, second = schedule.take(None), schedule.take(None)
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == ("a0", "b0")
    first = schedule.take(first)
    assert first is not None
    assert first.id == "a1"
    helped = schedule.take(first)
    assert helped is not None
    assert helped.id == "b1"
    schedule.give_back(helped)
    rest = []
    while (second := schedule.take(second)) is not None:
        rest.append(second.id)
    assert rest == ["b1", "b2", "b3"]
    assert not schedule.has_units


def test_cores_are_shared_also_where_the_system_does_not_say_which_ones_are_ours(monkeypatch: pytest.MonkeyPatch):
    """macOS has no affinity of processes."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [local.threads_of(workers) for workers in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local.threads_of(2) == 3


@pytest.fixture(scope="module")
def alone(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The store of one worker in this process, one thread."""
    import torch

    folder = tmp_path_factory.mktemp("alone")
    plan = small_plan(model_folder, folder, documents=12)
    threads = torch.get_num_threads()
    try:
        run_batch(plan, threads=1, progress=False)
    finally:
        torch.set_num_threads(threads)
    return contents(plan.output)


def shards(found: dict) -> dict:
    return {name: data for name, data in found.items() if name.startswith("shards")}


def test_workers_write_the_same_shards_also_where_one_is_killed(
    model_folder: Path, tmp_path: Path, alone: dict, monkeypatch: pytest.MonkeyPatch
):
    plan = small_plan(model_folder, tmp_path, documents=12)
    started: list[local._Process] = []
    units: dict[int, int] = {}
    killed: list[local._Process] = []
    plain_start, plain_tell = local._Processes.start, local._Processes.tell

    def start(self: local._Processes, number: int) -> local._Process:
        started.append(plain_start(self, number))
        return started[-1]

    def tell(self: local._Processes, worker: local._Process, told: Mapping[str, Any]) -> None:
        """The first worker that has its second unit is killed at once."""
        plain_tell(self, worker, told)
        if "unit" in told:
            units[worker.process.pid] = units.get(worker.process.pid, 0) + 1
            if units[worker.process.pid] == 2 and not killed:
                killed.append(worker)
                os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(local._Processes, "start", start)
    monkeypatch.setattr(local._Processes, "tell", tell)
    summary = run_batch(plan, workers=2, threads=1, progress=False)
    assert summary.is_complete, summary
    assert shards(contents(plan.output)) == shards(alone)
    assert open_store(plan.output).manifest["runs"][0]["workers"] == 2
    assert len(started) == 3
    assert killed[0].process.returncode == -signal.SIGKILL
    for worker in started:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.process.pid, 0)


WORKER = """
import os, signal, sys
from multiprocessing.connection import Connection
from interp.batch.engines.worker import receive, send
connection = Connection(int(sys.argv[1]))
receive(connection)
send(connection, {"ready": True})
while True:
    try:
        unit = receive(connection)["unit"]["id"]
    except EOFError:
        break
    if unit == "a1":
        DO
    send(connection, {"outcome": {"unit": unit, "seconds": 0.0}})
"""
"""A worker that measures nothing, so that it starts at once, and does something else at one unit."""
ORDER = Order("nowhere", "scan", {}, "cpu", "auto", 1)


def test_a_unit_that_kills_its_workers_fails_and_the_rest_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", WORKER.replace("DO", "os.kill(os.getpid(), signal.SIGKILL)"))
    outcomes = {outcome.unit: outcome for outcome in local.run_in_processes(ORDER, units_of(a=4, b=3), 2)}
    assert sorted(outcomes) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2"]
    [failed] = [outcome for outcome in outcomes.values() if not outcome.is_done]
    assert failed.unit == "a1"
    assert failed.kind == "WorkerDied"
    assert failed.message.startswith("the worker died in this unit (killed by SIGKILL), 2 times; if memory ran out")


def test_a_worker_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", "raise SystemExit(3)")
    with pytest.raises(RunError, match=r"a worker could not start \(exit code 3\)"):
        list(local.run_in_processes(ORDER, units_of(a=2), 2))


def test_a_full_disk_in_a_worker_ends_the_run_and_its_fellows(monkeypatch: pytest.MonkeyPatch):
    stopped = "send(connection, {'stopped': 'no space left'}); sys.exit()"
    monkeypatch.setattr(local, "START", WORKER.replace("DO", stopped))
    with pytest.raises(WriteError, match="no space left"):
        list(local.run_in_processes(ORDER, units_of(a=5, b=5), 2))


def test_a_worker_that_dies_between_two_units_is_replaced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", WORKER.replace("DO", "pass"))
    plain, killed = local._Processes.tell, []

    def tell(self: local._Processes, worker: local._Process, told: Mapping[str, Any]) -> None:
        """The worker is gone before it is told its second unit."""
        if worker.is_ready and "unit" in told:
            killed.append(worker)
            if len(killed) == 2:
                worker.process.kill()
                worker.process.wait()
        plain(self, worker, told)

    monkeypatch.setattr(local._Processes, "tell", tell)
    outcomes = list(local.run_in_processes(ORDER, units_of(a=4), 1))
    assert sorted(outcome.unit for outcome in outcomes) == ["a0", "a1", "a2", "a3"]
    assert all(outcome.is_done for outcome in outcomes)


def test_closing_the_outcomes_ends_the_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", WORKER.replace("DO", "import time; time.sleep(60)"))
    started: list[int] = []
    plain = local._Process.end

    def end(self: local._Process) -> None:
        plain(self)
        started.append(self.process.returncode)

    monkeypatch.setattr(local._Process, "end", end)
    outcomes = local.run_in_processes(ORDER, units_of(a=3, b=1), 2)
    next(outcomes)
    outcomes.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(started) == 2
    assert all(code is not None for code in started)
