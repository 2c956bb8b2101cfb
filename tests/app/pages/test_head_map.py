"""The map of the Head page as plain functions on the demo model: parts of it, steps of the zoom, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from dash import no_update

from interp_app.pages import head_map
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.pages.heads import HOSTILE, dense, drawn, words
from tests.app.ready import ready


def test_a_short_span_shows_the_weights_themselves(workspace: Workspace, passage: View):
    region, why = ready(lambda: head_map.region_of(workspace, passage.but(rows="40-60", cols="10-50")))
    assert (region.rows, region.cols, region.block, why) == ((40, 60), (10, 50), 1, "")
    expected = dense(workspace, passage)[40:60, 10:50]
    hidden = np.arange(10, 50) > np.arange(40, 60)[:, None]
    assert (np.isnan(region.values) == hidden).all()
    # Scores and weights in float32: some ten roundings of 6e-8 each.
    np.testing.assert_allclose(region.values[~hidden], expected[~hidden], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", ["weights", "value", "no_sink"])
def test_a_pyramid_shows_what_is_scored_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, op: str, weighting: str
):
    for rows in ("", "200-700"):
        view = View(head="L2H5", op=op, weighting=weighting, rows=rows, cols=rows)
        at_once, _ = ready(lambda view=view: head_map.region_of(workspace, view))
        with monkeypatch.context() as patch:
            patch.setattr(head_map, "AT_ONCE", 0)
            made, _ = ready(lambda view=view: head_map.region_of(workspace, view))
        assert (made.rows, made.cols, made.block) == (at_once.rows, at_once.cols, at_once.block)
        # A level's mean is one of means: a few roundings more in float32.
        np.testing.assert_allclose(made.values, at_once.values, rtol=2e-5, atol=1e-8)


def test_spans_end_with_the_text_and_those_beyond_it_show_all(workspace: Workspace, passage: View):
    tokens = len(ready(lambda: workspace.reading(passage)).tokens)
    region, why = ready(lambda: head_map.region_of(workspace, passage.but(rows=f"{tokens - 9}-99999", cols="0-20")))
    assert (region.rows, region.cols, why) == ((tokens - 9, tokens), (0, 20), "")
    region, why = ready(lambda: head_map.region_of(workspace, passage.but(rows="5000-6000")))
    assert region.rows == region.cols == (0, tokens)
    assert why == f"rows: the text has {tokens} tokens, and 5,000 to 5,999 are asked for; all are shown"
    assert why in words(drawn(workspace, head_map.MAP, passage.but(rows="5000-6000")))


def test_a_step_of_the_zoom_sends_a_figure_of_what_is_asked(workspace: Workspace, passage: View):
    ready(lambda: head_map.region_of(workspace, passage))
    before = head_map._state(passage, False)
    asked = passage.but(rows="30-60", cols="0-30", colours="fixed").to_dict()
    figure, state, said, is_done = head_map.zoomed(workspace, asked, before, is_dark=False)
    assert figure.layout.meta == {"rows": (30, 60), "cols": (0, 30), "shape": (figure.layout.meta["shape"][0],) * 2}
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0.0, 1.0)
    assert (state["rows"], said, is_done) == ("30-60", None, True)
    again = head_map.zoomed(workspace, asked, state, is_dark=False)
    assert again == (no_update, no_update, no_update, True)


def test_another_head_is_left_to_the_panel(workspace: Workspace, passage: View):
    before = head_map._state(passage, False)
    asked = passage.but(head="L1H0", rows="0-20").to_dict()
    assert head_map.zoomed(workspace, asked, before, is_dark=False)[0] is no_update
    assert head_map.zoomed(workspace, passage.to_dict(), before, is_dark=True)[0] is no_update


def test_what_the_address_cannot_hold_is_said_beside_the_map(workspace: Workspace, passage: View):
    figure, _, said, _ = head_map.zoomed(workspace, {"rows": "9-3"}, head_map._state(passage, False), is_dark=False)
    assert figure is no_update
    assert "rows: expected first-end such as 0-512, got 9-3" in words(said)


def test_the_table_of_the_map_is_what_is_shown(workspace: Workspace, passage: View):
    frame = ready(lambda: head_map.table(workspace, passage.but(rows="20-22", cols="0-21")))
    assert len(frame) == 21 + 21
    np.testing.assert_allclose(frame["value"], dense(workspace, passage)[20:22, :21].ravel(), rtol=1e-5, atol=1e-7)


def test_tokens_of_hostile_texts_are_escaped_in_the_map(workspace: Workspace):
    view = View(text=workspace.texts.add(HOSTILE).id, head="L1H2", rows="0-30", cols="0-30")
    region, _ = ready(lambda: head_map.region_of(workspace, view))
    labels = head_map.figure_of(workspace, view, region, False).layout["xaxis"]["ticktext"]
    assert any("&lt;" in label for label in labels)
    assert not any("<" in label or ">" in label for label in labels)
