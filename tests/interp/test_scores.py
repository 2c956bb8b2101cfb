"""The table of scores: its rows, the strongest heads, grids, and how it shows itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.errors import InputError
from interp.scores import COLUMNS, HeadScores, Measured
from tests.interp.tiny import HEADS, LAYERS

DETECTORS = [each for each in interp.detectors().values() if each.is_standard and each.name != "next_token"]
"""The standard ones of decoders."""


def measured(scores: torch.Tensor, chance: torch.Tensor | None = None) -> HeadScores:
    """Scores [S, L, H] of the first detector, in two batches."""
    chance = torch.zeros(scores.shape[:2]) if chance is None else chance
    parts = Measured([], [])
    for batch in (slice(0, 1), slice(1, None)):
        parts.add(scores[batch].double(), chance[batch].double())
    return HeadScores.from_samples({DETECTORS[0].name: parts}, DETECTORS[:1], range(parts.scores[0].shape[1]), {})


def test_one_row_for_each_layer_head_and_detector(scores: HeadScores):
    frame = scores.to_frame()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == LAYERS * HEADS * len(DETECTORS)
    assert not frame.duplicated(["layer", "head", "detector"]).any()
    assert frame["score"].between(0, 1).all()
    assert frame["chance"].between(0, 1).all()


def test_the_table_is_a_copy(scores: HeadScores):
    table = scores.to_frame()
    table["score"] = 7.0
    assert scores.to_frame()["score"].max() <= 1


def test_mean_error_and_share():
    found = measured(torch.tensor([[[0.0, 0.9]], [[0.5, 0.7]], [[0.6, 0.2]]]), torch.tensor([[0.1], [0.2], [0.6]]))
    table = found.to_frame()
    assert table["score"].tolist() == pytest.approx([1.1 / 3, 0.6])
    # Sums of squares about the mean, over 2, over 3 samples.
    assert table["stderr"].tolist() == pytest.approx([((0.61 - 1.21 / 3) / 6) ** 0.5, (0.26 / 6) ** 0.5])
    assert table["chance"].tolist() == pytest.approx([0.3, 0.3])
    assert table["share_above"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert table["is_above"].tolist() == [False, True]
    assert table["samples"].tolist() == [3, 3]


def test_samples_without_a_score_are_left_out():
    nan = float("nan")
    found = measured(torch.tensor([[[0.2]], [[nan]], [[0.6]]]), torch.tensor([[0.1], [nan], [0.3]])).to_frame()
    assert found["score"].tolist() == pytest.approx([0.4])
    assert found["chance"].tolist() == pytest.approx([0.2])
    assert found["samples"].tolist() == [2]


def test_one_sample_has_no_error():
    table = measured(torch.tensor([[[0.2, 0.3]]])).to_frame()
    assert table["stderr"].isna().all()
    assert table["samples"].tolist() == [1, 1]


def test_strongest_first():
    found = measured(torch.tensor([[[0.2, 0.9], [0.9, 0.1]]])).of("previous_token")
    assert list(zip(found["layer"], found["head"], strict=True)) == [(0, 1), (1, 0), (0, 0), (1, 1)]


def test_grids_are_layers_by_heads():
    found = measured(torch.tensor([[[0.0, 0.125, 0.25], [0.375, 0.5, 0.625]]]))
    np.testing.assert_allclose(found.grid("previous_token"), [[0.0, 0.125, 0.25], [0.375, 0.5, 0.625]])
    assert found.grid("previous_token", "is_above").tolist() == [[False] * 3, [False, True, True]]


def test_an_unknown_detector_shows_the_nearest(scores: HeadScores):
    for ask in (scores.of, scores.grid, scores.plot):
        with pytest.raises(InputError, match=r"no detector 'previous_tokn'; did you mean 'previous_token'\?"):
            ask("previous_tokn")


def test_representations(scores: HeadScores):
    lines = repr(scores).splitlines()
    assert lines[0] == "HeadScores(LlamaForCausalLM)"
    best = scores.of("induction").iloc[0]
    assert f"strongest L{best['layer']}H{best['head']} {best['score']:.3f} (chance {best['chance']:.3f})" in repr(
        scores
    )
    assert len(lines) == 1 + len(DETECTORS)
    assert scores._repr_html_().count("<tr") == 1 + 3 * len(DETECTORS)


def test_hostile_names_are_escaped_in_notebooks(scores: HeadScores):
    frame = scores.frame.assign(detector="<script>alert(1)</script>")
    assert "<script>" not in HeadScores(frame, {})._repr_html_()


def test_concatenated_tables_keep_their_types(scores: HeadScores):
    both = pd.concat([scores.to_frame(), scores.to_frame()])
    assert {name: str(kind) for name, kind in both.dtypes.items()} == COLUMNS
