"""Lookback ratios against their formula on dense maps, and the detector against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import interp
from interp import edits
from interp.demo.needles import NAMES, draw_needle
from interp.errors import InputError
from interp.heads.lookback import Lookback, LookbackRatios, lookback
from interp.heads.lookback_detector import LookbackDetector
from tests.interp import dense
from tests.interp.tiny import HEADS, LAYERS, token_ids
from tests.interp.words import BOS, text_of

Build = Callable[[str], PreTrainedModel]
PROMPT, ANSWER = token_ids((9,), seed=1), token_ids((6,), seed=2)


MASS = 3e-5
"""How far a mass may be off, as in tests/interp/models/test_statistics.py."""


def by_formula(p: torch.Tensor, prompt: int, context: range, new: int) -> tuple[np.ndarray, np.ndarray]:
    """[H, N] from a map [H, T, T] over prompt and answer, and how far it is off where the masses c and w are.

    With r = c / (c + w): |dr| <= (|dc| + |dw|) / (c + w).
    """
    ratios = np.full((p.shape[0], new), np.nan)
    bound = np.zeros_like(ratios)
    for n in range(1, new):
        row = p[:, prompt - 1 + n]
        c = sum(row[:, j] for j in context) / len(context)
        w = sum(row[:, j] for j in range(prompt, prompt + n)) / n
        ratios[:, n] = c / (c + w)
        bound[:, n] = MASS * (1 / len(context) + 1 / n) / (c + w)
    return ratios, bound


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("context", [None, slice(2, 5)])
def test_ratios_are_their_formula(
    name: str, context: slice | None, own_model: Build, eager_model: Build, tokenizer: PreTrainedTokenizerFast
):
    model = interp.load(own_model(name), tokenizer=tokenizer)
    found = lookback(model, text_of(PROMPT), [ANSWER.tolist()], context=context)
    ids = torch.cat([torch.tensor([BOS]), PROMPT, ANSWER])[None]
    maps = dense.eager_maps(eager_model(name), ids, torch.ones_like(ids, dtype=torch.bool))
    columns = range(10) if context is None else range(2, 5)
    assert found.ratios.shape == (1, LAYERS, HEADS, 6)
    for layer, p in enumerate(maps):
        exact, bound = by_formula(p[0], 10, columns, 6)
        assert np.array_equal(np.isnan(found.ratios[0, layer]), np.isnan(exact))
        assert (np.abs(found.ratios[0, layer] - exact) <= bound)[:, 1:].all()
        assert np.nanstd(exact) > 0.05


def test_rows_of_a_generation_are_those_of_its_text(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(PROMPT)
    generation = model.generate(text, 5, ["entropy"])
    given = lookback(model, text, [generation.new_ids[0].tolist()])
    found = lookback(model, text, max_new_tokens=5)
    assert np.array_equal(found.ratios, given.ratios, equal_nan=True)
    assert found.tokens == given.tokens
    masses = [
        model.generate(
            text,
            5,
            lambda step: [interp.KeyMass((torch.arange(step.keys) < step.prompt).float()[:, None], name="context")],
            prefill_probes=None,
        ).steps[n]["context"]
        for n in (1, 4)
    ]
    for n, mass in zip((1, 4), masses, strict=True):
        for layer in range(LAYERS):
            context = mass[layer][0, :, 0, 0].double().numpy()
            total = context / 10 + (1 - context) / n
            assert (
                np.abs(found.ratios[0, layer, :, n] - context / 10 / total) <= MASS * (1 / 10 + 1 / n) / total
            ).all()


def test_uniform_attention_has_a_half(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    with model.edited(edits.uniform("all")):
        found = lookback(model, text_of(PROMPT), text_of(ANSWER))
    np.testing.assert_allclose(found.ratios[..., 1:], 0.5, atol=1e-6)
    assert np.isnan(found.ratios[..., 0]).all()
    np.testing.assert_allclose(found.mean(), 0.5, atol=1e-6)


def test_shorter_responses_are_filled_with_nan(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    texts = [text_of(PROMPT), text_of(PROMPT[:4])]
    found = lookback(model, texts, [text_of(ANSWER), text_of(ANSWER[:3])])
    alone = lookback(model, texts[1], text_of(ANSWER[:3]))
    assert [len(tokens) for tokens in found.tokens] == [6, 3]
    assert np.array_equal(found.ratios[1, :, :, :3], alone.ratios[0], equal_nan=True)
    assert np.isnan(found.ratios[1, :, :, 3:]).all()
    features, places = found.windows(2)
    assert places.to_numpy().tolist() == [[0, 1, 3], [0, 2, 4], [0, 3, 5], [0, 4, 6], [1, 1, 3]]
    np.testing.assert_allclose(features[1], found.ratios[0].reshape(-1, 6)[:, 2:4].mean(1), rtol=1e-6)
    frame = found.to_frame()
    assert len(frame) == (5 + 2) * LAYERS * HEADS
    assert set(frame.query("sequence == 1")["token"]) == set(found.tokens[1][1:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": ""}, "prompts: expected a text or texts, got ''"),
        ({"prompts": ["w5", "w6"], "responses": "w7"}, "responses: expected one for each of the 2 prompts, got 1"),
        ({"prompts": 5}, "prompts: expected a text or texts, got 5"),
        ({"responses": 5}, "responses: expected a text, or for each prompt a text or token ids, got 5"),
        ({"responses": [5]}, "responses: number 0: expected a text or the ids of tokens, got 5"),
        ({"responses": [[1.5, 2]]}, r"responses: number 0: expected a text or the ids of tokens, got \[1.5, 2\]"),
        ({"responses": "w7", "context": slice(0, 2, 0)}, "context: expected a slice of whole numbers, got slice"),
        ({"responses": "w7", "context": slice("a", 2)}, "context: expected a slice of whole numbers, got slice"),
        ({"responses": [[]]}, "responses: one is empty"),
        ({"responses": "w7", "temperature": 1.0}, r"settings \['temperature'\] are of generation"),
        ({"context": slice(7, 9)}, r"context: slice\(7, 9, None\) holds none of the prompt's 4 tokens"),
        ({"context": 3}, "context: expected a slice of the prompt's tokens, or one for each prompt, got 3"),
        ({"context": [slice(0, 1)] * 2}, "context: expected one for each of the 1 prompts, got 2"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str, own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    with pytest.raises(InputError, match=message):
        lookback(model, **{"prompts": "w5 w6 w7", **given})


def test_models_that_do_not_write_on_are_refused(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(InputError, match=r"lookback: it needs texts, and .* has no tokenizer"):
        lookback(interp.load(own_model("llama")), "w5", "w6")
    with pytest.raises(InputError, match="lookback: it is defined for models that write on what they were given"):
        lookback(interp.load(own_model("bert"), tokenizer=tokenizer), "w5", "w6")


def random_ratios(seed: int, sequences: int = 12, tokens: int = 7) -> LookbackRatios:
    ratios = np.random.default_rng(seed).random((sequences, 2, 3, tokens), dtype=np.float32)
    ratios[..., 0] = np.nan
    names = tuple(tuple(f"t{n}" for n in range(tokens)) for _ in range(sequences))
    return LookbackRatios(settings={"model": {"model": "drawn"}}, ratios=ratios, layers=("0", "1"), tokens=names)


def test_the_detector_is_the_regression_of_scikit_learn(tmp_path: Path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    ratios, labels = random_ratios(0), [[int(n < 5 or s % 2) for n in range(7)] for s in range(12)]
    detector = LookbackDetector.fit(ratios, labels, window=3, penalty=0.1)
    rows, y = [], []
    for s in range(12):
        for start in range(1, 5):
            rows.append(ratios.ratios[s, :, :, start : start + 3].astype(np.float64).mean(-1).ravel())
            y.append(min(labels[s][start : start + 3]))
    reference = LogisticRegression(C=10.0, max_iter=1000).fit(np.array(rows), y)
    probability = reference.predict_proba(np.array(rows))[:, 1]
    found = detector.apply(ratios)
    np.testing.assert_allclose(found["probability"], probability, rtol=1e-9)
    assert detector.auroc(ratios, labels) == roc_auc_score(y, probability)
    assert detector.windows == 48
    assert detector.share == np.mean(y)
    again = LookbackDetector.load(detector.save(tmp_path))
    assert again.apply(ratios).equals(found)
    assert len(again.to_frame()) == 6
    assert again.plot().data[0].z.shape == (2, 3)
    assert not list(tmp_path.glob("*.pkl"))


def test_labels_and_ratios_that_do_not_fit_the_detector_are_refused():
    ratios = random_ratios(0)
    for labels, message in ((1, "12 sequences, got 1"), ([None] * 12, "sequence 0 has 7 new tokens; expected 0 or 1")):
        with pytest.raises(InputError, match=message):
            LookbackDetector.fit(ratios, labels, window=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="penalty: expected a number above 0, got inf"):
        LookbackDetector.fit(ratios, [0, 1] * 6, window=3, penalty=float("inf"))
    with pytest.raises(InputError, match="sequence 'a' does not exist: there are 12"):
        ratios.plot("a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="labels: expected one for each of the 12 sequences, got 2"):
        LookbackDetector.fit(ratios, [0, 1], window=3)
    with pytest.raises(
        InputError, match="labels: sequence 0 has 7 new tokens; expected 0 or 1, or so many of them, got 2"
    ):
        LookbackDetector.fit(ratios, [2] * 12, window=3)
    with pytest.raises(InputError, match="labels: all 48 windows of 3 new tokens are 0"):
        LookbackDetector.fit(ratios, [0] * 12, window=3)
    with pytest.raises(
        InputError, match="size: windows of 8 new tokens need 9 of them, as the first has no ratio; the longest"
    ):
        LookbackDetector.fit(ratios, [0, 1] * 6)
    with pytest.raises(InputError, match="penalty: expected a number above 0, got 0"):
        LookbackDetector.fit(ratios, [0, 1] * 6, window=3, penalty=0)
    detector = LookbackDetector.fit(ratios, [0, 1] * 6, window=3)
    other = LookbackRatios(settings={}, ratios=ratios.ratios[:, :1], layers=("0",), tokens=ratios.tokens)
    with pytest.raises(InputError, match=r"fitted on layers .* of 3 heads, and these are of layers"):
        detector.apply(other)


def test_hostile_tokens_are_shown_as_text():
    drawn = random_ratios(0, sequences=1, tokens=2)
    hostile = LookbackRatios(
        settings={}, ratios=drawn.ratios, layers=drawn.layers, tokens=(("<img src=x onerror=alert(1)>", "<b>"),)
    )
    figure = hostile.plot()
    assert not any("<" in text for text in figure.layout.xaxis.ticktext)
    with pytest.raises(InputError, match="sequence 1 does not exist: there are 1"):
        hostile.plot(1)


def test_as_a_detector_it_reads_passages_of_the_text():
    prose = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")
    given = Lookback(prompt_tokens=40, new_tokens=6)
    scores = interp.scan(interp.load("demo"), given, text=prose, samples=2, progress=False)
    frame = scores.to_frame()
    assert (frame["chance"] == 0.5).all()
    assert (frame["samples"] == 2).all()
    assert frame["score"].between(0, 1).all()
    assert scores.settings["inputs"]["lookback"].startswith(
        "2 passages of the text, prompts of 40 tokens, 6 more written"
    )
    with pytest.raises(InputError, match=r"lookback: the text has .* tokens, fewer than the 39 of a prompt"):
        interp.scan(interp.load("demo"), given, text="Too short.", progress=False)


def test_a_window_that_cannot_hold_prompt_and_answer_is_refused(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    given, text = Lookback(prompt_tokens=20, new_tokens=4), text_of(token_ids((80,), seed=5))
    with pytest.raises(
        InputError, match="'lookback' cannot be run: it needs 24 positions, and windows of 23 are asked"
    ):
        interp.scan(model, given, text=text, window=23, progress=False)
    whole, cut = (interp.scan(model, given, text=text, window=size, progress=False) for size in (None, 24))
    assert cut.frame.equals(whole.frame)
    with pytest.raises(InputError, match="it needs 400 positions, and the context of LlamaForCausalLM is 256"):
        interp.scan(model, Lookback(prompt_tokens=300, new_tokens=100), text=text, progress=False)


def test_no_run_is_longer_than_its_positions(
    own_model: Build, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
):
    """With the special tokens that the tokenizer adds."""
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    lengths, capture = [], interp.HookedModel.capture

    def spy(self, inputs, *rest, **options):
        lengths.append(len(inputs[0]))
        return capture(self, inputs, *rest, **options)

    monkeypatch.setattr(interp.HookedModel, "capture", spy)
    given = Lookback(prompt_tokens=20, new_tokens=4)
    interp.scan(model, given, text=text_of(token_ids((80,), seed=5)), samples=3, progress=False)
    assert len(lengths) == 3
    assert max(lengths) == given.positions == 24


@pytest.mark.parametrize("option", [{"prompt_tokens": 1}, {"new_tokens": 1}, {"new_tokens": 2.0}])
def test_lengths_that_have_no_ratio_are_refused(option: dict):
    with pytest.raises(InputError, match=r"lookback: (prompt|new)_tokens: expected an integer of at least 2, got"):
        Lookback(**option)


def needle_values(model: interp.HookedModel, seed: int, count: int) -> tuple[LookbackRatios, list[int]]:
    """Right and wrong values after the question for a needle."""
    generator = np.random.default_rng(seed)
    prompts, responses, labels = [], [], []
    for number in range(count):
        needle = draw_needle(generator, ["river"], NAMES[int(generator.integers(len(NAMES)))], number=True)
        wrong = "".join(str(digit) for digit in generator.integers(10, size=5))
        prompts.append(f"{needle.statement} The lamp was out, and nobody came to the garden. {needle.cloze}")
        responses.append(f" {wrong if number % 2 else needle.value}.")
        labels.append(1 - number % 2)
    return lookback(model, prompts, responses), labels


def test_on_the_demo_model_it_tells_right_values_from_wrong_ones():
    model = interp.load("demo")
    detector = LookbackDetector.fit(*needle_values(model, 0, 30), window=5)
    assert detector.auroc(*needle_values(model, 1, 20)) > 0.8


def test_settings_tell_responses_of_equal_length_apart(own_model: Build, tokenizer: PreTrainedTokenizerFast):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    first, other, again = (
        lookback(model, "w5 w6 w7", given).settings["inputs"] for given in ("w8 w9", "w8 w8", "w8 w9")
    )
    assert first == again != other
