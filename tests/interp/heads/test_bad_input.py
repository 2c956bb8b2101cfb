"""What a newcomer may hand to the analyses of heads by mistake: one error in words, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import interp
from interp import causal, flow, heads
from interp.errors import InputError
from interp.models.hooked import HookedModel

TEXT = "The cat sat on the mat"


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.retrieval(m, stop=5), "stop: expected a list of texts"),
        (lambda m: heads.retrieval(m, seed=-1), "seed: expected an integer from 0"),
        (lambda m: heads.retrieval(m, folder=5), "folder: expected a path"),
        (lambda m: heads.needle_recall(m, [5]), "trials: expected those of interp.heads.needle_trials"),
        (lambda m: heads.needle_recall(m, "abc"), "trials: expected those of interp.heads.needle_trials"),
        (lambda m: heads.maps_score(m, None), "pairs: expected at least one pair"),
        (lambda m: heads.maps_score(m, 5), "pairs: expected at least one pair"),
        (lambda m: heads.surface(m, TEXT, classes=5), "classes: expected names with a function of a token each, got 5"),
        (lambda m: heads.surface(m, TEXT, classes=["a"]), "classes: expected names with a function"),
        (lambda m: heads.surface(m, TEXT, classes={"a": 5}), "classes: expected names with a function"),
        (lambda m: heads.surface(m, TEXT).plot([]), "statistics: expected at least one of previous_token"),
        (lambda m: heads.surface(m, TEXT).of(5), "there is no statistic 5 here"),
        (lambda m: heads.divergences(m, TEXT, seed=-1), "seed: expected an integer from 0"),
        (lambda m: heads.divergences(m, TEXT, seed="a"), "seed: expected an integer from 0"),
        (lambda m: heads.Pattern.named(5), "unknown pattern 5; known: previous_token_head"),
        (lambda m: heads.surface(m, TEXT).plot(5), "statistics: expected at least one of previous_token"),
        (lambda m: heads.surface(m, TEXT).plot_profile([1]), r"heads: \[1\] is not among those measured"),
        (lambda m: heads.lag_curve(m, samples=1).at(torch.zeros(2)), "lag tensor.* was not measured"),
        (lambda m: heads.LookbackDetector.fit([0.5], [1]), "ratios: expected those that interp.heads.lookback gives"),
        (lambda m: heads.distance_divergence(1, 2), "one: expected what interp.views.head_profile gives, got int"),
        (lambda m: flow.norm_attention(m, TEXT, classes=5), "classes: expected names with a function of a token each"),
        (lambda m: flow.norm_attention(m, TEXT, classes={"a": 5}), "classes: expected names with a function"),
        (lambda m: flow.routes(m, TEXT).to_json(5), "path: expected a path, got 5"),
        (lambda m: flow.routes(m, TEXT).save(""), "folder: expected a path, got ''"),
        (lambda m: flow.Routes.load(None), "folder: expected a path, got None"),
        (lambda m: causal.importance(m, TEXT, layers=5), "layers: expected .* got 5"),
        (lambda m: causal.heads_above([1]), "scores: expected the HeadScores of a scan, got list"),
        (lambda m: causal.verify(m, "L2H5", "induction", exclude=torch.zeros(2, 3)), "head tensor"),
        (lambda m: heads.Pattern.named([1]), r"unknown pattern \[1\]; known: previous_token_head"),
    ],
)
def test_it_is_refused_in_words(call: Callable[[Any], Any], message: str, demo: HookedModel):
    with pytest.raises(InputError, match=message):
        call(demo)


def test_a_statistic_may_be_plotted_by_its_name(demo: HookedModel):
    assert [a.text for a in heads.surface(demo, TEXT).plot("entropy").layout.annotations] == ["entropy, nats"]


def test_names_of_classes_stay_text(demo: HookedModel):
    result = heads.surface(demo, TEXT, classes={"<b>all</b>": lambda token: True})
    assert [a.text for a in result.plot("<b>all</b>").layout.annotations] == ["&lt;b&gt;all&lt;/b&gt;, mass"]
