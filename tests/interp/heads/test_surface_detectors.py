"""The detectors of surface statistics: next token, delimiters, broad attention. Oracles by hand on the models' own dense maps."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import interp
from interp import edits
from interp.errors import InputError
from interp.heads.broad import Broad
from interp.heads.delimiter import delimiters
from interp.scores import HeadScores
from tests.interp import dense
from tests.interp.circuits import CONTEXT, IDLE, Head, built
from tests.interp.heads.dense_scores import broad, next_token, uniform
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, LAYERS, token_ids, who_sees_whom
from tests.interp.words import BOS, EOS, text_of, words_tokenizer

Build = Callable[[str], PreTrainedModel]

MARKS = {5: ",", 9: ".", 30: "?!"}
PLAIN = token_ids((200,), seed=9).tolist()
"""Ids that ``words`` reads back; some of them are of ``MARKS``."""
WINDOW = 70


def words(ids: list[int]) -> str:
    return " ".join(MARKS.get(i, f"w{i}") for i in ids)


def marking(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    """A tokenizer in which some words are punctuation."""
    return words_tokenizer(template, MARKS)


def pieces(ids: list[int], around: int = 1) -> list[list[int]]:
    """The text in windows of ``WINDOW`` positions, of which so many are special tokens; a shorter last one is left out."""
    size = WINDOW - around
    return [ids[n : n + size] for n in range(0, len(ids) - size + 1, size)]


def maps_of(eager: PreTrainedModel, ids: list[int]) -> list[Tensor]:
    row = torch.tensor([ids])
    return [p[0] for p in dense.eager_maps(eager, row, torch.ones_like(row, dtype=torch.bool))]


def seen(name: str, layer: int, size: int) -> Tensor:
    architecture = BERT if name == "bert" else ARCHITECTURES[name]
    return who_sees_whom(architecture, layer, torch.ones(1, size, dtype=torch.bool))[0]


def on_delimiters(a: Tensor, visible: Tensor, marked: list[bool]) -> Tensor:
    """[H] of a map [H, T, T]: mean over the queries that see a marked key; NaN without any."""
    keys = [j for j, is_marked in enumerate(marked) if is_marked]
    found = [a[:, i, keys].sum(-1) for i in range(len(marked)) if any(visible[i, j] for j in keys)]
    return torch.stack(found).mean(0) if found else torch.full(a.shape[:1], torch.nan, dtype=torch.float64)


def grids(scores: HeadScores, name: str) -> tuple[np.ndarray, np.ndarray]:
    return scores.grid(name), scores.grid(name, "chance")


def test_next_token_is_the_mean_one_ahead(own_model: Build, eager_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("bert"), tokenizer=tokenizer)
    found, chance = grids(
        interp.scan(model, "next_token", text=text_of(PLAIN), window=WINDOW, progress=False), "next_token"
    )
    # Two windows of 69 tokens behind BOS, and the last with the 62 that are left.
    rows = [[BOS, *PLAIN[n : n + 69]] for n in (0, 69, 138)]
    for layer in range(LAYERS):
        exact = torch.stack([next_token(maps_of(eager_model("bert"), row)[layer], row) for row in rows]).mean(0)
        np.testing.assert_allclose(found[layer], exact, atol=2e-5)
        np.testing.assert_allclose(chance[layer], np.mean([1 / len(row) for row in rows]), atol=1e-6)


def test_a_decoder_is_never_asked_for_the_next_token(own_model: Build):
    model = interp.load(own_model("llama"))
    scores = interp.scan(model, "standard", samples=2, progress=False)
    assert "next_token" not in scores.detectors
    assert "next_token" not in scores.settings["left_out"]
    with pytest.raises(
        InputError,
        match="detector 'next_token' cannot be run: the next token lies ahead, and LlamaForCausalLM looks back only",
    ):
        interp.scan(model, ["standard", "next_token"], progress=False)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "bert"])
def test_delimiter_is_the_mass_on_delimiters_of_those_who_see_one(name: str, own_model: Build, eager_model: Build):
    model = interp.load(own_model(name), tokenizer=marking("<s> $A </s>"))
    scores = interp.scan(model, "delimiter", text=words(PLAIN), window=WINDOW, progress=False)
    rows = [[BOS, *piece, EOS] for piece in pieces(PLAIN, around=2)]
    assert len(rows) == 2
    for layer in range(LAYERS):
        visible = seen(name, layer, WINDOW)
        exact, chance = [], []
        for row in rows:
            # The separator at the end is one, BOS in front is none.
            marked = [i in MARKS or i == EOS for i in row]
            exact.append(on_delimiters(maps_of(eager_model(name), row)[layer], visible, marked))
            chance.append(on_delimiters(uniform(visible), visible, marked))
        exact, chance = torch.stack(exact), torch.stack(chance)
        rows_of_layer = scores.to_frame().query("layer == @layer")
        np.testing.assert_allclose(rows_of_layer["score"], exact.mean(0), atol=3e-5)
        np.testing.assert_allclose(rows_of_layer["stderr"], exact.std(0) / 2**0.5, atol=3e-5)
        np.testing.assert_allclose(rows_of_layer["chance"], chance.mean(), atol=1e-6)
        assert 0.02 < float(exact.mean()) < 0.9
    marked_of_all = sum(i in MARKS or i == EOS for row in rows for i in row)
    assert scores.settings["inputs"]["delimiter"] == (
        f"2 windows of the text, 70 positions each, 2 with a delimiter; {marked_of_all / 140:.1%} of the tokens are delimiters"
    )


def test_windows_without_a_delimiter_have_no_score(own_model: Build):
    bare = [i for i in PLAIN if i not in MARKS][: 2 * (WINDOW - 1)]
    bare[100] = 9  # in the second window
    model = interp.load(own_model("llama"), tokenizer=marking())
    scores = interp.scan(model, "delimiter", text=words(bare), window=WINDOW, progress=False)
    assert scores.to_frame()["samples"].eq(1).all()
    second = interp.scan(model, "delimiter", text=words(bare[WINDOW - 1 :]), window=WINDOW, progress=False)
    np.testing.assert_allclose(scores.grid("delimiter"), second.grid("delimiter"), atol=1e-6)
    assert "2 windows of the text, 70 positions each, 1 with a delimiter" in scores.settings["inputs"]["delimiter"]


def test_a_text_without_a_delimiter_is_refused(own_model: Build, monkeypatch: pytest.MonkeyPatch):
    model = interp.load(own_model("llama"), tokenizer=marking())
    monkeypatch.setattr(interp.HookedModel, "capture", None)  # nothing is run
    with pytest.raises(InputError, match="delimiter: the text holds no punctuation and no separator, so no score is"):
        interp.scan(model, "delimiter", text="w6 w7 w8", progress=False)
    with pytest.raises(InputError, match="detector 'delimiter' cannot be run: it needs a text"):
        interp.scan(model, "delimiter", progress=False)
    with pytest.raises(InputError, match=r"the input has 301 tokens, .* is made for 256; cut the input into windows"):
        interp.scan(model, "delimiter", text=words([9] * 300), progress=False)


def test_special_tokens_in_front_and_padding_are_no_delimiters(own_model: Build):
    model = interp.load(own_model("llama"), tokenizer=marking("<s> <s> $A </s>"))
    for side in ("left", "right"):
        batch = model.batch(["w6 , w7", "w6 w7 w8 w8 ."], padding=side)
        marked = [row[kept].tolist() for row, kept in zip(delimiters(model, batch), batch.keep, strict=True)]
        assert marked == [[False, False, False, True, False, True], [False] * 6 + [True, True]]
        assert not delimiters(model, batch)[~batch.keep].any()


def test_a_head_made_to_look_at_a_full_stop_is_a_delimiter_head_and_a_narrow_one():
    """The full stop stands in column 7 of each window, and L0H1 looks there once it has passed."""
    model = interp.load(built([[IDLE, Head(column=7)], [IDLE, IDLE]]), tokenizer=marking())
    window = [i for i in range(10, 61) if i not in MARKS] * 6
    window = window[: CONTEXT - 1]
    window[6] = 9
    found = interp.scan(model, ["delimiter", "broad"], text=words(window * 2), window=CONTEXT, progress=False)
    assert found.grid("delimiter")[0, 1] >= 0.99
    # Idle heads look two back: at the full stop once.
    others = np.delete(found.grid("delimiter").ravel(), 1)
    np.testing.assert_allclose(others, 1 / (CONTEXT - 7), atol=1e-6)
    assert found.of("delimiter")["samples"].eq(2).all()
    assert (found.grid("broad") <= 0.01).all()


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "bert"])
def test_uniform_attention_scores_chance(name: str, own_model: Build):
    model = interp.load(own_model(name), tokenizer=marking())
    with model.edited(edits.uniform("all")):
        scores = interp.scan(model, ["delimiter", "broad"], text=words(PLAIN), window=WINDOW, progress=False)
    for detector in scores.detectors:
        found, chance = grids(scores, detector)
        np.testing.assert_allclose(found, chance, atol=1e-5)


def test_of_an_encoder_broad_is_measured_on_the_same_positions(own_model: Build, eager_model: Build):
    model = interp.load(own_model("bert"), tokenizer=marking())
    found, chance = grids(interp.scan(model, "broad", text=words(PLAIN[:69]), progress=False), "broad")
    row = [BOS, *PLAIN[:69]]
    for layer, a in enumerate(maps_of(eager_model("bert"), row)):
        np.testing.assert_allclose(found[layer], broad(a, row), atol=2e-5)
    np.testing.assert_allclose(chance, 1 - 1 / 70, atol=1e-6)


def test_uniform_attention_is_the_broadest(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    """Of a decoder with full attention it is above the threshold at any length; whoever sees seven keys is never broad."""
    for name, is_broad in (("llama", True), ("mistral", False)):
        model = interp.load(own_model(name), tokenizer=tokenizer)
        for tokens in (10, 60):  # behind BOS
            scores = interp.scan(model, "broad", text=text_of(PLAIN[:tokens]), progress=False)
            found, chance = grids(scores, "broad")
            assert (found <= chance + 1e-6).all()
            assert (chance > Broad().threshold).all() == is_broad


def test_what_lies_on_a_sink_logit_makes_no_head_broad(own_model: Build):
    """Of gpt-oss rows sum to less than one; sinks that take nearly all leave the scores where they are."""
    model = ARCHITECTURES["gpt_oss"].build()
    plain = interp.scan(interp.load(model), "broad", samples=1, progress=False)
    with torch.no_grad():
        model.model.layers[0].self_attn.sinks.fill_(20.0)
    taken = interp.scan(interp.load(model), ["broad", "current_token"], samples=1, progress=False)
    assert (taken.grid("current_token")[0] < 0.01).all()
    np.testing.assert_allclose(taken.grid("broad")[0], plain.grid("broad")[0], atol=1e-4)


def test_too_short_a_text_is_refused(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    with pytest.raises(
        InputError, match="broad: it needs 10 positions, and the text has 9, special tokens included; give a longer"
    ):
        interp.scan(model, "broad", text=text_of(PLAIN[:8]), progress=False)
    with pytest.raises(InputError, match="'broad' cannot be run: it needs 10 positions, and windows of 9 are asked"):
        interp.scan(model, "broad", text=text_of(PLAIN), window=9, progress=False)
    one = interp.scan(model, "broad", text=text_of(PLAIN[:9]), progress=False)
    np.testing.assert_allclose(one.grid("broad", "chance"), 0.9, atol=1e-6)


@pytest.fixture(scope="module")
def prose() -> str:
    return resources.files("interp").joinpath("demo/prose.txt").read_text(encoding="utf-8")


def test_both_are_found_by_name_on_the_demo_model(prose: str):
    scores = interp.scan(
        interp.load("demo"), ["broad", "delimiter", "first_token_sink"], text=prose, window=256, progress=False
    )
    best = scores.of("broad").iloc[0]
    assert (best["layer"], best["head"]) == (0, 3)
    assert best["threshold"] < best["score"] < best["chance"]
    # No head is for delimiters alone, but some look there far more than by chance.
    best = scores.of("delimiter").iloc[0]
    assert (best["layer"], best["head"]) == (3, 1)
    assert 4 * best["chance"] < best["score"] < best["threshold"]
    # BOS is no delimiter: heads that rest on it have next to nothing here.
    sink = scores.of("first_token_sink").iloc[0]
    assert scores.grid("delimiter")[sink["layer"], sink["head"]] < 0.1 < sink["score"]


def test_they_are_drawn_and_reported(own_model: Build, tmp_path: Path):
    model = interp.load(own_model("llama"), tokenizer=marking())
    scores = interp.scan(model, ["delimiter", "broad"], text=words(PLAIN), window=WINDOW, progress=False)
    assert np.asarray(scores.plot("delimiter").data[0].z).shape == (LAYERS, HEADS)
    page = scores.save(tmp_path).read_text("utf-8")
    for name in scores.detectors:
        assert escape(interp.detectors()[name].threshold_source) in page
