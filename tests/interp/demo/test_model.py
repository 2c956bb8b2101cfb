"""The committed demo model: its size, its files, its card, and the phenomena that need no text to be checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import interp.demo.evaluate
from interp.demo.card import render_card
from interp.demo.curve import SPAN, read_curve
from interp.demo.figures import Evaluation
from interp.demo.scores import head_scores, repeated_tokens, token_losses
from interp.demo.settings import TrainSettings
from interp.demo.tokenizer import load_tokenizer

FOLDER = Path(interp.demo.evaluate.__file__).parent / "model"
MEGABYTES = 16e6


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation.from_mapping(json.loads((FOLDER / "evaluation.json").read_text()))


def test_folder_is_small_and_holds_no_pickles() -> None:
    files = list(FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= MEGABYTES
    assert {file.suffix for file in files} == {".json", ".safetensors", ".csv", ".md"}


def test_card_is_what_record_evaluation_and_curve_give(evaluation: Evaluation) -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    card = render_card(record, evaluation, read_curve(FOLDER / "training_curve.csv"))
    assert (FOLDER / "README.md").read_text() == card


def test_model_was_trained_with_the_default_settings() -> None:
    stored = json.loads((FOLDER / "training.json").read_text())["settings"]
    assert TrainSettings.from_mapping(stored | {"keep_weights_every": 0}) == TrainSettings()


def test_weights_are_float32_of_the_recorded_size(model: LlamaForCausalLM) -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == record["parameters"]
    assert len(load_tokenizer(FOLDER)) == model.config.vocab_size


def test_heads_and_copying_are_as_the_card_says(model: LlamaForCausalLM, evaluation: Evaluation) -> None:
    tokens = repeated_tokens(41, 8, SPAN, model.config.vocab_size)
    scores = head_scores(model, tokens, offset=SPAN - 1, start=SPAN + 1).mean(0)
    for head in evaluation.heads:
        assert scores[head.layer, head.head].item() == pytest.approx(head.induction, abs=0.05)
    losses = token_losses(model, tokens)
    row = next(row for row in evaluation.copies if row.span == SPAN)
    assert losses[:, :SPAN].mean().item() == pytest.approx(row.first_copy, abs=0.3)
    assert losses[:, SPAN + 1 :].mean().item() == pytest.approx(row.second_copy, abs=0.15)


def test_the_promised_phenomena_are_there(evaluation: Evaluation) -> None:
    assert max(head.previous_token for head in evaluation.heads) > 0.5
    assert sum(head.induction > 0.5 for head in evaluation.heads) >= 2
    assert any(head.first_token > 0.3 for head in evaluation.heads)
    assert all(row.second_copy < 0.1 * row.first_copy for row in evaluation.copies)
    assert evaluation.needles[0].distractors == 0
    assert min(evaluation.needles[0].recall) > 0.5


def test_curve_shows_the_phase_change() -> None:
    rows = read_curve(FOLDER / "training_curve.csv")
    low = next(row for row in rows if row["best_induction"] > 0.1)
    high = next(row for row in rows if row["best_induction"] > 0.8)
    assert 0 < high["step"] - low["step"] < 100
    assert high["second_copy_loss"] < low["second_copy_loss"] - 3
