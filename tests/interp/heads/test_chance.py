"""Chance levels in closed form: what uniform attention over the visible keys scores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import interp
from tests.interp.tiny import ARCHITECTURES, CONTEXT, LAYERS
from tests.interp.tiny import WINDOW as W

SPAN, T = 50, 101
"""Repeated random tokens: BOS, then 50 tokens, twice."""


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def keys(i: int, window: int | None) -> int:
    """How many keys the query at position i sees."""
    return i + 1 if window is None else min(i + 1, window)


def chance(name: str, own_model, text: str | None = None, tokenizer=None, window: int | None = None) -> dict:
    model = interp.load(own_model(name), tokenizer=tokenizer)
    wanted = ["standard", "broad", *(["hidden_sink"] if model.shape.is_causal else [])]
    scores = interp.scan(model, wanted, text=text, window=window, samples=2, progress=False)
    return {detector: [row[0] for row in scores.grid(detector, "chance")] for detector in scores.detectors}


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_random_tokens(name: str, own_model):
    """Full attention, one layer of a sliding window before one of full attention, and windows everywhere."""
    found = chance(name, own_model)
    for layer in range(LAYERS):
        w = ARCHITECTURES[name].windows[layer]
        expected = {
            "previous_token": mean([1 / keys(i, w) for i in range(1, CONTEXT)]),
            "current_token": mean([1 / keys(i, w) for i in range(CONTEXT)]),
            "first_token_sink": mean([1 / keys(i, w) if i < keys(i, w) else 0.0 for i in range(64)]),
            # Of the columns that 10 queries follow: the second with full attention, those of shortest rows with a window.
            "hidden_sink": max(mean([1 / keys(i, w) for i in range(k, min(64, k + (w or 64)))]) for k in range(1, 54)),
            "broad": mean([1 - 1 / keys(i, w) for i in range(9, CONTEXT)]),
            # The earlier copy lies 50 positions back, what followed it 49: both out of a window of 7.
            "duplicate_token": 0.0 if w else mean([1 / (i + 1) for i in range(T - SPAN, T)]),
            "induction": 0.0 if w else mean([1 / (i + 1) for i in range(T - SPAN, T)]),
        }
        assert {name: values[layer] for name, values in found.items()} == pytest.approx(expected, abs=1e-6)


def test_text_with_copies(own_model, tokenizer):
    """w5 w6 w7 w8 over and over, behind BOS: query i has its token at i - 4, i - 8, ... above BOS."""
    found = chance("llama", own_model, " ".join(["w5 w6 w7 w8"] * 20), tokenizer)
    repeats = range(5, 81)
    assert found["induction_text"] == pytest.approx(
        [mean([((i - 1) // 4) / (i + 1) for i in repeats])] * LAYERS, abs=1e-6
    )


def test_text_with_copies_in_a_window(own_model, tokenizer):
    """In 7 positions there is one copy, 4 back, and the position after it, 3 back."""
    found = chance("mistral", own_model, " ".join(["w5 w6 w7 w8"] * 20), tokenizer)
    expected = mean([1 / keys(i, W) for i in range(5, 81)])
    assert found["induction_text"] == pytest.approx([expected] * LAYERS, abs=1e-6)


def test_an_encoder_sees_everything(own_model):
    found = chance("bert", own_model)
    assert found == {
        "previous_token": pytest.approx([1 / CONTEXT] * LAYERS, abs=1e-8),
        "current_token": pytest.approx([1 / CONTEXT] * LAYERS, abs=1e-8),
        "next_token": pytest.approx([1 / CONTEXT] * LAYERS, abs=1e-8),
        "first_token_sink": pytest.approx([1 / 64] * LAYERS, abs=1e-8),
        "broad": pytest.approx([1 - 1 / CONTEXT] * LAYERS, abs=1e-6),
    }
