"""Importance as a detector: the numbers of ``interp.causal.importance`` by window, each layer with a norm of 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import interp
from interp import causal, edits
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.tiny import HEADS, LAYERS, tiny_t5, token_ids
from tests.interp.words import text_of

Build = Callable[[str], PreTrainedModel]

WORDS = token_ids((75,), seed=4).tolist()
TEXT = text_of(WORDS)
WINDOW = 24


@pytest.fixture
def model(own_model: Build, tokenizer: PreTrainedTokenizerFast) -> HookedModel:
    return interp.load(own_model("llama"), tokenizer=tokenizer)


def scanned(model: HookedModel, **options) -> interp.HeadScores:
    return interp.scan(model, "importance", progress=False, **({"text": TEXT, "window": WINDOW} | options))


def test_scores_are_importances_over_the_norm_of_their_layer(model: HookedModel):
    """Three windows of 23 words behind BOS; the last, with six, does not count."""
    rows = [[0, *WORDS[n : n + 23]] for n in (0, 23, 46)]
    values = np.stack([causal.importance(model, [row]).values[0].reshape(LAYERS, HEADS) for row in rows])
    norm = np.sqrt((values.mean(0) ** 2).sum(-1, keepdims=True))
    scores = scanned(model)
    np.testing.assert_allclose(scores.grid("importance"), values.mean(0) / norm, rtol=1e-5)
    np.testing.assert_allclose(scores.grid("importance", "stderr"), (values / norm).std(0, ddof=1) / 3**0.5, rtol=1e-4)
    assert scores.to_frame()["samples"].eq(3).all()
    assert scores.settings["inputs"]["importance"] == "3 windows of the text, 24 positions each"
    np.testing.assert_allclose((scores.grid("importance") ** 2).sum(-1), 1.0, rtol=1e-12)


def test_they_are_those_of_importance_normalised(model: HookedModel):
    whole = text_of(WORDS[:69])
    found = causal.importance(model, model.windows(whole, WINDOW), normalize=True).table
    scores = scanned(model, text=whole)
    np.testing.assert_allclose(scores.grid("importance").ravel(), found["importance"], rtol=1e-6)
    np.testing.assert_allclose(scores.grid("importance", "stderr").ravel(), found["stderr"], rtol=1e-6)


def test_a_head_above_the_threshold_outweighs_the_rest_of_its_layer(model: HookedModel):
    """Of an ablated layer but for one head, that one is all there is."""
    with model.edited(edits.ablate("L1H0", "L1H1", "L1H3")):
        scores = scanned(model)
    np.testing.assert_allclose(scores.grid("importance")[1], [0, 0, 1, 0], atol=1e-12)
    grid, above = scores.grid("importance"), scores.grid("importance", "is_above").astype(bool)
    others = (grid**2).sum(-1, keepdims=True) - grid**2
    assert np.array_equal(above, grid**2 > others)


def test_a_layer_without_importance_stays_at_zero(model: HookedModel):
    with model.edited(edits.ablate(*(f"L1H{head}" for head in range(HEADS)))):
        grid = scanned(model).grid("importance")
    assert not grid[1].any()
    assert (grid[0] > 0).all()


def test_one_sequence_has_no_error_and_there_is_no_chance_level(model: HookedModel):
    frame = scanned(model, window=None).to_frame()
    assert frame["stderr"].isna().all()
    assert frame["chance"].isna().all()
    assert frame["samples"].eq(1).all()
    assert "(chance –)" in repr(scanned(model))


def test_it_is_run_beside_others_and_reported(model: HookedModel, tmp_path: Path):
    scores = interp.scan(model, ["importance", "previous_token"], text=TEXT, window=WINDOW, progress=False)
    assert scores.detectors == ["importance", "previous_token"]
    page = scores.save(tmp_path).read_text("utf-8")
    assert "outweighs the rest of its layer" in page
    assert scores.range("importance") == (0.0, 1.0)
    assert np.asarray(scores.plot("importance").data[0].z).shape == (LAYERS, HEADS)


def test_models_without_a_loss_and_scans_without_a_text_are_refused(
    model: HookedModel, own_model: Build, tokenizer: PreTrainedTokenizerFast
):
    with pytest.raises(
        InputError,
        match=r"detector 'importance' cannot be run: BertModel has no loss on the next token; call "
        r"interp.causal.importance with an objective of your own",
    ):
        scanned(interp.load(own_model("bert"), tokenizer=tokenizer))
    with pytest.raises(InputError, match="scan runs detectors on token ids through one stack of layers"):
        scanned(interp.load(tiny_t5(), tokenizer=tokenizer))
    with pytest.raises(InputError, match="detector 'importance' cannot be run: it needs a text"):
        scanned(model, text=None)
    with pytest.raises(InputError, match=r"the input has 301 tokens, .* is made for 256"):
        scanned(model, text=text_of([5] * 300), window=None)


def test_of_the_demo_model_it_names_the_head_that_induction_hangs_on():
    prose = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")
    rows = scanned(interp.load("demo"), text=prose, window=256).of("importance")
    assert (rows["layer"][0], rows["head"][0]) == (1, 5)
    assert rows["score"][0] - 3 * rows["stderr"][0] > rows["threshold"][0]
