"""Detectors on models whose circuits are known, because their weights were set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.scores import HeadScores
from tests.interp.circuits import CONTEXT, IDLE, Head, built, induction_circuit, sink_circuit
from tests.interp.words import text_of, words_tokenizer

NAMES = ("previous_token", "current_token", "duplicate_token", "induction", "induction_text", "copying")
PERIOD = 40
TEXT = text_of((torch.randperm(58, generator=torch.Generator().manual_seed(1))[:PERIOD] + 3).tolist() * 7)
"""Forty words over and over: each token's copies lie 40 apart, far from where idle heads look."""


def scanned(model: torch.nn.Module) -> HeadScores:
    hooked = interp.load(model, tokenizer=words_tokenizer())
    return interp.scan(hooked, text=TEXT, window=CONTEXT, progress=False)


@pytest.fixture(scope="module")
def induction() -> HeadScores:
    return scanned(induction_circuit())


@pytest.fixture(scope="module")
def sink() -> HeadScores:
    return scanned(sink_circuit())


def expect(scores: HeadScores, detector: str, *heads: tuple[int, int]) -> None:
    """At least 0.99 at these heads, at most 0.01 at all others."""
    grid = scores.grid(detector)
    for head in np.ndindex(grid.shape):
        if head in heads:
            assert grid[head] >= 0.99, (detector, head, grid[head])
        else:
            assert grid[head] <= 0.01, (detector, head, grid[head])


@pytest.mark.parametrize(
    ("detector", "heads"),
    [
        ("previous_token", [(0, 0)]),
        ("current_token", []),
        ("duplicate_token", []),
        ("induction", [(1, 1)]),
        ("induction_text", [(1, 1)]),
        ("copying", [(1, 1)]),
    ],
)
def test_the_induction_circuit_is_found_and_nothing_else(detector: str, heads: list, induction: HeadScores):
    expect(induction, detector, *heads)


@pytest.mark.parametrize("detector", NAMES)
def test_a_sink_has_no_other_behaviour(detector: str, sink: HeadScores):
    expect(sink, detector)


def test_the_sink_is_found_and_nothing_else(sink: HeadScores):
    grid = sink.grid("first_token_sink")
    assert grid[1, 0] >= 0.99
    # The queries 0, 1 and 2 of an idle head have no other place: 3 of 64.
    others = np.delete(grid.ravel(), 2)
    np.testing.assert_allclose(others, 3 / 64, atol=1e-6)
    assert (others < sink.grid("first_token_sink", "chance").ravel()[0]).all()


def test_no_head_of_the_induction_circuit_is_a_sink(induction: HeadScores):
    grid = induction.grid("first_token_sink")
    np.testing.assert_allclose(grid[0, 0], 2 / 64, atol=1e-6)
    np.testing.assert_allclose(grid[grid != grid[0, 0]], 3 / 64, atol=1e-6)


def test_without_the_previous_token_head_there_is_no_induction():
    scores = scanned(built([[IDLE, IDLE], [IDLE, Head(back=2, induces=True)]]))
    for detector in NAMES:
        expect(scores, detector)


def test_the_lag_curve_of_the_induction_head_is_one_peak():
    result = interp.heads.lag_curve(interp.load(induction_circuit()), samples=2)
    at = result.lags.index(1)
    assert result.curve[1, 1, at] >= 0.99
    assert np.delete(result.curve[1, 1], at).max() <= 0.01
    result.curve[1, 1] = 0
    assert result.curve.max() <= 0.01


def test_a_hidden_sink_is_found_with_its_token_and_edits_see_it():
    model = interp.load(built([[IDLE, Head(column=7)], [IDLE, IDLE]]), tokenizer=words_tokenizer())
    found = interp.heads.sinks(model, TEXT, massive=False)
    strong = found.columns[found.columns["alpha"] > 0.9]
    assert set(zip(strong["layer"], strong["head"], strong["position"], strict=True)) == {(0, 1, 7)}
    assert found.rate[7] == 0.25
    words = TEXT.split()
    assert strong["token"].tolist()[0] == words[6]  # behind BOS
    assert (
        interp.scan(model, "hidden_sink", text=TEXT, progress=False, window=CONTEXT).grid("hidden_sink")[0, 1] >= 0.99
    )
    with model.edited(interp.edits.cut(keys=7, heads=["L0H1"])):
        assert interp.heads.sinks(model, TEXT, massive=False).rate[7] == 0
