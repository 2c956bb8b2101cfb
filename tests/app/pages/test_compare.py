"""The Compare page as plain functions on the demo model: figures against those of a notebook, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dash import no_update

import interp
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp.plots.attention_map import difference_figure
from interp.plots.profile_comparison import distances_figure, entropies_figure
from interp_app.pages import PAGES, compare_divergence, compare_heads, compare_scores, compare_texts
from interp_app.pages import compare as page
from interp_app.panels import python_of
from interp_app.settings import AppSettings
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready

OPENING = "The lamp was lit. The boat came in. <b>The lamp</b> was lit again, and the boat came in again. "
TEXT = OPENING * 4
VIEW = View(head="L2H5", other="L0H3")


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    made = Workspace(AppSettings(text=TEXT))
    yield made
    made.close()


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("demo")


def parts(workspace: Workspace, panel: Any, view: View) -> Any:
    """What a panel draws: a function of the scheme, or a list of parts."""
    return ready(lambda: panel.draw(workspace, view))


def drawn(workspace: Workspace, panel: Any, view: View, *, dark: bool = False) -> Any:
    found = parts(workspace, panel, view)(dark)
    return getattr(found, "figure", found)


def same(one: Any, other: Any) -> None:
    """Two figures show the same numbers."""
    assert len(one.data) == len(other.data) > 0
    for mine, yours in zip(one.data, other.data, strict=True):
        for name in ("x", "y", "z", "zmin", "zmax", "x0", "y0"):
            a, b = (np.asarray(getattr(trace, name, None), dtype=np.float64) for trace in (mine, yours))
            np.testing.assert_array_equal(a, b)


def test_the_pages_stand_in_their_order():
    paths = [each.path for each in PAGES]
    assert [path for path in paths if path in ("/text", "/flow", "/retrieval", "/compare", "/scans")] == [
        "/text",
        "/flow",
        "/retrieval",
        "/compare",
        "/scans",
    ]


@pytest.mark.parametrize(
    ("view", "asked"),
    [
        (VIEW, {}),
        (
            VIEW.but(rows="8-40", cols="0-32", weighting="value"),
            {"rows": (8, 40), "cols": (0, 32), "weighting": "value"},
        ),
    ],
)
def test_maps_and_their_difference_are_those_of_a_notebook(
    workspace: Workspace, model: HookedModel, view: View, asked: dict[str, Any]
):
    maps = model.maps(TEXT, [0, 2])
    one, other = interp.views.region(maps[2], 5, **asked), interp.views.region(maps[0], 3, **asked)
    highest = max(one.highest, other.highest)
    for panel, region in ((compare_heads.FIRST, one), (compare_heads.SECOND, other)):
        heat = drawn(workspace, panel, view).data[0]
        np.testing.assert_array_equal(np.asarray(heat.z), region.values)
        assert (heat.zmin, heat.zmax) == (0.0, highest)
    found = drawn(workspace, compare_heads.DIFFERENCE, view)
    same(found, difference_figure(one, other, maps[2].tokens(0)))
    assert found.data[0].zmin == -found.data[0].zmax


def test_the_table_of_differences_has_both_values(workspace: Workspace):
    frame = ready(lambda: compare_heads.difference_table(workspace, VIEW))
    assert list(frame.columns[-3:]) == ["L2H5", "L0H3", "difference"]
    one, other = compare_heads.regions(workspace, VIEW)
    z = one.values - other.values
    np.testing.assert_array_equal(frame["difference"], z[~np.isnan(z)])


def test_the_three_maps_tell_the_script_one_place(workspace: Workspace):
    view = VIEW.but(rows="8-40", cols="0-32")
    graphs = [parts(workspace, panel, view)(True) for panel in compare_heads.PANELS]
    assert [graph.id["panel"] for graph in graphs] == ["compare-first", "compare-second", "compare-difference"]
    for graph in graphs:
        assert graph.figure.layout.meta["rows"] == (8, 40)
        assert graph.figure.layout.meta["cols"] == (0, 32)
        assert len(graph.figure.layout.yaxis.ticktext) == 32
    assert compare_heads.regions(workspace, view) is compare_heads.regions(workspace, view)
    assert compare_heads.regions(workspace, view) is not compare_heads.regions(workspace, view.but(rows="9-40"))


def test_the_divergence_of_both_heads_is_that_of_a_notebook(workspace: Workspace, model: HookedModel):
    number, figure = parts(workspace, compare_divergence.HEADS, VIEW)
    maps = model.maps(TEXT, [0, 2])
    expected = interp.heads.pair_divergence(maps[2], 5, maps[0], 3)
    assert number.children[0].children == f"{expected.divergence:.3f} "
    assert "L2H5 and L0H3" in number.children[1]
    same(figure(False), expected.plot())
    frame = compare_divergence.heads_table(workspace, VIEW)
    np.testing.assert_array_equal(frame["divergence"], expected.by_query)


def test_texts_of_one_length_are_compared_by_position(workspace: Workspace, model: HookedModel):
    words = TEXT.split(" ")
    turned = " ".join([*words[19:], *words[:19]]).strip()
    texts = [workspace.texts.add(text).id for text in (TEXT, turned)]
    view = VIEW.but(text=texts[0], against=texts[1])
    one, other = ready(lambda: compare_divergence.lengths(workspace, view))
    assert one == other, "the texts are of the same tokens"
    number, figure, note = parts(workspace, compare_divergence.TEXTS, view)
    maps = [model.maps(workspace.texts.get(text).content, [2])[2] for text in texts]
    expected = interp.heads.pair_divergence(maps[0], 5, maps[1], 5)
    assert number.children[0].children == f"{expected.divergence:.3f} "
    same(figure(False), expected.plot())
    assert f"Both texts have {one} tokens" in note.children


def test_texts_of_other_lengths_are_compared_by_distance_and_it_says_why(workspace: Workspace, model: HookedModel):
    view = VIEW.but(against="twice")
    number, chance, why = parts(workspace, compare_divergence.TEXTS, view)
    contents = (TEXT, workspace.texts.get("twice").content)
    expected = interp.heads.distance_divergence(
        *(interp.views.head_profile(model.maps(t, [2])[2], 5) for t in contents)
    )
    assert number.children[0].children == f"{expected.weights:.3f} "
    assert chance.children.startswith(f"{expected.chance:.3f} of uniform attention")
    one, other = compare_divergence.lengths(workspace, view)
    assert why.children.startswith(f"The texts have {one:,} and {other:,} tokens")
    assert compare_divergence.texts_table(workspace, view).to_dict("records") == [expected._asdict()]


def test_a_text_that_is_added_is_in_the_list_of_others(workspace: Workspace):
    before = page.others(workspace)
    added = workspace.texts.add("Quite another text, with some words of its own.")
    now = page.others(workspace)
    assert {"value": added.id, "label": added.title} in now
    assert len(now) == len(before) + 1


def test_scores_of_both_are_those_of_the_scan(workspace: Workspace):
    frame = ready(lambda: compare_scores.scores_table(workspace, VIEW)).set_index("detector")
    scan: Any = workspace.scan(VIEW).to_frame().set_index(["detector", "layer", "head"])["score"].to_dict()
    for detector, row in frame.iterrows():
        assert row["first"] == scan[detector, 2, 5]
        assert row["second"] == scan[detector, 0, 3]
        assert row["difference"] == row["first"] - row["second"]
    assert "induction" in frame.index


def test_without_a_name_the_two_heads_are_two(workspace: Workspace):
    ranked = ready(lambda: workspace.scan(View())).of("induction")
    best = [f"L{layer}H{head}" for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]
    assert compare_heads.names(workspace, View()) == (best[0], best[1])
    assert compare_heads.names(workspace, View(head=best[1])) == (best[1], best[0])


def test_one_head_on_two_texts_is_that_of_a_notebook(workspace: Workspace, model: HookedModel):
    view = VIEW.but(against="twice")
    titles = [workspace.text(each).title for each in (view, view.but(text="twice"))]
    contents = (TEXT, workspace.texts.get("twice").content)
    profiles = {
        title: interp.views.head_profile(model.maps(text, [2])[2], 5)
        for title, text in zip(titles, contents, strict=True)
    }
    same(drawn(workspace, compare_texts.DISTANCES, view), distances_figure(profiles))
    same(drawn(workspace, compare_texts.ENTROPIES, view), entropies_figure(profiles))
    frame = compare_texts.table(workspace, view)
    assert list(frame["text"].unique()) == titles


def test_titles_of_texts_are_no_markup(workspace: Workspace):
    added = workspace.texts.add("<b>bold</b> and more words of it").id
    figure = drawn(workspace, compare_texts.DISTANCES, VIEW.but(against=added))
    names = [trace.name for trace in figure.data]
    assert "&lt;b&gt;bold&lt;/b&gt; and more words of it" in names
    assert not any("<b>" in f"{trace.name}{trace.hovertemplate}" for trace in figure.data)


def test_the_other_text_is_another_one_unless_it_is_named(workspace: Workspace):
    assert ready(lambda: compare_texts.against(workspace, VIEW)).text == "prose"
    assert ready(lambda: compare_texts.against(workspace, VIEW.but(text="prose"))).text == "opening"
    with pytest.raises(InputError, match=r"other text: it is .* again"):
        ready(lambda: compare_texts.against(workspace, VIEW.but(against="opening")))
    with pytest.raises(InputError, match="is not held by this server"):
        ready(lambda: compare_texts.against(workspace, VIEW.but(against="ffffffff")))


def test_scores_on_two_texts_are_those_of_two_scans(workspace: Workspace):
    view = VIEW.but(against="twice")
    frame = ready(lambda: compare_texts.scores_table(workspace, view)).set_index("detector")
    for column, text in (("first", ""), ("second", "twice")):
        scan: Any = (
            workspace.scan(View(text=text)).to_frame().set_index(["detector", "layer", "head"])["score"].to_dict()
        )
        assert all(value == scan[detector, 2, 5] for detector, value in frame[column].items())


@pytest.mark.parametrize("panel", page.COMPARE.panels, ids=lambda panel: panel.name)
def test_what_is_copied_as_python_runs(workspace: Workspace, panel: Any):
    view = VIEW.but(against="twice")
    shown = ready(lambda: panel.draw(workspace, view))
    *lines, last = python_of(workspace, panel, view.to_dict()).strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # noqa: S102 - the page's own
    found: Any = eval(last, names)  # noqa: S307
    if callable(shown):
        expected: Any = shown(False)
        expected = getattr(expected, "figure", expected)
        same(found, expected)
        assert found.layout.title == expected.layout.title
    elif panel is compare_divergence.HEADS:
        same(found, shown[1](False))
    elif panel is compare_divergence.TEXTS:
        assert found == compare_divergence.of_texts(workspace, view)
    else:
        assert set(found["score"]) == {
            value for column in ("first", "second") for value in panel.table(workspace, view)[column]
        }


@pytest.mark.parametrize(("typed", "expected"), [("L1H2", "L1H2"), (" l1h2 ", "L1H2"), ("", ""), (None, "")])
def test_a_head_that_is_typed_is_in_the_view(workspace: Workspace, typed: Any, expected: str):
    ready(lambda: workspace.model(View()))
    found, wrong = page.chosen(workspace, "other", typed, VIEW.to_dict())
    assert wrong is None
    assert View.of(found) == VIEW.but(other=expected)


@pytest.mark.parametrize(
    ("typed", "why"),
    [("2.5", "expected a head such as L2H5"), ("L2H", "L2H"), ("L9H0", "has no head L9H0"), ("x" * 500, "X" * 20)],
)
def test_a_head_that_cannot_be_is_said_by_its_field(workspace: Workspace, typed: str, why: str):
    ready(lambda: workspace.model(View()))
    found, wrong = page.chosen(workspace, "other", typed, VIEW.to_dict())
    assert found is no_update
    assert why in wrong
    assert len(wrong) < 200


def test_an_unknown_head_is_refused_by_every_panel_that_draws_it(workspace: Workspace):
    for panel in (*compare_heads.PANELS, compare_divergence.HEADS, compare_scores.SCORES):
        with pytest.raises(InputError, match="has no head L7H0"):
            ready(lambda panel=panel: panel.draw(workspace, VIEW.but(other="L7H0")))
    for panel in (*compare_texts.PANELS, compare_divergence.TEXTS):
        with pytest.raises(InputError, match="has no head L7H0"):
            ready(lambda panel=panel: panel.draw(workspace, VIEW.but(head="L7H0")))


def test_more_or_fewer_than_two_profiles_are_refused():
    with pytest.raises(InputError, match="profiles: expected 2, by name, got 0"):
        distances_figure({})
    with pytest.raises(InputError, match="profiles: expected 2, by name, got 0"):
        entropies_figure({})
