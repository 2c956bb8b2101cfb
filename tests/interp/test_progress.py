"""A watcher hears of work in its thread, shown or not, and stops it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import interp
from interp.models.hooked import HookedModel
from interp.progress import Bar, Progress, Stopped, Watcher, watched
from tests.interp.conftest import Build


@pytest.fixture
def model(own_model: Build) -> HookedModel:
    return interp.load(own_model("llama"))


@pytest.fixture
def heard() -> list[Progress]:
    return []


@pytest.fixture
def watcher(heard: list[Progress]) -> Iterator[Watcher]:
    watcher = Watcher(heard.append)
    with watched(watcher):
        yield watcher


def test_a_hidden_bar_is_counted_for_the_watcher(watcher: Watcher, heard: list[Progress]):
    for _ in Bar(range(3), what="three", unit="thing", show=False):
        pass
    assert heard == [Progress("three", done, 3, "thing") for done in (0.0, 1.0, 2.0, 3.0)]


def test_updates_of_a_hidden_bar_are_counted(watcher: Watcher, heard: list[Progress]):
    with Bar(total=10, initial=2, what="ten", unit="token", show=False) as bar:
        bar.update(5)
    assert [step.done for step in heard] == [2.0, 7.0]


def test_only_the_outermost_bar_is_heard(watcher: Watcher, heard: list[Progress]):
    for _ in Bar(range(2), what="outer", unit="trial", show=False):
        for _ in Bar(range(5), what="inner", unit="token", show=False):
            pass
    assert {step.what for step in heard} == {"outer"}
    for _ in Bar(range(1), what="next", unit="trial", show=False):
        pass
    assert heard[-1].what == "next"


def test_without_a_watcher_nothing_changes(capsys: pytest.CaptureFixture[str]):
    assert list(Bar(range(3), what="three", unit="thing", show=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(Bar(range(3), what="three", unit="thing", show=True)) == [0, 1, 2]
    assert "three" in capsys.readouterr().err


def test_the_watcher_hears_of_its_thread_alone(watcher: Watcher, heard: list[Progress]):
    other = threading.Thread(target=lambda: list(Bar(range(3), what="other", unit="thing", show=False)))
    other.start()
    other.join()
    assert heard == []


def test_work_stops_at_the_next_step(watcher: Watcher):
    seen = []

    def work() -> None:
        for number in Bar(range(10), what="ten", unit="thing", show=False):
            seen.append(number)
            if number == 3:
                watcher.stop()

    with pytest.raises(Stopped):
        work()
    assert seen == [0, 1, 2, 3]


def test_what_catches_errors_does_not_catch_a_stop(watcher: Watcher):
    assert not issubclass(Stopped, Exception)


def test_a_run_stops_between_its_layers_and_leaves_the_model_as_it_was(model: HookedModel):
    ids = [[1, 2, 3, 4]]
    before = model(ids).logits
    layers = []

    class StopAtSecond(Watcher):
        def check(self) -> None:
            layers.append(len(layers))
            if len(layers) == 2:
                self.stop()
            super().check()

    with watched(StopAtSecond()), pytest.raises(Stopped):
        model.capture(ids)
    assert layers == [0, 1]
    assert model(ids).logits.equal(before)
    assert len(model.capture(ids)["entropy"]) == len(model.layers)


def test_a_scan_is_heard_of_and_stopped(model: HookedModel, heard: list[Progress], watcher: Watcher):
    scores = interp.scan(model, "previous_token", samples=2, progress=False)
    assert heard[-1].done == heard[-1].total
    watcher.stop()
    with pytest.raises(Stopped):
        interp.scan(model, "previous_token", samples=2, progress=False)
    assert scores.detectors == ["previous_token"]
