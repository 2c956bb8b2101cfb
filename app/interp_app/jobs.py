"""Work in the background: two threads that own the models, a bounded queue, results that are kept while memory allows.

Browsers that ask for the same thing share one job. A job that nobody asks after any more is not begun.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from interp.errors import InterpError
from interp.progress import Progress, Stopped, Watcher, watched

T = TypeVar("T")
Lane = Literal["quick", "long"]
LANES: tuple[Lane, ...] = ("quick", "long")
"""What a page waits for, and what takes minutes: neither holds the other up."""
FORGOTTEN = 30.0
"""Seconds after which a waiting job that no browser asks after is dropped."""
FAILURES = 64
"""Failed and cancelled jobs whose reason is remembered."""

log = logging.getLogger("interp_app")


@dataclass(eq=False)
class Job:
    """One piece of work. state: "waiting", "running", "failed" or "cancelled"; done ones leave their result."""

    key: Hashable
    title: str
    work: Callable[[], Any]
    size: Callable[[Any], int]
    lane: Lane
    state: str = "waiting"
    message: str = ""
    progress: Progress | None = None
    asked: float = field(default_factory=time.monotonic)
    begun: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    watcher: Watcher = field(init=False)

    def __post_init__(self) -> None:
        self.watcher = Watcher(self._heard)

    def _heard(self, progress: Progress) -> None:
        self.progress = progress


class Pending(Exception):
    """What was asked for is being made. ahead: jobs before it in its lane."""

    def __init__(self, job: Job, ahead: int) -> None:
        super().__init__(job.title)
        self.job, self.ahead = job, ahead


class Failed(InterpError):
    """The job ended without a result; the message says why. was_cancelled: because someone cancelled it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.message)
        self.key, self.was_cancelled = job.key, job.state == "cancelled"


class Busy(InterpError):
    """The queue is full."""


class Jobs:
    """The queue, its workers and the results.

    memory: bytes that results may take; longest: jobs that may wait
    """

    def __init__(self, memory: int, longest: int) -> None:
        self.memory, self.longest = memory, longest
        self._lock = threading.Condition()
        self._queues: dict[Lane, OrderedDict[Hashable, Job]] = {lane: OrderedDict() for lane in LANES}
        self._running: dict[Lane, Job | None] = dict.fromkeys(LANES)
        self._ended: OrderedDict[Hashable, Job] = OrderedDict()
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def ask(
        self,
        key: Hashable,
        title: str,
        work: Callable[[], T],
        *,
        size: Callable[[T], int] = lambda value: 1024,
        lane: Lane = "quick",
    ) -> T:
        """The result of ``work``, where it is there; else it is queued.

        Args:
            key: what it is; equal keys are one job.
            title: what people read.
            size: bytes that the result holds.

        Raises:
            Pending: it is being made: ask again.
            Failed: it failed or was cancelled; ``forget`` it to try again.
            Busy: the queue is full.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key][0]
            if key in self._ended:
                raise Failed(self._ended[key])
            running, queue = self._running[lane], self._queues[lane]
            if running is not None and running.key == key:
                running.asked = time.monotonic()
                raise Pending(running, 0)
            if key not in queue:
                for each in self._queues.values():
                    self._drop_forgotten(each)
                if sum(map(len, self._queues.values())) >= self.longest:
                    raise Busy(
                        f"{self.longest} jobs are waiting already, so this one was not taken; cancel one, or try again later"
                    )
                self._begin()
                queue[key] = Job(key, title, work, size, lane)
                self._lock.notify_all()
            job = queue[key]
            job.asked = time.monotonic()
            raise Pending(job, list(queue).index(key) + (running is not None))

    def peek(self, key: Hashable) -> Any:
        """A result that is there, else None; nothing is begun. It counts as used."""
        with self._lock:
            if key not in self._results:
                return None
            self._results.move_to_end(key)
            return self._results[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a result that was made elsewhere."""
        with self._lock:
            self._keep(key, value, size)

    def cancel(self, key: Hashable) -> bool:
        """Stop a job, or take it from the queue. Whether there was one."""
        with self._lock:
            for lane in LANES:
                running = self._running[lane]
                if running is not None and running.key == key:
                    running.watcher.stop()
                    return True
                job = self._queues[lane].pop(key, None)
                if job is not None:
                    self._end(job, "cancelled", "cancelled")
                    return True
        return False

    def cancel_id(self, id: str) -> bool:
        """``cancel`` by ``Job.id``."""
        found = next((job.key for job in self.waiting() if job.id == id), None)
        return found is not None and self.cancel(found)

    def forget(self, key: Hashable) -> None:
        """Forget that it failed or was cancelled, so that it is begun again when it is asked for."""
        with self._lock:
            self._ended.pop(key, None)

    def waiting(self) -> list[Job]:
        """The jobs that run or wait, those that run first."""
        with self._lock:
            running = [job for job in self._running.values() if job is not None]
            return running + [job for lane in LANES for job in self._queues[lane].values()]

    @property
    def kept(self) -> int:
        """Bytes that the results hold."""
        with self._lock:
            return sum(size for _, size in self._results.values())

    def close(self, wait: float = 10.0) -> None:
        """Stop what runs, forget what waits, and let the threads end."""
        with self._lock:
            self._is_closed = True
            for lane in LANES:
                self._queues[lane].clear()
                running = self._running[lane]
                if running is not None:
                    running.watcher.stop()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(wait)

    def _begin(self) -> None:
        # With the first job: a server that forks after it was loaded would leave the threads behind.
        if self._threads or self._is_closed:
            return
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"interp-{lane}", daemon=True) for lane in LANES
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, lane: Lane) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_closed or bool(self._queues[lane]))
                if self._is_closed:
                    return
                self._drop_forgotten(self._queues[lane])
                if not self._queues[lane]:
                    continue
                _, job = self._queues[lane].popitem(last=False)
                job.state, job.begun = "running", time.monotonic()
                self._running[lane] = job
            self._run(job, lane)

    def _run(self, job: Job, lane: Lane) -> None:
        state, message, value, size = "done", "", None, 0
        try:
            with watched(job.watcher):
                job.watcher.check()
                value = job.work()
                size = job.size(value)
        except Stopped:
            state, message = "cancelled", "cancelled"
        except InterpError as error:
            state, message = "failed", str(error)
        except MemoryError:
            state, message = "failed", f"{job.title}: there was not enough memory; try a shorter text"
        except (Exception, SystemExit):
            # The thread lives on, whatever a library does. What is shown names no file of this machine; the log has it all.
            log.exception("%s failed", job.title)
            state, message = (
                "failed",
                f"{job.title} failed for a reason that is not known here; the server's log has it",
            )
        with self._lock:
            self._running[lane] = None
            if state == "done":
                self._keep(job.key, value, size)
            else:
                self._end(job, state, message)

    def _end(self, job: Job, state: str, message: str) -> None:
        job.state, job.message = state, message
        self._ended[job.key] = job
        while len(self._ended) > FAILURES:
            self._ended.popitem(last=False)

    def _keep(self, key: Hashable, value: Any, size: int) -> None:
        self._results[key] = value, size
        self._results.move_to_end(key)
        total = sum(size for _, size in self._results.values())
        # The newest stays even where it is too large alone: it was just asked for.
        while total > self.memory and len(self._results) > 1:
            _, (_, freed) = self._results.popitem(last=False)
            total -= freed

    @staticmethod
    def _drop_forgotten(queue: OrderedDict[Hashable, Job]) -> None:
        now = time.monotonic()
        for key in [key for key, job in queue.items() if now - job.asked > FORGOTTEN]:
            del queue[key]
