"""Every detector's scores, chance levels and errors against its definition on the model's own eager maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.models.hooked import HookedModel
from tests.interp import dense
from tests.interp.heads.dense_scores import ORACLES, uniform
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, token_ids, who_sees_whom
from tests.interp.words import BOS, text_of

TEXT = text_of(token_ids((200,), seed=9))
WINDOW = 70
MODELS = ("llama", "mistral", "gemma2", "gpt2", "gpt_oss")


@dataclass
class Run:
    """One forward run of a scan: its token ids and the labels of its probes."""

    ids: Tensor
    labels: list[str]


def spied(model: HookedModel, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    runs: list[Run] = []
    capture = HookedModel.capture

    def spy(self, inputs, probes=(), *rest, **options):
        runs.append(Run(inputs.ids, [probe.label for probe in probes]))
        return capture(self, inputs, probes, *rest, **options)

    monkeypatch.setattr(HookedModel, "capture", spy)
    return runs


@pytest.fixture(scope="module", params=MODELS)
def scanned(request, own_model, eager_model, tokenizer):
    """A scan by all detectors with probes, and name -> (scores [S, L, H], chance [S, L]) as they should be."""
    name = request.param
    model = interp.load(own_model(name), tokenizer=tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        runs = spied(model, patch)
        scores = interp.scan(
            model, ["standard", "hidden_sink", "broad"], text=TEXT, window=WINDOW, samples=5, progress=False
        )
    expected = {detector: expectation(name, detector, runs, eager_model(name)) for detector in ORACLES}
    return scores, expected, runs


def expectation(name: str, detector: str, runs: list[Run], eager) -> tuple[np.ndarray, np.ndarray]:
    scores, chance = [], []
    for run in runs:
        if detector not in run.labels:
            continue
        keep = torch.ones_like(run.ids, dtype=torch.bool)
        maps = dense.eager_maps(eager, run.ids, keep)
        seen = [who_sees_whom(ARCHITECTURES[name], layer, keep) for layer in range(LAYERS)]
        for number, ids in enumerate(run.ids.tolist()):
            oracle = ORACLES[detector]
            by_layer = [oracle(p[number], ids) for p in maps]
            if by_layer[0] is not None:
                scores.append(torch.stack(by_layer).numpy())
                chance.append([float(oracle(uniform(m[number]), ids)) for m in seen])
    return np.array(scores), np.array(chance)


@pytest.mark.parametrize("detector", ORACLES)
def test_score(detector: str, scanned):
    scores, expected, _ = scanned
    samples, _ = expected[detector]
    np.testing.assert_allclose(scores.grid(detector), samples.mean(0), atol=2e-5)
    assert set(scores.of(detector)["samples"]) == {len(samples)}


@pytest.mark.parametrize("detector", ORACLES)
def test_chance(detector: str, scanned):
    scores, expected, _ = scanned
    _, chance = expected[detector]
    grid = scores.grid(detector, "chance")
    assert grid.shape == (LAYERS, HEADS)
    np.testing.assert_allclose(grid, np.repeat(chance.mean(0)[:, None], HEADS, axis=1), atol=1e-6)


@pytest.mark.parametrize("detector", ORACLES)
def test_standard_error_and_share_above_the_threshold(detector: str, scanned):
    scores, expected, _ = scanned
    samples, _ = expected[detector]
    threshold = interp.detectors()[detector].threshold
    assert len(samples) >= 2
    error = np.sqrt(((samples - samples.mean(0)) ** 2).sum(0) / (len(samples) - 1) / len(samples))
    np.testing.assert_allclose(scores.grid(detector, "stderr"), error, atol=2e-5)
    clear = np.abs(samples - threshold).min(0) > 1e-4  # not within rounding of the threshold
    share = (samples > threshold).mean(0)
    np.testing.assert_allclose(scores.grid(detector, "share_above")[clear], share[clear], atol=1e-12)
    above = samples.mean(0) > threshold
    assert np.array_equal(scores.grid(detector, "is_above")[clear], above[clear])
    assert set(scores.of(detector)["threshold"]) == {threshold}


def test_scores_are_told_apart(scanned):
    """Else a detector could give another one's score. Of repeated tokens a window of 7 hides both copies: scores are 0."""
    scores, _, _ = scanned
    grids = [grid for grid in map(scores.grid, ORACLES) if grid.any()]
    assert len(grids) >= 4
    for number, one in enumerate(grids):
        for other in grids[:number]:
            assert np.abs(one - other).max() > 1e-3


def test_forward_runs_are_shared(scanned):
    """Windows of the text in equal lengths, repeated random tokens, and windows of 64: no run more."""
    _, _, runs = scanned
    shapes = sorted((*run.ids.shape, *run.labels) for run in runs)
    of_windows = ("previous_token", "current_token", "induction_text", "copying", "broad", "broad_sum")
    assert shapes == sorted(
        [
            # 200 tokens in windows of 69, and BOS; the last one has 62.
            (2, 70, *of_windows),
            (1, 63, *of_windows),
            (3, 64, "first_token_sink", "hidden_sink"),
            # 34 tokens twice fit in 70 positions behind BOS.
            (5, 69, "duplicate_token", "induction"),
        ]
    )


def test_text_stands_behind_the_tokenizers_special_tokens(scanned):
    _, _, runs = scanned
    words = [int(word[1:]) for word in TEXT.split()]
    for first in ("previous_token", "first_token_sink"):
        rows = [row for run in runs if run.labels[0] == first for row in run.ids.tolist()]
        assert all(row[0] == BOS for row in rows)
        joined = [i for row in rows for i in row[1:]]
        assert joined == words[: len(joined)]
        assert len(joined) >= 189
