"""What pages ask for: the models that are allowed, the texts that are held, each thing made once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration, ViTConfig, ViTModel

import interp
from interp.captures.reading import Reading
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp_app.jobs import Failed, Pending
from interp_app.settings import AppSettings
from interp_app.texts import Text
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(AppSettings(scans=tmp_path))
    yield made
    made.close()


def test_the_first_model_is_that_of_a_view_without_one():
    workspace = Workspace(AppSettings(models=("a", "b")))
    assert workspace.model_name(View()) == "a"
    assert workspace.model_name(View(model="b")) == "b"


@pytest.mark.parametrize("name", ["gpt2", "../secret", "/etc", "DEMO", "demo ", "demo/../demo"])
def test_no_model_is_loaded_that_was_not_allowed(workspace: Workspace, name: str):
    for ask in (workspace.model, workspace.reading, workspace.scan, workspace.statistics, workspace.head):
        with pytest.raises(InputError, match="is not open here; this server has demo"):
            ask(View(model=name))
    assert not workspace.jobs.waiting()


T5 = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: T5ForConditionalGeneration(T5), "has more than one stack of layers"),
        (lambda: ViTModel(VIT), "reads no text"),
    ],
    ids=["encoder-decoder", "vision"],
)
def test_a_model_that_the_pages_cannot_show_is_refused_where_it_is_opened(
    tmp_path: Path, build: Callable[[], PreTrainedModel], why: str
):
    build().save_pretrained(tmp_path)
    workspace = Workspace(AppSettings(models=(str(tmp_path),)))
    try:
        with pytest.raises(InputError, match=f"{why}.*in a notebook"):
            workspace.loaded(str(tmp_path))
        with pytest.raises(Failed, match=why):
            ready(lambda: workspace.reading(View()))
    finally:
        workspace.close()


def test_a_model_for_which_induction_is_not_defined_opens_with_a_detector_that_is(encoder_folder: Path):
    workspace = Workspace(AppSettings(models=(str(encoder_folder),)))
    try:
        assert workspace.fitted(View()) == View()  # nothing is known of it yet
        assert not workspace.jobs.waiting()
        scores = ready(lambda: workspace.scan(View()))
        assert "induction" not in scores.detectors
        assert workspace.fitted(View()).detector == scores.detectors[0]
        chosen = View(detector="first_token_sink")
        assert workspace.fitted(chosen) == chosen
    finally:
        workspace.close()


def test_the_usual_detector_stays_where_it_is_measured(workspace: Workspace):
    ready(lambda: workspace.scan(View()))
    assert workspace.fitted(View()) == View()


def test_a_text_that_is_not_held_is_said(workspace: Workspace):
    with pytest.raises(InputError, match="the text 0123456789abcdef is not held by this server any more"):
        workspace.reading(View(text="0123456789abcdef"))


def test_the_model_is_loaded_once(workspace: Workspace):
    assert ready(lambda: workspace.model(View())) is workspace.loaded("demo")
    assert ready(lambda: workspace.model(View(text="twice"))) is workspace.loaded("demo")


def test_a_reading_is_kept_and_is_of_the_text_asked_for(workspace: Workspace):
    first = ready(lambda: workspace.reading(View()))
    assert workspace.reading(View(head="L1H2", detector="sink")) is first
    assert first.text == workspace.texts.first.content
    other = ready(lambda: workspace.reading(View(text="twice")))
    assert other.text == workspace.texts.get("twice").content


def test_readings_are_counted_by_their_bytes(workspace: Workspace):
    before = workspace.jobs.kept
    text = workspace.texts.add("A text of its own, of a few words.")
    reading = ready(lambda: workspace.reading(View(text=text.id)))
    assert workspace.jobs.kept - before == reading.bytes > 0


def test_memory_is_given_back_when_readings_go(tmp_path: Path):
    """Eight texts through a memory that holds about two readings: the first are gone, not only forgotten."""
    measuring = Workspace(AppSettings(scans=tmp_path))
    model = ready(lambda: measuring.model(View()))
    weights = measuring.jobs.kept
    texts = [measuring.texts.add(f"number {number} " * 40) for number in range(8)]
    size = ready(lambda: measuring.reading(View(text=texts[0].id))).bytes
    measuring.close()

    workspace = Workspace(AppSettings(scans=tmp_path, memory=weights + int(2.5 * size)))
    try:
        workspace.jobs.put(("model", "demo"), model, weights)
        held: list[weakref.ref[Reading]] = []
        for text in (workspace.texts.add(text.content) for text in texts):
            held.append(weakref.ref(ready(lambda text=text: workspace.reading(View(text=text.id)))))
            assert workspace.jobs.kept <= workspace.settings.memory
        gc.collect()
        alive = [reference() is not None for reference in held]
        assert alive[-1]
        assert not any(alive[:-3])
        assert workspace.jobs.peek(("model", "demo")) is model  # used by every reading
    finally:
        workspace.close()


def test_what_a_page_makes_gets_the_model_and_the_text_and_is_made_once(workspace: Workspace):
    calls: list[tuple[HookedModel, Text]] = []

    def work(model: HookedModel, text: Text) -> int:
        calls.append((model, text))
        return len(calls)

    def ask(view: View) -> int:
        return workspace.made(view, ("counted", 1), "count", work)

    assert ready(lambda: ask(View())) == 1
    assert ready(lambda: ask(View(head="L1H1"))) == 1
    assert calls == [(workspace.loaded("demo"), workspace.texts.first)]
    assert ready(lambda: ask(View(text="twice"))) == 2


def test_a_text_beyond_the_context_is_refused_unless_it_is_allowed(workspace: Workspace):
    context = ready(lambda: workspace.model(View())).shape.context
    assert context is not None
    long = workspace.texts.add("lamp " * (context + 10))
    with pytest.raises(Failed, match="context"):
        ready(lambda: workspace.reading(View(text=long.id)))
    assert len(ready(lambda: workspace.reading(View(text=long.id, beyond=True))).tokens) > context


def test_a_view_without_a_head_shows_the_strongest_of_its_detector(workspace: Workspace):
    scores = ready(lambda: workspace.scan(View()))
    best = scores.of("previous_token").iloc[0]
    assert ready(lambda: workspace.head(View(detector="previous_token"))) == (best["layer"], best["head"])
    assert ready(lambda: workspace.head(View(detector="no_such"))) == ready(lambda: workspace.head(View()))
    assert ready(lambda: workspace.head(View(head="L0H1"))) == (0, 1)
    assert ready(lambda: workspace.head(View(), "other")) != ready(lambda: workspace.head(View()))


@pytest.mark.parametrize("name", ["L99H0", "L0H99"])
def test_a_head_that_is_not_there_is_said_with_those_that_are(workspace: Workspace, name: str):
    shape = ready(lambda: workspace.model(View())).shape
    with pytest.raises(
        InputError, match=f"no head {name}: its layers are 0 to {shape.layers - 1}, with heads 0 to {shape.heads - 1}"
    ):
        ready(lambda: workspace.head(View(head=name)))


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path):
    workspace = Workspace(AppSettings(models=(str(tmp_path / "none"),)))
    try:
        with pytest.raises(Failed, match="none"):
            ready(lambda: workspace.model(View()))
    finally:
        workspace.close()


def test_what_the_dashboard_scans_is_what_a_notebook_gets(workspace: Workspace):
    found = ready(lambda: workspace.scan(View())).of("induction")
    own = interp.scan(interp.load("demo"), text=workspace.texts.first.content, window=512, progress=False).of(
        "induction"
    )
    assert found["score"].tolist() == pytest.approx(own["score"].tolist(), abs=1e-6)


def test_asking_begins_nothing_twice(fresh: Workspace):
    with pytest.raises(Pending) as first:
        fresh.model(View())
    with pytest.raises(Pending) as second:
        fresh.model(View())
    assert first.value.job is second.value.job
    ready(lambda: fresh.model(View()))
