"""The report: one page that loads nothing, says everything of the scan, and shows hostile names as text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import interp
from interp.heads import Pattern
from interp.heads.previous_token import PreviousToken
from interp.heads.registry import chosen
from interp.report import report_html
from interp.scores import HeadScores
from tests.interp.tiny import HEADS, LAYERS
from tests.interp.words import words_tokenizer

TEXT = "w5 w6 w5 w7"
HOSTILE = "</title></script><script>alert('1')</script><img src=x onerror=\"alert(2)\">&amp;"


class Page(HTMLParser):
    """Elements, their attributes, and text by the element it stands in. Scripts and styles are kept as they are."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts.setdefault(tag, []).append(data)

    def text(self, tag: str) -> str:
        return " ".join("".join(self.texts.get(tag, [])).split())

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def with_settings(scores: HeadScores, **changes: Any) -> HeadScores:
    return HeadScores(scores.frame, {**scores.settings, **changes})


@pytest.fixture(scope="module")
def page(scores: HeadScores) -> Page:
    return Page(report_html(scores))


def test_the_page_is_whole(page: Page):
    assert page.open == []
    assert [tag for tag, _ in page.elements[:2]] == ["html", "head"]
    assert page.having("meta")[0] == {"charset": "utf-8"}


def test_nothing_is_loaded(page: Page):
    """Every address in the page is a place in the page."""
    loading = ("src", "href", "data", "srcset", "action", "poster", "background")
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        for name in loading:
            assert (attributes.get(name) or "#").startswith("#"), f"<{tag} {name}={attributes[name]}>"
    assert "@import" not in page.text("style")
    assert "url(" not in page.text("style")


def test_plotly_is_inside_once(page: Page):
    scripts = page.texts["script"]
    assert sum(len(script) > 1_000_000 for script in scripts) == 1


def test_title_and_head(page: Page):
    assert page.text("title") == "Heads of LlamaForCausalLM"
    assert page.text("h1") == "Attention heads of LlamaForCausalLM"
    assert f"{LAYERS} layers × {HEADS} heads · LlamaForCausalLM · float32 on cpu" in page.text("header")


@pytest.mark.parametrize("name", [each.name for each in chosen("standard") if each.name != "next_token"])
def test_each_detector_has_its_section(name: str, page: Page, scores: HeadScores):
    detector = interp.detectors()[name]
    sections = [attributes.get("id") for attributes in page.having("section")]
    assert sections.count(name) == 1
    assert {"href": f"#{name}"} in page.having("a")
    assert [a for a in page.having("div") if a.get("id") == f"grid-{name}"]
    main = page.text("main")
    assert detector.definition in main
    assert detector.source in main
    assert detector.threshold_source in main
    assert scores.settings["inputs"][name] in page.text("figcaption")
    best = scores.of(name).iloc[0]
    assert f"L{best['layer']}H{best['head']} {best['score']:.3f}" in page.text("table")


def test_each_grid_has_a_caption_that_explains_its_marks(page: Page, scores: HeadScores):
    captions = page.text("figcaption").split("Each cell is a head")[1:]
    assert len(captions) == len(page.having("figure")) == len(scores.detectors)
    for caption, detector in zip(captions, scores.detectors, strict=True):
        rows = scores.of(detector)
        assert "row = layer" in caption
        assert "column = query head" in caption
        assert "Colour = score from 0 (dark) to 1 (bright)" in caption
        assert f"above the threshold of {rows['threshold'].iloc[0]:g}" in caption
        assert f"Chance level {rows['chance'].min():.3f}" in caption


def test_a_detector_with_options_of_its_own_is_told_as_it_was_run(own_model):
    ours = Pattern("two_back", offsets=(2,), threshold=0.25, threshold_source="this test")
    strict = PreviousToken(threshold=0.9, threshold_source="this test too")
    scores = interp.scan(
        interp.load(own_model("llama"), tokenizer=words_tokenizer()), [ours, strict], text=TEXT, progress=False
    )
    main = Page(report_html(scores)).text("main")
    assert "share of the attention on the pattern 'two_back', given as offsets" in main
    assert "Threshold 0.25: this test." in main
    assert "Threshold 0.9: this test too." in main
    assert "ARENA" not in main
    older = {name: value for name, value in scores.settings.items() if name != "methods"}
    assert "ARENA" not in Page(report_html(HeadScores(scores.frame, older))).text("main")


def test_how_it_was_measured(page: Page, scores: HeadScores):
    shown = page.text("pre")
    for fact in ('"seed": 0', '"window": 70', f'"torch": "{scores.settings["model"]["versions"]["torch"]}"'):
        assert fact in shown


def test_chance_levels_that_differ_by_layer_are_a_range(own_model):
    scores = interp.scan(interp.load(own_model("gemma2")), ["previous_token"], samples=2, progress=False)
    low, high = scores.frame["chance"].min(), scores.frame["chance"].max()
    assert high - low > 0.01
    assert f"Chance level {low:.3f} to {high:.3f}" in Page(report_html(scores)).text("figcaption")


def test_what_was_left_out_is_said_with_its_reason(own_model):
    scores = interp.scan(interp.load(own_model("bert")), samples=2, progress=False)
    left_out = Page(report_html(scores)).text("ul")
    for name, why in scores.settings["left_out"].items():
        assert f"{name}: {why}" in left_out


def test_inputs_beyond_the_context_are_said(scores: HeadScores):
    said = "input longer than the model's context"
    assert said in Page(report_html(with_settings(scores, beyond_context=True))).text("header")
    assert said not in Page(report_html(scores)).text("header")


def test_one_sample_has_a_dash_for_its_error(own_model):
    scores = interp.scan(interp.load(own_model("llama")), ["induction"], samples=1, progress=False)
    page = Page(report_html(scores))
    assert " –" in page.text("td")
    assert "nan" not in page.text("table").lower()


def test_hostile_names_are_text(scores: HeadScores, page: Page):
    """From a folder's name, a config, or a text that somebody else wrote."""
    hostile = HeadScores(
        scores.frame.assign(detector=scores.frame["detector"].replace("induction", HOSTILE)),
        {
            **scores.settings,
            "model": {**scores.settings["model"], "model": HOSTILE, "architecture": HOSTILE, "dtype": HOSTILE},
            "inputs": {**scores.settings["inputs"], "previous_token": HOSTILE, HOSTILE: HOSTILE},
            "left_out": {HOSTILE: HOSTILE},
            "text": ["a token", HOSTILE],
        },
    )
    shown = Page(report_html(hostile))
    assert shown.open == []
    assert len(shown.having("script")) == len(page.having("script"))
    assert not shown.having("img")
    assert [tag for tag, _ in shown.elements].count("section") == [tag for tag, _ in page.elements].count("section")
    assert shown.text("title") == f"Heads of {HOSTILE}"
    assert HOSTILE in shown.text("h1")
    assert HOSTILE in shown.text("figcaption")
    assert HOSTILE in shown.text("table")
    assert f"{HOSTILE}: {HOSTILE}" in shown.text("ul")


def test_a_hostile_model_folder(scores: HeadScores, own_model, tmp_path: Path):
    folder = tmp_path / "<script>alert(1)<" / "script>"
    own_model("llama").save_pretrained(folder)
    found = interp.scan(interp.load(folder), ["previous_token"], samples=2, progress=False)
    report = found.save(tmp_path / "out").read_text(encoding="utf-8")
    assert Page(report).text("title") == f"Heads of {folder}"
    assert "<script>alert" not in report
