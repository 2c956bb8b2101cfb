"""What a panel answers: waiting, drawn, refused, failed, begun again, and nothing where nothing is new."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
import pandas as pd
import plotly.graph_objects as go
import pytest
from dash import dcc, no_update

from interp.errors import InputError
from interp.progress import Bar, step
from interp_app.jobs import Failed, Pending
from interp_app.panel import Panel, panel_box
from interp_app.panels import answer, in_scheme, python_of, table_of
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready

DONE, NOT_NOW = (None, "false"), (no_update, no_update, no_update, "false")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """One without a model: nothing here needs one."""
    made = Workspace(AppSettings(scans=tmp_path))
    yield made
    made.close()


class Slow:
    """A panel's drawing whose work ends when it is let go, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go, self.error, self.runs = threading.Event(), threading.Event(), error, 0

    def _work(self) -> str:
        self.runs += 1
        for _ in Bar(range(2), what="count", unit="number", show=False):
            self.begun.set()
            while not self.go.wait(0.005):
                step()
        if self.error is not None:
            raise self.error
        return "drawn"

    def __call__(self, workspace: Workspace, view: View) -> str:
        return workspace.jobs.ask(("slow", view.head), "slow work", self._work)


def panel_of(draw: Any, **more: Any) -> Panel:
    return Panel("tried", "Tried", "Explained.", ("head",), draw, **more)


def ended(workspace: Workspace, panel: Panel, state: Any = None, **more: Any) -> tuple[Any, ...]:
    """The answer once it is not pending any more."""

    def ask() -> tuple[Any, ...]:
        found = answer(workspace, panel, {}, state or {}, **more)
        if found[3] == "true":
            raise Pending(_NO_JOB, 0)
        return found

    return ready(ask)


class _NoJob:
    title, state = "between", "done"


_NO_JOB: Any = _NoJob()


def text_of(component: Any) -> str:
    """All text of a component."""
    if isinstance(component, list | tuple):
        return " ".join(map(text_of, component))
    if isinstance(component, str):
        return component
    return text_of(component.children) if getattr(component, "children", None) is not None else ""


def parts(component: Any, kind: type) -> list[Any]:
    """The components of a kind within one."""
    if isinstance(component, list | tuple):
        return [found for each in component for found in parts(each, kind)]
    own = [component] if isinstance(component, kind) else []
    return own + (parts(component.children, kind) if getattr(component, "children", None) is not None else [])


def test_while_something_is_made_it_is_busy_and_shows_how_far_it_is(workspace: Workspace):
    slow = Slow()
    panel = panel_of(slow)
    children, seen, job, busy = answer(workspace, panel, {}, {})
    assert busy == "true"
    assert isinstance(job, str)
    assert "is_done" not in seen
    assert slow.begun.wait(10)
    children, *_ = answer(workspace, panel, {}, seen)
    assert "count: 0 of 2 numbers" in text_of(children)
    assert [button.id for button in parts(children, dmc.Button)] == [{"panel": "tried", "part": "cancel"}]
    slow.go.set()
    children, seen, *rest = ended(workspace, panel, seen)
    assert children == "drawn"
    assert seen["is_done"]
    assert tuple(rest) == DONE


def test_a_job_that_waits_says_how_many_are_before_it(workspace: Workspace):
    first = Slow()
    answer(workspace, panel_of(first), {"head": "L0H0"}, {})
    assert first.begun.wait(10)
    children, *_ = answer(workspace, panel_of(Slow()), {"head": "L0H1"}, {})
    assert "slow work: waiting, 1 before it" in text_of(children)


def test_nothing_is_sent_again_that_is_there(workspace: Workspace):
    draws = []
    panel = panel_of(lambda workspace, view: draws.append(view) or "drawn")
    _, seen, *_ = answer(workspace, panel, {"head": "L1H2"}, {})
    assert answer(workspace, panel, {"head": "L1H2"}, seen) == NOT_NOW
    assert answer(workspace, panel, {"head": "L1H2", "detector": "sink"}, seen) == NOT_NOW  # it does not depend on it
    assert len(draws) == 1
    assert answer(workspace, panel, {"head": "L1H3"}, seen)[0] == "drawn"
    assert answer(workspace, panel, {"head": "L1H2"}, seen, is_dark=True)[0] == "drawn"


def test_what_cannot_be_shown_is_said_without_a_button(workspace: Workspace):
    def draw(workspace: Workspace, view: View) -> Any:
        raise InputError("head: expected one of 4, got 9")

    children, seen, *rest = answer(workspace, panel_of(draw), {}, {})
    assert "head: expected one of 4, got 9" in text_of(children)
    assert not parts(children, dmc.Button)
    assert tuple(rest) == DONE
    assert seen["is_done"]


def test_a_wrong_view_is_said(workspace: Workspace):
    for view in ({"head": "<img src=x onerror=alert(1)>"}, ["head"], "head", 7):
        children, _, *rest = answer(workspace, panel_of(lambda *_: "drawn"), view, {})  # pyright: ignore[reportArgumentType]
        assert "the address is not one of this page" in text_of(children)
        assert isinstance(children, dmc.Alert)  # text within a component, never HTML
        assert tuple(rest) == DONE


def test_a_job_that_failed_can_be_tried_again(workspace: Workspace):
    slow = Slow(InputError("the text is too long"))
    slow.go.set()
    panel = panel_of(slow)
    children, seen, *_ = ended(workspace, panel)
    assert "the text is too long" in text_of(children)
    assert "Try again" in text_of(children)
    assert answer(workspace, panel, {}, seen) == NOT_NOW
    assert slow.runs == 1
    slow.error = None
    _, seen, _, busy = answer(workspace, panel, {}, seen, is_retried=True)
    assert busy == "true"
    assert ended(workspace, panel, seen)[0] == "drawn"
    assert slow.runs == 2


def test_a_job_that_was_cancelled_can_be_begun_again(workspace: Workspace):
    slow = Slow()
    panel = panel_of(slow)
    _, seen, job, *_ = answer(workspace, panel, {}, {})
    assert slow.begun.wait(10)
    assert workspace.jobs.cancel_id(job)
    children, seen, *_ = ended(workspace, panel, seen)
    assert "Begin again" in text_of(children)
    slow.go.set()
    answer(workspace, panel, {}, seen, is_retried=True)
    assert ended(workspace, panel, seen | {"is_done": False})[0] == "drawn"


def test_a_full_queue_is_said_and_can_be_tried_again(tmp_path: Path):
    workspace = Workspace(AppSettings(scans=tmp_path, longest_queue=1))
    try:
        running, waits = Slow(), Slow()
        answer(workspace, panel_of(running), {"head": "L0H0"}, {})
        assert running.begun.wait(10)
        answer(workspace, panel_of(waits), {"head": "L0H1"}, {})
        children, *rest = answer(workspace, panel_of(Slow()), {"head": "L0H2"}, {})
        assert "1 jobs are waiting already" in text_of(children)
        assert "Try again" in text_of(children)
        assert tuple(rest[1:]) == DONE
    finally:
        workspace.close()


def test_a_defect_is_logged_and_does_not_leave_the_panel_busy(workspace: Workspace, caplog: pytest.LogCaptureFixture):
    def draw(workspace: Workspace, view: View) -> Any:
        raise RuntimeError("/srv/secret/place")

    children, _, *rest = answer(workspace, panel_of(draw), {}, {})
    assert tuple(rest) == DONE
    assert "secret" not in text_of(children)
    assert "the server's log has it" in text_of(children)
    assert "/srv/secret/place" in caplog.text


def test_a_panel_with_a_button_waits_for_it(workspace: Workspace):
    slow = Slow()
    slow.go.set()
    panel = panel_of(slow, button="Run it")
    assert answer(workspace, panel, {}, {}, is_begun=False) == NOT_NOW
    assert slow.runs == 0
    answer(workspace, panel, {}, {}, is_retried=True)
    children, seen, *_ = ended(workspace, panel, {"begun": True, "view": {"head": ""}, "dark": False})
    assert children == "drawn"
    assert seen["begun"]
    # Another head: what was begun is not begun for it.
    assert answer(workspace, panel, {"head": "L1H1"}, seen) == (None, {}, None, "false")
    assert slow.runs == 1
    # The other scheme draws what is there again.
    assert answer(workspace, panel, {}, seen, is_dark=True)[0] == "drawn"


def test_a_state_that_is_forged_does_no_harm(workspace: Workspace):
    for state in ([1], "x", 5):
        assert answer(workspace, panel_of(lambda *_: "drawn"), {}, state)[0] == "drawn"  # pyright: ignore[reportArgumentType]


def test_figures_become_graphs_in_the_scheme_of_the_page(workspace: Workspace):
    panel = panel_of(lambda *_: go.Figure(go.Bar(y=[1, 2])))
    light, *_ = answer(workspace, panel, {}, {})
    dark, *_ = answer(workspace, panel, {}, {}, is_dark=True)
    assert isinstance(light, dcc.Graph)
    assert light.id == {"panel": "tried", "part": "graph"}  # pyright: ignore[reportAttributeAccessIssue]
    assert light.figure.layout.font.color != dark.figure.layout.font.color  # pyright: ignore[reportAttributeAccessIssue]


def test_a_figure_that_is_kept_is_not_changed_for_a_dark_page():
    figure = go.Figure(go.Bar(y=[1]))
    before = figure.to_json()
    in_scheme(figure, is_dark=True)
    assert figure.to_json() == before


def test_numbers_are_downloaded_as_csv(workspace: Workspace):
    frame = pd.DataFrame({"token": ['a"b,c\n', "<script>", "\u202eabc"], "value": [1.5, float("nan"), 2.0]})
    sent = table_of(workspace, panel_of(lambda *_: None, table=lambda *_: frame), {})
    assert sent["filename"] == "tried.csv"
    import io

    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(sent["content"])), frame)


def test_where_there_are_no_numbers_nothing_is_sent(workspace: Workspace):
    def table(workspace: Workspace, view: View) -> pd.DataFrame:
        raise InputError("no")

    assert table_of(workspace, panel_of(lambda *_: None), {}) is no_update
    assert table_of(workspace, panel_of(lambda *_: None, table=table), {}) is no_update


def test_the_call_is_copied_or_why_there_is_none(workspace: Workspace):
    def python(workspace: Workspace, view: View) -> str:
        if view.head:
            raise InputError("there is no such head")
        return "import interp"

    panel = panel_of(lambda *_: None, python=python)
    assert python_of(workspace, panel, {}) == "import interp"
    assert python_of(workspace, panel, {"head": "L1H1"}) == "# there is no such head"
    assert python_of(workspace, panel_of(lambda *_: None), {}) is no_update


def test_tools_have_names_for_screen_readers():
    box = panel_box(panel_of(lambda *_: None, table=lambda *_: pd.DataFrame(), python=lambda *_: ""))
    names = {button.children: button.to_plotly_json()["props"].get("aria-label") for button in parts(box, dmc.Button)}
    assert set(names) == {"PNG", "SVG", "CSV", "Python"}
    assert all(names.values())
    assert len(set(names.values())) == 4


def test_failed_carries_what_to_forget(workspace: Workspace):
    slow = Slow(InputError("no"))
    slow.go.set()
    with pytest.raises(Failed) as failed:
        ready(lambda: slow(workspace, View()))
    assert failed.value.key == ("slow", "")
