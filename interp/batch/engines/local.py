"""Units on this machine: in this process, or in worker processes that keep their model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from interp.batch.engines.schedule import Schedule
from interp.batch.engines.worker import START, receive, send
from interp.batch.shard import Order, Outcome, ShardRunner
from interp.batch.units import Unit
from interp.errors import RunError
from interp.folders import WriteError

ATTEMPTS = 2
"""A unit whose worker died is tried by another one: the first may have died of something else."""
PATIENCE = 10.0
"""Seconds in which a worker must end when it is asked to."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run_here(order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
    """In this process, one after the other."""
    schedule = Schedule(units)
    with ShardRunner(order) as runner:
        unit = schedule.take(None)
        while unit is not None:
            then = schedule.take(unit)
            yield runner.run(unit, then)
            unit = then


def run_in_processes(order: Order, units: Sequence[Unit], workers: int) -> Iterator[Outcome]:
    """In so many processes, each with its model, one GPU each where there are several."""
    schedule = Schedule(units)
    attempts: dict[str, int] = {}
    count = min(workers, len(units))
    running: list[_Worker] = []
    try:
        running += [_Worker.start(_order_of(order, number), number) for number in range(count)]
        while running:
            for ready in wait([worker.connection for worker in running]):
                worker = next(each for each in running if each.connection is ready)
                try:
                    answer = receive(worker.connection)
                except (EOFError, ConnectionResetError):
                    running.remove(worker)
                    outcome = _died(worker, schedule, attempts)
                    if outcome is not None:
                        yield outcome
                    if schedule.has_units:
                        running.append(_Worker.start(worker.order, worker.number))
                    continue
                if "stopped" in answer:
                    raise WriteError(answer["stopped"])
                worker.is_ready = True
                if "outcome" in answer:
                    worker.unit = None
                    yield Outcome(**answer["outcome"])
                if not worker.give(schedule):
                    running.remove(worker)
                    worker.end()
    finally:
        for worker in running:
            worker.connection.close()
            worker.process.terminate()
        for worker in running:
            worker.end()


def threads_of(workers: int) -> int | None:
    """Threads of each worker, so that together they have one a core; None in this process, which keeps its own."""
    if workers == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, len(os.sched_getaffinity(0)) // workers)


def gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _order_of(order: Order, number: int) -> Order:
    """With a GPU of its own, where the plan does not name one."""
    count = gpus()
    return replace(order, device=f"cuda:{number % count}") if count and order.device in ("auto", "cuda") else order


@dataclass(eq=False)
class _Worker:
    """A worker process. unit: what it does; then: what it will do after that, and reads meanwhile."""

    process: subprocess.Popen[bytes]
    connection: Connection
    order: Order
    number: int
    unit: Unit | None = None
    then: Unit | None = None
    is_ready: bool = False

    @classmethod
    def start(cls, order: Order, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if order.threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(order.threads))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the run, which ends its workers.
                start_new_session=True,
            )
        worker = cls(process, Connection(ours.detach()), order, number)
        send(worker.connection, order.as_json())
        return worker

    def give(self, schedule: Schedule) -> bool:
        """The next unit; False where there is none left."""
        unit = self.then or schedule.take(None)
        if unit is None:
            return False
        self.unit, self.then = unit, schedule.take(unit)
        told: dict[str, Any] = {"unit": unit.as_json(), "then": None if self.then is None else self.then.as_json()}
        # One that died meanwhile is found by its closed socket, and its units are given back.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.connection, told)
        return True

    def end(self) -> None:
        self.connection.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _died(worker: _Worker, schedule: Schedule, attempts: dict[str, int]) -> Outcome | None:
    """A worker is gone: what it had is given back, or has failed, where it was its second one.

    Raises:
        RunError: it died before it could do anything.
    """
    worker.end()
    how = _how(worker.process.returncode)
    if not worker.is_ready:
        raise RunError(f"a worker could not start ({how}); what it said stands above")
    for unit in (worker.then, worker.unit):
        if unit is None:
            continue
        if unit is worker.unit:
            attempts[unit.id] = attempts.get(unit.id, 0) + 1
            if attempts[unit.id] == ATTEMPTS:
                message = (
                    f"the worker died in this unit ({how}), {ATTEMPTS} times; if memory ran out, use fewer workers, a "
                    "shorter window or a smaller dtype"
                )
                return Outcome(unit.id, 0.0, 0, "WorkerDied", message)
        schedule.give_back(unit)
    return None


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
