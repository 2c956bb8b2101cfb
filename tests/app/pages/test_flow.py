"""The Flow page as plain functions on the demo model: every figure against the call of a notebook, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import interp
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp_app.jobs import Failed
from interp_app.pages import PAGES, flow_methods
from interp_app.pages import flow as page
from interp_app.pages import flow_calls as calls
from interp_app.panels import answer, python_of
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready

TEXT = "The secret number of Clara is 48213. The lamp was out. The secret number of Clara is 482"
AT = 17


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    made = Workspace(AppSettings(text=TEXT))
    yield made
    made.close()


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("demo")


def numbers(figure: Any) -> list[np.ndarray]:
    """Heights of bars and colours of heat maps, trace by trace."""
    given = [trace.z if trace.type == "heatmap" else trace.y for trace in figure.data]
    return [np.asarray(each, dtype=np.float64) for each in given if each is not None]


def same(figure: Any, expected: Any) -> None:
    found, wanted = numbers(figure), numbers(expected)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert figure.layout.to_plotly_json() | {"width": 0} == expected.layout.to_plotly_json() | {"width": 0}
    assert figure.layout.width in (None, expected.layout.width)


def test_the_page_is_in_the_navigation():
    assert "/flow" in [each.path for each in PAGES]


@pytest.mark.parametrize(
    ("method", "notebook"),
    [
        ("rollout", lambda model, at: interp.flow.rollout(model, TEXT, at).plot()),
        ("attention_flow", lambda model, at: interp.flow.attention_flow(model, TEXT, at).plot()),
        ("relevance", lambda model, at: interp.flow.relevance(model, TEXT, at=at).plot()),
        ("input_gradients", lambda model, at: interp.flow.input_gradients(model, TEXT, at=at).plot()),
        ("norm_attention", lambda model, at: interp.flow.norm_attention(model, TEXT, at).plot()),
    ],
)
@pytest.mark.parametrize("at", [AT, -1])
def test_the_weights_are_those_of_a_notebook(workspace: Workspace, model: HookedModel, method: str, notebook, at: int):
    figure = ready(lambda: page.weights(workspace, View(method=method, at=at)))
    same(figure, notebook(model, at))


def test_a_figure_that_is_wider_than_a_panel_takes_the_panels_width(workspace: Workspace):
    figures = [ready(lambda at=at: page.levels(workspace, View(text="prose", at=at))) for at in (5, 200)]
    assert [figure.layout.width is None for figure in figures] == [False, True]


def test_levels_are_those_of_a_notebook_whatever_the_method(workspace: Workspace, model: HookedModel):
    figure = ready(lambda: page.levels(workspace, View(method="relevance", at=AT)))
    same(figure, interp.flow.rollout(model, TEXT, AT, every_level=True).plot())


def test_methods_side_by_side_and_their_correlations_are_those_of_a_notebook(workspace: Workspace, model: HookedModel):
    results = {
        "raw attention": interp.flow.rollout(model, TEXT, AT, layers=[3], residual=False),
        "rollout": interp.flow.rollout(model, TEXT, AT),
        "attention flow": interp.flow.attention_flow(model, TEXT, AT),
    }
    same(ready(lambda: flow_methods.methods(workspace, View(at=AT))), interp.flow.side_by_side(results))
    same(ready(lambda: flow_methods.agreement(workspace, View(at=AT))), interp.flow.compare(results).plot())


def test_routes_follow_the_threshold(workspace: Workspace, model: HookedModel):
    figure = ready(lambda: page.routes(workspace, View(threshold=0.02)))
    expected = interp.flow.routes(model, TEXT, threshold=0.02)
    same(figure, expected.plot())
    few, many = (len(ready(lambda t=t: page.routes_table(workspace, View(threshold=t)))) for t in (0.04, 0.02))
    assert few < many == len(expected.edges)


def test_faithfulness_is_that_of_a_notebook(workspace: Workspace, model: HookedModel):
    pieces = [calls.ids_of(window) for window in model.windows(TEXT, calls.PIECE)[: calls.PIECES]]
    expected = interp.flow.faithfulness(model, pieces, progress=False)
    found = ready(lambda: flow_methods.faithfulness_table(workspace, View()))
    assert found.equals(expected.table())
    same(flow_methods.faithfulness(workspace, View()), expected.plot())


@pytest.mark.parametrize("panel", [each for each in page.PANELS if each.python], ids=lambda panel: panel.name)
def test_what_is_copied_as_python_runs_and_gives_the_figure(workspace: Workspace, panel: Any):
    view = View(at=AT, threshold=0.05)
    shown = ready(lambda: panel.draw(workspace, view))
    *lines, last = python_of(workspace, panel, view.to_dict()).strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # noqa: S102 - our own code
    same(eval(last, names), shown)  # noqa: S307


@pytest.mark.parametrize("panel", [each for each in page.PANELS if each.table], ids=lambda panel: panel.name)
def test_a_table_has_rows_wherever_there_is_one(workspace: Workspace, panel: Any):
    assert len(ready(lambda: panel.table(workspace, View(at=AT)))) > 0


def test_the_table_of_rollout_is_of_the_input_alone(workspace: Workspace):
    frame = ready(lambda: page.weights_table(workspace, View(at=AT)))
    assert set(frame["level"]) == {"0"}
    assert frame["weight"].sum() == pytest.approx(1, abs=1e-5)
    assert len(set(ready(lambda: page.levels_table(workspace, View(at=AT)))["level"])) == 5


def test_tokens_around_the_output_can_be_jumped_to(workspace: Workspace):
    buttons = ready(lambda: page.tokens(workspace, View(at=AT))).children
    given = [button.to_plotly_json()["props"] for button in buttons]
    assert [each["data-jump"] for each in given] == [str(n) for n in range(len(given))]
    assert [n for n, each in enumerate(given) if each.get("aria-current")] == [AT]


def test_of_a_long_text_the_tokens_around_the_output_are_listed_alone(workspace: Workspace):
    buttons = ready(lambda: page.tokens(workspace, View(text="prose", at=400))).children
    given = [int(button.to_plotly_json()["props"]["data-jump"]) for button in buttons]
    assert given[1:-1] == list(range(400 - page.AROUND, 400 + page.AROUND + 1))
    assert given[0] < given[1]
    assert given[-1] > given[-2]


def test_a_position_beyond_the_text_is_refused(workspace: Workspace):
    for panel in page.PANELS:
        if panel is flow_methods.FAITHFULNESS:
            continue
        with pytest.raises(InputError, match=r"output position: the text has \d+ tokens, 0 to \d+.*got 5,000"):
            ready(lambda panel=panel: panel.draw(workspace, View(at=5000)))


def test_an_unknown_method_is_refused_with_the_nearest(workspace: Workspace):
    with pytest.raises(InputError, match=r"method: 'rolout' is not one of this page.*rollout"):
        ready(lambda: page.weights(workspace, View(method="rolout")))
    content, *_ = answer(workspace, page.WEIGHTS, {"method": "rolout"}, {})
    assert "rolout" in content.children[0].children


@pytest.mark.parametrize(
    "value", [1, "1", 1.5, -0.1, "-1", float("nan"), "nan", "1e", "e", "1e400", True, [0.1], "0,1", "0" * 25]
)
def test_a_threshold_that_routes_cannot_have_is_refused(value: Any):
    with pytest.raises(InputError, match="threshold: expected a number from 0 to below 1"):
        View.of({"threshold": value})


@pytest.mark.parametrize(
    ("value", "expected"), [("0.02", 0.02), (0.02, 0.02), (0, 0.0), (".5", 0.5), ("0", 0.0), ("1e-7", 1e-7)]
)
def test_a_threshold_is_kept_in_the_address(value: Any, expected: float):
    view = View.of({"threshold": value})
    assert view.threshold == expected
    assert View.of_search(view.to_search()) == view


def test_attention_flow_keeps_the_largest_edges_of_long_texts_and_says_so(workspace: Workspace):
    short, long = (
        View(text="prose", method="attention_flow", at=100),
        View(text="prose", method="attention_flow", at=270),
    )
    assert ready(lambda: calls.call_of(workspace, short)).options["keep"] is None
    assert ready(lambda: calls.call_of(workspace, long)).options["keep"] == calls.KEEP
    said = [each.children for each in ready(lambda: page.about(workspace, long)).children]
    assert any(f"keep={calls.KEEP}" in line for line in said)
    assert any("below the exact ones" in line for line in said)


def test_attention_flow_is_not_compared_where_it_is_too_long(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "MOST_FLOWED", AT)
    assert list(ready(lambda: calls.calls_side_by_side(workspace, View(at=AT)))) == ["raw attention", "rollout"]


def test_what_a_model_does_not_allow_is_said_in_the_words_of_interp(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: Any, **options: Any) -> Any:
        raise InputError("routes need a residual stream that is a plain sum")

    monkeypatch.setattr(interp.flow, "routes", refuse)
    with pytest.raises(Failed, match="plain sum"):
        ready(lambda: page.routes(workspace, View(threshold=0.11)))
