"""Work in the background: shared, in order, cancelled, failed, bounded in number and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from interp.errors import InputError
from interp.progress import Bar, step
from interp_app import jobs as module
from interp_app.jobs import FAILURES, Busy, Failed, Jobs, Pending
from tests.app.ready import ready

PATIENCE = 10.0


class Gate:
    """Work that begins, and ends when it is let go."""

    def __init__(self, value: Any = None) -> None:
        self.begun, self.go, self.value, self.runs = threading.Event(), threading.Event(), value, 0

    def __call__(self) -> Any:
        self.runs += 1
        self.begun.set()
        while not self.go.wait(0.005):
            step()
        return self.value

    def is_running(self) -> bool:
        return self.begun.wait(PATIENCE)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(memory=1000, longest=4)
    yield made
    made.close()


def pending(ask: Callable[[], Any]) -> Pending:
    with pytest.raises(Pending) as raised:
        ask()
    return raised.value


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_who_asks_for_the_same_shares_one_job(jobs: Jobs):
    gate = Gate("made")
    first = pending(lambda: jobs.ask("a", "A", gate)).job
    assert gate.is_running()
    assert pending(lambda: jobs.ask("a", "A", gate)).job is first
    gate.go.set()
    assert ready(lambda: jobs.ask("a", "A", gate)) == "made"
    assert jobs.ask("a", "A", gate) == "made"
    assert gate.runs == 1


def test_threads_that_ask_at_once_get_one_result(jobs: Jobs):
    made: list[object] = []
    found: list[object] = []

    def work() -> object:
        made.append(object())
        return made[-1]

    threads = [
        threading.Thread(target=lambda: found.append(ready(lambda: jobs.ask("a", "A", work)))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(made) == 1
    assert found == made * 12


def test_jobs_run_in_the_order_in_which_they_were_asked_for(jobs: Jobs):
    gate, order = Gate(), []
    pending(lambda: jobs.ask("gate", "gate", gate))
    assert gate.is_running()
    for at, name in enumerate("abc"):
        assert pending(lambda name=name: jobs.ask(name, name, lambda: order.append(name))).ahead == at + 1
    assert [job.title for job in jobs.waiting()] == ["gate", "a", "b", "c"]
    assert [job.state for job in jobs.waiting()] == ["running", "waiting", "waiting", "waiting"]
    gate.go.set()
    eventually(lambda: not jobs.waiting())
    assert order == ["a", "b", "c"]


def test_long_work_does_not_hold_up_quick_work(jobs: Jobs):
    long = Gate()
    pending(lambda: jobs.ask("long", "long", long, lane="long"))
    assert long.is_running()
    assert ready(lambda: jobs.ask("quick", "quick", lambda: 1)) == 1
    assert [job.key for job in jobs.waiting()] == ["long"]


def test_a_waiting_job_that_is_cancelled_never_begins(jobs: Jobs):
    gate, other = Gate(), Gate()
    pending(lambda: jobs.ask("gate", "gate", gate))
    pending(lambda: jobs.ask("b", "B", other))
    assert jobs.cancel("b")
    with pytest.raises(Failed, match="cancelled") as failed:
        jobs.ask("b", "B", other)
    assert failed.value.was_cancelled
    assert failed.value.key == "b"
    gate.go.set()
    eventually(lambda: not jobs.waiting())
    assert other.runs == 0


def test_a_running_job_that_is_cancelled_stops_at_its_next_step(jobs: Jobs):
    gate = Gate()
    job = pending(lambda: jobs.ask("a", "A", gate)).job
    assert gate.is_running()
    assert jobs.cancel_id(job.id)
    eventually(lambda: not jobs.waiting())
    with pytest.raises(Failed) as failed:
        jobs.ask("a", "A", gate)
    assert failed.value.was_cancelled
    jobs.forget("a")
    gate.go.set()
    ready(lambda: jobs.ask("a", "A", gate))
    assert gate.runs == 2


def test_what_is_not_there_cannot_be_cancelled(jobs: Jobs):
    assert not jobs.cancel("a")
    assert not jobs.cancel_id("0" * 16)


def test_progress_of_bars_is_heard(jobs: Jobs):
    at_half, go = threading.Event(), threading.Event()

    def work() -> None:
        for number in Bar(range(4), what="count", unit="number", show=False):
            if number == 2:
                at_half.set()
                go.wait(PATIENCE)

    job = pending(lambda: jobs.ask("a", "A", work)).job
    assert at_half.wait(PATIENCE)
    progress = job.progress
    go.set()
    assert progress is not None
    assert (progress.what, progress.done, progress.total, progress.unit) == ("count", 2, 4, "number")


def test_an_error_made_on_purpose_is_said_and_remembered(jobs: Jobs):
    runs = []

    def work() -> None:
        runs.append(1)
        raise InputError("length: expected more than 2, got 1")

    for _ in range(3):
        with pytest.raises(Failed, match=r"^length: expected more than 2, got 1$") as failed:
            ready(lambda: jobs.ask("a", "A", work))
        assert not failed.value.was_cancelled
    assert len(runs) == 1


@pytest.mark.parametrize("error", [ValueError("/home/someone/secret.bin"), SystemExit(3), KeyError("x")])
def test_a_defect_is_logged_and_names_no_file_to_the_page(
    jobs: Jobs, error: BaseException, caplog: pytest.LogCaptureFixture
):
    def work() -> None:
        raise error

    with pytest.raises(Failed, match="A failed for a reason that is not known here") as failed:
        ready(lambda: jobs.ask("a", "A", work))
    assert "secret" not in str(failed.value)
    assert "A failed" in caplog.text
    assert type(error).__name__ in caplog.text
    assert ready(lambda: jobs.ask("b", "B", lambda: 5)) == 5  # the thread lives on


def test_too_little_memory_is_said(jobs: Jobs):
    def work() -> None:
        raise MemoryError

    with pytest.raises(Failed, match="not enough memory; try a shorter text"):
        ready(lambda: jobs.ask("a", "A", work))


def test_a_size_that_cannot_be_told_does_not_end_the_thread(jobs: Jobs, caplog: pytest.LogCaptureFixture):
    with pytest.raises(Failed, match="not known here"):
        ready(lambda: jobs.ask("a", "A", lambda: 1, size=lambda value: {}[value]))
    assert "KeyError" in caplog.text
    assert ready(lambda: jobs.ask("b", "B", lambda: 5)) == 5


def test_results_stay_within_memory_and_the_least_recently_used_go(jobs: Jobs):
    for name in "abc":
        ready(lambda name=name: jobs.ask(name, name, lambda: name, size=lambda value: 300))
    assert jobs.kept == 900
    jobs.ask("a", "a", lambda: "never")
    jobs.peek("b")
    jobs.put("d", "d", 300)
    assert jobs.kept == 900
    assert jobs.peek("c") is None
    assert (jobs.peek("a"), jobs.peek("b"), jobs.peek("d")) == ("a", "b", "d")


def test_a_result_larger_than_the_memory_is_kept_alone(jobs: Jobs):
    jobs.put("a", "a", 10)
    jobs.put("b", "b", 5000)
    assert jobs.peek("a") is None
    assert jobs.peek("b") == "b"
    assert jobs.kept == 5000


def test_putting_a_result_again_counts_it_once(jobs: Jobs):
    jobs.put("a", 1, 100)
    jobs.put("a", 2, 200)
    assert jobs.peek("a") == 2
    assert jobs.kept == 200


def test_the_queue_is_bounded_over_both_lanes(jobs: Jobs):
    gates = {lane: Gate() for lane in module.LANES}
    for lane, gate in gates.items():
        pending(lambda lane=lane, gate=gate: jobs.ask(lane, lane, gate, lane=lane))
        assert gate.is_running()
    for number in range(4):
        lane = module.LANES[number % 2]
        pending(lambda number=number, lane=lane: jobs.ask(number, "more", lambda: None, lane=lane))
    with pytest.raises(Busy, match="4 jobs are waiting already"):
        jobs.ask("fifth", "fifth", lambda: None)
    assert pending(lambda: jobs.ask(0, "more", lambda: None)).ahead == 1  # it waits already
    assert jobs.cancel(0)
    pending(lambda: jobs.ask("fifth", "fifth", lambda: None))


def test_waiting_jobs_that_nobody_asks_after_are_dropped(jobs: Jobs, monkeypatch: pytest.MonkeyPatch):
    gate, forgotten, asked = Gate(), Gate(), Gate("asked")
    asked.go.set()
    pending(lambda: jobs.ask("gate", "gate", gate))
    assert gate.is_running()
    job = pending(lambda: jobs.ask("forgotten", "forgotten", forgotten)).job
    pending(lambda: jobs.ask("asked", "asked", asked))
    job.asked -= module.FORGOTTEN + 1
    gate.go.set()
    assert ready(lambda: jobs.ask("asked", "asked", asked)) == "asked"
    assert forgotten.runs == 0
    assert not jobs.waiting()


def test_forgotten_jobs_of_either_lane_make_room(jobs: Jobs):
    gate = Gate()
    pending(lambda: jobs.ask("gate", "gate", gate, lane="long"))
    assert gate.is_running()
    for number in range(4):
        pending(lambda number=number: jobs.ask(number, "more", lambda: None, lane="long")).job.asked -= (
            module.FORGOTTEN + 1
        )
    assert ready(lambda: jobs.ask("quick", "quick", lambda: 1)) == 1


def test_reasons_of_failures_are_bounded(jobs: Jobs):
    gate = Gate()
    pending(lambda: jobs.ask("gate", "gate", gate))
    assert gate.is_running()
    for number in range(FAILURES + 5):
        pending(lambda number=number: jobs.ask(number, "x", lambda: None))
        jobs.cancel(number)
    pending(lambda: jobs.ask(0, "x", lambda: None))  # its reason is forgotten
    with pytest.raises(Failed):
        jobs.ask(FAILURES + 4, "x", lambda: None)


def test_closing_stops_what_runs_and_ends_the_threads():
    jobs = Jobs(memory=10, longest=4)
    gate, waits = Gate(), Gate()
    pending(lambda: jobs.ask("a", "A", gate))
    pending(lambda: jobs.ask("b", "B", waits))
    assert gate.is_running()
    threads = [thread for thread in threading.enumerate() if thread in jobs._threads]
    assert len(threads) == len(module.LANES)
    jobs.close()
    assert not any(thread.is_alive() for thread in threads)
    assert waits.runs == 0


def test_no_thread_is_begun_before_there_is_work():
    """So that a server may fork after it has loaded the app."""
    before = threading.active_count()
    jobs = Jobs(memory=10, longest=4)
    assert threading.active_count() == before
    jobs.close()
