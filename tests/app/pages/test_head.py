"""The Head page's panels as plain functions on the demo model: what they show, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.errors import InputError
from interp.naming import head_name
from interp.scan import scan
from interp_app.pages import head_effects, head_map, head_profiles, head_scores, head_strip
from interp_app.pages.head import HEAD
from interp_app.server import create_app
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.pages.heads import HOSTILE, dense, drawn, sent_as, words
from tests.app.ready import ready

FIRST_PAYLOAD = 500_000
"""Bytes that the page may send at first."""


# ------------------------------------------------------------------------------------------------ scores


def test_scores_are_those_of_a_scan_of_the_text(workspace: Workspace, passage: View):
    found = ready(lambda: head_scores.table(workspace, passage))
    model = workspace.loaded("demo")
    expected = scan(model, text=workspace.text(passage).content, window=512, progress=False).to_frame()
    of_head = expected[(expected["layer"] == 2) & (expected["head"] == 5)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[of_head.columns], of_head)
    for row in found.to_dict("records"):
        others = expected.loc[expected["detector"] == row["detector"], "score"]
        assert math.isnan(row["score"]) or row["rank"] == 1 + int((others > row["score"]).sum())


def test_the_panel_names_the_head_its_kv_head_and_leads_to_the_grids(workspace: Workspace, passage: View):
    panel = drawn(workspace, head_scores.SCORES, passage)
    said = words(panel)
    assert "L2H5" in said
    assert "reads KV head 2, as do query heads 4 to 5" in said
    links = [part.href for part in panel._traverse() if getattr(part, "href", None)]
    assert f"/?text={passage.text}&detector=first_token_sink&head=L2H5" in links
    # That of the default view's detector says nothing of it.
    assert f"/?text={passage.text}&head=L2H5" in links


def test_a_text_too_short_for_a_scan_has_its_head_and_says_why_there_are_no_scores(workspace: Workspace):
    view = View(text=workspace.texts.add("Hello").id)
    assert ready(lambda: workspace.head(view)) == ready(lambda: workspace.head(View()))
    said = words(drawn(workspace, head_scores.SCORES, view))
    assert "L2H5" in said
    assert "give a longer text" in said


def test_neighbours_go_on_in_the_next_layer_and_end_with_the_model(workspace: Workspace):
    model = workspace.loaded("demo")
    assert head_scores.neighbour(model, 1, 5, 1) == "L2H0"
    assert head_scores.neighbour(model, 2, 0, -1) == "L1H5"
    assert head_scores.neighbour(model, 0, 0, -1) is None
    assert head_scores.neighbour(model, 3, 5, 1) is None


@pytest.mark.parametrize("panel", HEAD.panels, ids=lambda panel: panel.name)
def test_a_head_that_does_not_exist_is_refused(workspace: Workspace, passage: View, panel: Any):
    with pytest.raises(InputError, match="demo has no head L99H0: its layers are 0 to 3, with heads 0 to 5"):
        ready(lambda: panel.draw(workspace, passage.but(head="L99H0")))


# ------------------------------------------------------------------------------------------------ tokens, profiles


def test_the_strip_starts_where_the_view_says_and_within_the_text(workspace: Workspace, passage: View):
    tokens = len(ready(lambda: workspace.reading(passage)).tokens)
    for start, expected in ((0, 0), (20, 20), (99_999, tokens - 1)):
        store, place = drawn(workspace, head_strip.STRIP, passage.but(start=start))
        assert (store.id, place.id) == ("strip-data", "strip-place")
        assert (store.data["start"], store.data["length"]) == (expected, tokens)
        assert [head["name"] for head in store.data["heads"]] == ["L2H5"]


def test_the_links_of_the_strip_are_the_largest_weights(workspace: Workspace, passage: View):
    frame = ready(lambda: head_strip.table(workspace, passage))
    weights = dense(workspace, passage)[50]
    links = frame[frame["query"] == 50]
    np.testing.assert_allclose(links["weight"], np.sort(weights)[::-1][: len(links)], rtol=1e-5, atol=1e-7)


def test_top_tokens_have_the_largest_share_of_all_attention(workspace: Workspace, passage: View):
    frame = ready(lambda: head_profiles.table_top(workspace, passage))
    share = dense(workspace, passage).mean(axis=0)
    best = np.argsort(-share, kind="stable")[: len(frame)]
    assert frame["position"].tolist() == best.tolist()
    np.testing.assert_allclose(frame["share"], share[best], rtol=1e-5)
    strings = workspace.reading(passage).strings
    assert frame["token"].tolist() == [strings[at] for at in best]


def test_profiles_are_those_of_the_map(workspace: Workspace, passage: View):
    found = ready(lambda: head_profiles.profile(workspace, passage))
    weights = dense(workspace, passage)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(axis=1)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ what it does


def test_ablation_is_compared_with_other_heads_of_the_layer(workspace: Workspace, passage: View):
    _, said = ready(lambda: head_effects.verified_on_random(workspace, passage))
    assert "Ablating (zero) 1 head (L2H5) raises" in words(said)
    assert "p = " in words(said)
    frame = head_effects.table_on_random(workspace, passage)
    controls = frame.loc[frame["condition"] == "control", "heads"]
    assert all(name.startswith("L2H") and name != "L2H5" for name in controls)


def test_what_is_written_is_of_the_locked_token_else_of_the_last(workspace: Workspace, passage: View):
    tokens = len(ready(lambda: workspace.reading(passage)).tokens)
    for lock, position in ((-1, tokens - 1), (30, 30)):
        view = passage.but(lock=lock)
        result = ready(lambda view=view: head_effects._attribution(workspace, view))
        assert result.position.tolist() == [position]
        written = ready(lambda view=view: head_effects._tokens(workspace, view))
        assert (written.head, written.position) == ("L2H5", position)
        said = words(drawn(workspace, head_effects.ATTRIBUTED, view)[1])
        assert said == f"L2H5 adds {result.heads[0, 2, 5]:+.3f}."


def test_a_lock_beyond_the_text_is_refused_in_words(workspace: Workspace, passage: View):
    with pytest.raises(
        InputError, match=r"lock: the text has \d+ tokens, and token 5,000 is locked; release it with Escape"
    ):
        ready(lambda: head_effects.WRITTEN.draw(workspace, passage.but(lock=5000)))


# ------------------------------------------------------------------------------------------------ all of it


@pytest.mark.parametrize("content", ["Hello", HOSTILE, "x" * 600], ids=["one word", "hostile", "one long token"])
def test_every_panel_draws_any_text(workspace: Workspace, content: str):
    view = View(text=workspace.texts.add(content).id, head="L1H2")
    for panel in HEAD.panels:
        sent = sent_as(drawn(workspace, panel, view))
        # The strip's script writes texts as texts.
        assert "<img" not in sent or panel is head_strip.STRIP, panel.name
        if panel is not head_scores.SCORES:
            assert panel.table is not None
            assert len(ready(lambda table=panel.table: table(workspace, view)))


@pytest.mark.parametrize("panel", HEAD.panels, ids=lambda panel: panel.name)
def test_the_python_of_a_panel_runs(workspace: Workspace, panel: Any):
    # A value that is not a default for all that a call may say.
    content = workspace.text(View()).content[:150]
    view = View(
        text=workspace.texts.add(content).id, head="L2H5", rows="2-20", op="max", weighting="no_sink", start=3, lock=9
    )
    code = ready(lambda: panel.python(workspace, view))
    space: dict[str, Any] = {}
    *lines, last = code.strip().splitlines()
    exec(compile("\n".join(lines), panel.name, "exec"), space)  # noqa: S102 - it is what people are told to run
    value = eval(last, space)  # noqa: S307
    if panel is head_map.MAP:
        region, _ = ready(lambda: head_map.region_of(workspace, view))
        assert (value.data[0].z == region.values)[~np.isnan(region.values)].all()
    assert value is not None


def test_the_first_payload_is_small(workspace: Workspace):
    view = View(text=workspace.texts.add(" ".join(["The old man went down to the river."] * 88)).id, head="L2H5")
    assert 900 < len(ready(lambda: workspace.reading(view)).tokens) <= 1024
    sent = sum(len(sent_as(drawn(workspace, panel, view))) for panel in HEAD.panels if not panel.button)
    assert sent < FIRST_PAYLOAD


def test_the_server_hands_out_the_very_files_of_the_widget(workspace: Workspace):
    from interp.views.token_html import script, style

    app = create_app(workspace=workspace)
    client = app.server.test_client()
    page = client.get("/head", headers={"Host": "127.0.0.1"}).get_data(as_text=True)
    for name, content, mimetype in (
        ("token_view.js", script(), "text/javascript"),
        ("token_view.css", style(), "text/css"),
    ):
        assert f"/interp-views/{name}" in page
        answer = client.get(f"/interp-views/{name}", headers={"Host": "127.0.0.1"})
        assert (answer.get_data(as_text=True), answer.mimetype) == (content, mimetype)
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        again = client.get(
            f"/interp-views/{name}", headers={"Host": "127.0.0.1", "If-None-Match": answer.headers["ETag"]}
        )
        assert again.status_code == 304


def test_the_strongest_head_of_the_detector_is_shown_where_none_is_named(workspace: Workspace, passage: View):
    view = passage.but(head="", detector="previous_token")
    name = head_name(*ready(lambda: workspace.head(view)))
    assert name in words(drawn(workspace, head_scores.SCORES, view))
