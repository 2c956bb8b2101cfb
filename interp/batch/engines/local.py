"""Units on this machine: in this process, or in worker processes that keep their model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from interp.batch.engines.schedule import Schedule
from interp.batch.engines.team import Death, Worker, do_units
from interp.batch.engines.worker import START, THREAD_VARIABLES, receive, send
from interp.batch.shard import Order, Outcome, ShardRunner
from interp.batch.units import Unit

PATIENCE = 10.0
"""Seconds in which a worker must end when it is asked to."""


@dataclass(frozen=True)
class Local:
    """See ``interp.batch.engines.Engine``."""

    device: str
    device_type: str
    workers: int
    threads: int | None

    def run(self, order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
        return run_here(order, units) if self.workers == 1 else run_in_processes(order, units, self.workers)


@contextlib.contextmanager
def on_this_machine(device: str, workers: int | None, threads: int | None) -> Iterator[Local]:
    """workers: None: one, or one for each GPU. One works in this process.

    threads: of each worker; None: this process's own, or the cores shared among the workers

    Raises:
        InputError: the device cannot be used.
    """
    from interp.loading.load import chosen_device

    count = workers or (max(1, gpus()) if device in ("auto", "cuda") else 1)
    yield Local(device, chosen_device(device).type, count, threads or threads_of(count))


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
    return do_units(units, workers, _Processes(order))


def threads_of(workers: int) -> int | None:
    """Threads of each worker, so that together they have one a core; None in this process, which keeps its own."""
    if workers == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    # Where the system says which cores this process may use (Linux does, macOS does not), those alone.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given.isdigit() and int(given) else max(1, cores // workers)


def gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _order_of(order: Order, number: int) -> Order:
    """With a GPU of its own, where the plan does not name one."""
    count = gpus()
    return replace(order, device=f"cuda:{number % count}") if count and order.device in ("auto", "cuda") else order


@dataclass(eq=False, kw_only=True)
class _Process(Worker):
    process: subprocess.Popen[bytes]
    connection: Connection

    def end(self) -> None:
        """Its socket is closed, at which it ends when its unit is done."""
        self.connection.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Processes:
    """Workers that are processes; see ``Team``."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def start(self, number: int) -> _Process:
        order = _order_of(self.order, number)
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
        worker = _Process(number, process=process, connection=Connection(ours.detach()))
        self.tell(worker, order.as_json())
        return worker

    def tell(self, worker: _Process, told: Mapping[str, Any]) -> None:
        # A worker that died closed its end, which the next answers tell.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(worker.connection, told)

    def answers(self, workers: Sequence[_Process]) -> Iterator[tuple[_Process, dict[str, Any] | Death]]:
        by_connection = {worker.connection: worker for worker in workers}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                content = receive(worker.connection)
            except (EOFError, ConnectionResetError):
                worker.end()
                yield worker, Death(_how(worker.process.returncode))
            else:
                yield worker, content

    def end(self, worker: _Process) -> None:
        worker.end()

    def stop(self, workers: Sequence[_Process]) -> None:
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in workers:
            worker.end()


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
