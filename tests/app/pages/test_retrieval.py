"""The page of retrieval, as plain functions on the demo model: the run, its heads, a trial, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dash import no_update

import interp
from interp.errors import InputError
from interp_app.jobs import Failed, Job, Pending
from interp_app.pages import PAGES
from interp_app.pages import retrieval as page
from interp_app.pages import retrieval_run as of_run
from interp_app.pages.retrieval_steps import payload
from interp_app.pages.retrieval_table import shown, told
from interp_app.panels import answer, python_of
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready

RETRIEVAL_HEADS = ["L2H4", "L2H2", "L2H3", "L2H5"]


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    made = Workspace(AppSettings())
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(workspace: Workspace):
    return ready(lambda: of_run.result(workspace, View()))


def words(component: object) -> str:
    """All text of a component, in order."""
    if isinstance(component, str):
        return component
    if isinstance(component, list | tuple):
        return "".join(map(words, component))
    return words(getattr(component, "children", None) or "")


def addresses(component: object) -> list[str]:
    if isinstance(component, list | tuple):
        return [found for each in component for found in addresses(each)]
    own = [component.href] if getattr(component, "href", None) else []  # pyright: ignore[reportAttributeAccessIssue]
    return own + addresses(getattr(component, "children", None) or [])


def test_it_stands_before_the_scans():
    paths = [each.path for each in PAGES]
    assert paths.index("/retrieval") < paths.index("/scans")


def test_the_run_is_that_of_a_notebook(workspace: Workspace, run):
    again = interp.heads.retrieval(interp.load("demo"), longest=1024, depths=(0, 50, 100), needles=2, progress=False)
    assert run.trials.equals(again.trials)
    assert run.trial_scores.tobytes() == again.trial_scores.tobytes()
    assert page.grids(workspace, View()) == again.plot()


def test_the_text_of_the_view_has_no_part_in_it(workspace: Workspace, run):
    assert of_run.result(workspace, View(text="twice", beyond=True)) is run


def test_full_is_the_run_of_the_method():
    demo = interp.load("demo")
    assert of_run.options(demo, View(trials="full")) == {}
    assert of_run.options(demo, View())["longest"] == demo.shape.context == 1024


def test_sizes_that_do_not_exist_are_refused():
    assert View.of({"trials": "full"}).trials == "full"
    with pytest.raises(InputError, match="trials: expected one of small, full, got huge"):
        View.of({"trials": "huge"})


def test_the_strongest_heads_link_to_their_page(workspace: Workspace, run):
    links = addresses(page.strongest(workspace, View(trial=3)))
    assert links[:4] == [f"/head?head={name}&trial=3" for name in RETRIEVAL_HEADS]
    assert len(links) == page.STRONGEST


def test_a_trial_is_replayed_with_the_retrieval_heads(workspace: Workspace, run):
    found = ready(lambda: of_run.replayed(workspace, View(trial=3)))
    row = run.trials.iloc[3]
    assert found.heads == tuple(RETRIEVAL_HEADS)
    assert (found.text, found.asked, found.recall) == (row["text"], row["answer"], row["recall"])
    share = found.copied.sum(axis=0) / len(found.answer)
    assert share.tolist() == [run.trial_scores[3, 2, head] for head in (4, 2, 3, 5)]
    assert found.asked in words(told(found))
    text = words(page.STEPS.draw(workspace, View(trial=3)))
    assert text.count("●") == found.copied.sum()


def test_each_step_says_where_every_head_looks(workspace: Workspace, run):
    found = ready(lambda: of_run.replayed(workspace, View(trial=3)))
    sent = payload(found)
    assert len(sent["steps"]) == len(sent["new"]) == len(found.new)
    strip, start = sent["strip"], found.statement[0] - 24
    assert "".join(token for token, _ in strip) == "".join(found.prompt[start : start + len(strip)])
    assert [at + start for at, (_, part) in enumerate(strip) if part == "answer"] == list(found.answer)
    for step, each in enumerate(sent["steps"]):
        assert each["recall"] == pytest.approx(found.recall_by_step[step], abs=0.05)
        shade = dict(each["shade"])
        for number, head in enumerate(each["heads"]):
            assert head["position"] == found.position[step, number, 0]
            assert head["weight"] == pytest.approx(found.weight[step, number, 0], abs=5.1e-4)
            assert head["copied"] == found.copied[: step + 1, number].sum()
            assert (head["mark"] == "●") == found.copied[step, number]
            if head["at"] >= 0:
                assert head["at"] + start == head["position"]
                assert shade[head["at"]] >= head["weight"] - 6e-4
            else:
                assert not start <= head["position"] < start + len(strip)
        for at, weight in each["shade"]:
            of_needle = found.on_needle[step][:, [j == at + start for j in found.statement]]
            assert weight >= round(float(of_needle.max(initial=0.0)), 4)
    assert sent["steps"][-1]["writing"] == found.text.strip()


def test_all_steps_are_small_enough_to_be_sent_at_once(workspace: Workspace, run):
    longest = run.trials["length"].idxmax()
    found = ready(lambda: of_run.replayed(workspace, View(trial=int(longest))))
    assert len(json.dumps(payload(found))) < 100_000


def test_trials_that_do_not_exist_are_refused(workspace: Workspace, run):
    with pytest.raises(InputError, match="trial: there are 30 trials, 0 to 29, got 30"):
        of_run.replayed(workspace, View(trial=30))


def test_what_follows_the_run_lists_its_trials(workspace: Workspace, run):
    assert page.rest(workspace, {"trials": "full"}) is None
    stack = page.rest(workspace, {"trial": 99})
    choose = next(each for each in stack._traverse() if getattr(each, "id", None) == "retrieval-choose")
    assert choose.value is None
    assert len(choose.data) == 30
    assert choose.data[3]["label"] == "3: 195 tokens, depth 50 %, needle 1: found, recall 100 %"


@pytest.mark.parametrize("value", [None, "-1", "x", [], "5"])
def test_choosing_what_is_no_other_trial_changes_nothing(value: object):
    assert page.chosen(value, {"trial": 5}) is no_update


def test_choosing_a_trial_changes_the_view():
    # It is replayed from its beginning.
    assert page.chosen("7", {"detector": "sink", "step": 5}) == {"detector": "sink", "trial": 7}


def test_a_click_opens_a_head_or_chooses_the_first_trial_of_a_cell(workspace: Workspace, run):
    head = {"points": [{"curveNumber": 1, "x": 5, "y": 2}]}
    assert page.clicked(workspace, head, {}) == (None, "/head?head=L2H5")
    trial, address = page.clicked(workspace, {"points": [{"curveNumber": 0, "x": 2, "y": 3}]}, {})
    assert address is None
    row = run.trials.iloc[int(str(trial))]
    assert (row["length"], row["depth"], row["needle"]) == (779, 100.0, 0)


@pytest.mark.parametrize(
    "click",
    [
        None,
        {},
        {"points": []},
        {"points": [{"curveNumber": 1}]},
        {"points": [{"curveNumber": 1, "x": "javascript:1", "y": 0}]},
        {"points": [{"curveNumber": 1, "x": 0, "y": 99}]},
        {"points": [{"curveNumber": 0, "x": 99, "y": 0}]},
    ],
)
def test_clicks_that_mean_nothing_do_nothing(workspace: Workspace, run, click: object):
    assert page.clicked(workspace, click, {}) == (None, None)


def test_the_python_of_a_replay_runs(workspace: Workspace, run):
    names: dict[str, object] = {}
    source = python_of(workspace, page.REPLAY, {"trial": 3})
    exec(source.replace("interp.heads.replay(", "figure = interp.heads.replay("), names)  # noqa: S102 - the page's own
    assert names["figure"] == ready(lambda: of_run.replayed(workspace, View(trial=3))).plot()


def test_a_run_that_is_there_is_shown_by_a_link_at_once(workspace: Workspace, run):
    store = {"view": page.RUN.seen(View()), "begun": True}
    drawn, state, *_ = answer(workspace, page.RUN, {}, store, is_begun=False, is_dark=True)
    assert drawn.figure.data
    assert state["is_done"]
    assert answer(workspace, page.RUN, {}, {}, is_begun=False)[0] is no_update
    again = answer(workspace, page.RUN, {}, state, is_begun=False, is_dark=False)
    assert again[0].figure.data


def in_its_middle(workspace: Workspace, view: View) -> Job:
    """The job of a run that has done two of its trials or more, and not all."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with pytest.raises(Pending) as asked:
            of_run.result(workspace, view)
        progress = asked.value.job.progress
        if progress is not None and progress.unit == "trial" and progress.done >= 2:
            assert progress.done < 75
            return asked.value.job
        time.sleep(0.02)
    raise TimeoutError


def test_a_run_is_cancelled_in_its_middle_and_can_be_begun_again():
    workspace = Workspace(AppSettings())
    view = View(trials="full")
    try:
        job = in_its_middle(workspace, view)
        assert workspace.jobs.cancel_id(job.id)
        with pytest.raises(Failed, match="cancelled") as ended:
            ready(lambda: of_run.result(workspace, view), 10)
        assert ended.value.was_cancelled
        assert of_run.held(workspace, view) is None
        workspace.jobs.forget(ended.value.key)
        with pytest.raises(Pending):
            of_run.result(workspace, view)
    finally:
        workspace.close()


def test_a_model_that_cannot_write_is_refused_with_the_reason(encoder_folder: Path):
    workspace = Workspace(AppSettings(models=(str(encoder_folder),)))
    try:
        with pytest.raises(Failed, match="needles are looked for by models that read and write one text"):
            ready(lambda: of_run.result(workspace, View()))
    finally:
        workspace.close()


def test_white_space_of_tokens_is_seen():
    assert shown(" a\n") == "␣a↵"
