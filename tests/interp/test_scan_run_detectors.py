"""Detectors that run the model by themselves: named or given, beside the others, never by "standard"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads.detector import RunDetector, Scored, Setting
from interp.heads.induction import Induction
from interp.models.hooked import HookedModel
from interp.scores import HeadScores
from tests.interp.tiny import HEADS, LAYERS


@dataclass(frozen=True)
class Signed(RunDetector):
    """Minus one for the first head, and so on; the last is not defined. Chance falls from layer to layer."""

    name: str = "signed"
    definition: str = "the number of the head, from minus one on"
    source: str = "this test"
    threshold: float = 0.5
    threshold_source: str = "this test"
    low: float = -2.0
    high: float = 2.0
    refuses: bool = False

    def unfit(self, model: HookedModel) -> str | None:
        return "it wants nothing" if self.refuses else None

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        one = torch.arange(HEADS, dtype=torch.float32).expand(setting.samples, LAYERS, HEADS) - 1
        scores = torch.where(torch.arange(HEADS) == HEADS - 1, torch.nan, one)
        chance = torch.tensor([0.25, 0.125]).expand(setting.samples, LAYERS)
        return Scored(scores, chance, f"{setting.samples} samples, seed {setting.seed}, text {setting.text}")


@pytest.fixture
def model(own_model, tokenizer) -> HookedModel:
    return interp.load(own_model("llama"), tokenizer=tokenizer)


def test_it_is_scored_beside_others(model: HookedModel):
    scores = interp.scan(model, [Signed(), "previous_token"], samples=3, seed=4, progress=False)
    assert scores.detectors == ["signed", "previous_token"]
    rows = scores.to_frame().query("detector == 'signed' and layer == 1")
    assert rows["score"].tolist()[:-1] == [-1.0, 0.0, 1.0]
    assert rows["stderr"].tolist()[:-1] == [0.0, 0.0, 0.0]
    assert rows["chance"].tolist() == [0.125] * HEADS
    assert rows["is_above"].tolist() == [False, False, True, False]
    assert rows["samples"].tolist() == [3, 3, 3, 0]
    assert np.isnan(rows["score"].iloc[-1])
    assert np.isnan(rows["share_above"].iloc[-1])
    assert scores.settings["inputs"]["signed"] == "3 samples, seed 4, text None"
    assert scores.settings["ranges"] == {"signed": [-2.0, 2.0], "previous_token": [0.0, 1.0]}


def test_a_text_longer_than_the_context_is_its_own_business(model: HookedModel):
    text = "w5 w6 " * 400
    assert interp.scan(model, Signed(), text=text, progress=False).detectors == ["signed"]
    with pytest.raises(InputError, match="the input has"):
        interp.scan(model, [Signed(), "previous_token"], text=text, progress=False)


def test_standard_leaves_it_out():
    assert all(detector.is_standard for detector in interp.heads.registry.chosen("standard"))
    assert not Signed().is_standard


def test_what_does_not_fit_is_refused(model: HookedModel):
    with pytest.raises(InputError, match="detector 'signed' cannot be run: it wants nothing"):
        interp.scan(model, ["standard", Signed(refuses=True)], progress=False)


def test_two_of_one_name_are_refused(model: HookedModel):
    with pytest.raises(InputError, match="two different ones are called 'signed'; give one of them another name"):
        interp.scan(model, [Signed(), Signed(threshold=0.25)], progress=False)


def test_options_of_a_detector(model: HookedModel):
    scores = interp.scan(model, [Induction(threshold=0.9, name="strict")], samples=1, progress=False)
    assert set(scores.to_frame()["threshold"]) == {0.9}


def test_a_signed_grid_has_two_colours_and_the_report_says_so(model: HookedModel, tmp_path):
    scores = interp.scan(model, Signed(), progress=False)
    heatmap = scores.plot("signed").data[0]
    assert (heatmap.zmin, heatmap.zmax) == (-2.0, 2.0)
    assert heatmap.colorscale[0][1] != heatmap.colorscale[-1][1]
    assert list(heatmap.colorbar.tickvals) == [-2, -1, 0, 1, 2]
    page = scores.save(tmp_path).read_text("utf-8")
    assert "-2 (blue) to 2 (red)" in page
    again = interp.store.load_scan(tmp_path)
    assert again.range("signed") == (-2.0, 2.0)
    assert isinstance(again, HeadScores)


def test_a_score_without_a_chance_level_has_none_wherever_it_is_shown(model: HookedModel, tmp_path):
    scores = interp.scan(model, "ov_copying", progress=False)
    assert scores.of("ov_copying")["chance"].isna().all()
    assert "(chance –)" in repr(scores)
    page = scores.save(tmp_path).read_text("utf-8")
    assert "Chance level\n–. Hover" in page
    assert "nan" not in page[page.index("<section") : page.index('<div class="scroll">', page.index("<section"))]
    template = scores.plot("ov_copying").data[0].hovertemplate
    assert "chance" not in template
    assert "±" not in template
