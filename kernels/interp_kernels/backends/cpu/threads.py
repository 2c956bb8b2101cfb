"""Workers of one core each: every worker walks over tiles of its own, so that no two wait for one another inside a tile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Task = TypeVar("Task")

_lock = threading.Lock()
"""Held while a pool is made and while a task is taken; both are short."""

_pool: ThreadPoolExecutor | None = None
_workers = 0


def share_out(tasks: Sequence[Task], make_worker: Callable[[], Callable[[Task], None]]) -> None:
    """Run every task once, on as many workers as torch has threads; the first error is raised when all have stopped.

    make_worker: called once a worker; what it returns holds that worker's buffers. Tasks are handed out in order, so the
    longest should stand first. Which worker takes a task must not matter to its result.
    """
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        worker = make_worker()
        for task in tasks:
            worker(task)
        return
    remaining, stop = iter(tasks), threading.Event()
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        # Both modes belong to a thread; the caller's results may be inference tensors.
        with torch.inference_mode(inference), torch.no_grad():
            worker = make_worker()
            while not stop.is_set():
                with _lock:
                    task = next(remaining, None)
                if task is None:
                    return
                try:
                    worker(task)
                except BaseException:
                    stop.set()
                    raise

    futures = _submitted(run, threads)
    try:
        wait(futures)
    finally:
        stop.set()
        wait(futures)
    for future in futures:
        future.result()


def _submitted(run: Callable[[], None], times: int) -> list[Future[None]]:
    """``run`` handed to the pool, which is made anew when torch's number of threads has changed."""
    global _pool, _workers
    workers = torch.get_num_threads()
    with _lock:
        if _pool is None or _workers != workers:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _workers = _started(workers), workers
        return [_pool.submit(run) for _ in range(times)]


def _started(workers: int) -> ThreadPoolExecutor:
    """A pool whose threads run every operation of torch by themselves."""
    started = threading.Barrier(workers + 1)

    def single() -> None:
        # Asked for the first time, torch sets up the thread's number; later that would undo what is set here.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="interp-attend")
    for _ in range(workers):
        pool.submit(single)
    started.wait()
    # The number is a thread's own, but also what threads that start later take over.
    torch.set_num_threads(workers)
    return pool


def _forget_pool() -> None:
    """A forked child has none of the parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
