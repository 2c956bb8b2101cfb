"""The lag curve by its formula on dense maps, and beside the scores that it must agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.errors import InputError
from interp.heads.lag_curve import LagCurve
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, CONTEXT, HEADS, LAYERS, right_padded, who_sees_whom
from tests.interp.words import BOS, text_of

LAGS = (-3, -2, -1, 0, 1, 2, 3)


def curve(p: Tensor, ids: list[int], lags: tuple[int, ...]) -> np.ndarray:
    """[H, lags] by the definition, one query and one copy at a time. p: [H, T, T]."""
    first = 1 if ids[0] == BOS else 0
    columns = []
    for lag in lags:
        of_queries = []
        for i, token in enumerate(ids):
            keys = [j + lag for j in range(i) if ids[j] == token and first <= j + lag <= i]
            if keys:
                of_queries.append(p[:, i, keys].mean(-1))
        columns.append(torch.stack(of_queries).mean(0) if of_queries else torch.full((len(p),), torch.nan))
    return torch.stack(columns, -1).numpy()


def repetitive(lengths: tuple[int, ...], seed: int, kinds: int = 6) -> tuple[list[list[int]], Tensor, Tensor]:
    """Few kinds of tokens, so that copies follow one another closely."""
    _, ids, keep = right_padded(lengths, seed)
    ids = torch.where(keep, ids % kinds + 3, 0)
    return [row[kept].tolist() for row, kept in zip(ids, keep, strict=True)], ids, keep


@pytest.mark.parametrize("kinds", [1, 6, 40])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss"])
def test_the_curve_is_that_of_the_dense_maps(name: str, kinds: int, own_model, eager_model):
    rows, ids, keep = repetitive((37, 21), seed=4, kinds=kinds)
    result = interp.heads.lag_curve(interp.load(own_model(name)), rows, lags=LAGS)
    maps = dense.eager_maps(eager_model(name), ids, keep)
    for layer, p in enumerate(maps):
        expected = np.stack([curve(p[b], row, LAGS) for b, row in enumerate(rows)])
        np.testing.assert_allclose(result.curve[layer], np.nanmean(expected, 0), atol=3e-6)
        np.testing.assert_allclose(
            result.stderr[layer], np.std(expected, axis=0, ddof=1) / 2**0.5, atol=3e-6, equal_nan=True
        )
        seen = [who_sees_whom(ARCHITECTURES[name], layer, torch.ones(1, len(row)).bool()) for row in rows]
        levels = [
            curve((m / m.sum(-1, keepdim=True)).double(), row, LAGS)[0] for m, row in zip(seen, rows, strict=True)
        ]
        np.testing.assert_allclose(result.chance[layer], np.mean(levels, 0), atol=1e-6)


def test_on_repeated_random_tokens_it_holds_the_scores_of_a_scan(own_model):
    """lag +1 is the induction score, lag 0 the duplicate-token score, with their errors and chance levels."""
    model = interp.load(own_model("llama"))
    result = interp.heads.lag_curve(model, samples=4, seed=2)
    scores = interp.scan(model, ["induction", "duplicate_token"], samples=4, seed=2, progress=False)
    for lag, name in ((1, "induction"), (0, "duplicate_token")):
        at = result.lags.index(lag)
        np.testing.assert_allclose(result.at(lag), scores.grid(name), atol=1e-6)
        np.testing.assert_allclose(result.stderr[:, :, at], scores.grid(name, "stderr"), atol=1e-6)
        np.testing.assert_allclose(result.chance[:, at], scores.grid(name, "chance")[:, 0], atol=1e-6)
    assert result.samples.tolist() == [4] * 11


def test_bos_in_front_is_no_neighbour(own_model, tokenizer):
    """w5 w6 w5: what stands before the first w5 is BOS, so there is no pair at lag -1; w7 w5 w6 w5 has one."""
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    assert np.isnan(interp.heads.lag_curve(model, "w5 w6 w5", lags=(-1,)).curve).all()
    with_one = interp.heads.lag_curve(model, "w7 w5 w6 w5", lags=(-1,)).curve
    row = model.maps("w7 w5 w6 w5")[0].rows([4])[0, :, 0]
    np.testing.assert_allclose(with_one[0, :, 0], row[:, 1], atol=1e-6)


def test_padding_on_the_left_changes_nothing(own_model):
    model = interp.load(own_model("llama"))
    rows, _, _ = repetitive((37, 21), seed=4)
    right = interp.heads.lag_curve(model, rows)
    left = interp.heads.lag_curve(model, model.batch(rows, padding="left"))
    np.testing.assert_allclose(left.curve, right.curve, atol=2e-6)
    np.testing.assert_allclose(left.chance, right.chance, atol=1e-6)


def test_the_demo_models_induction_heads_peak_behind_the_copy():
    result = interp.heads.lag_curve(interp.load("demo"))
    layer, head = np.unravel_index(int(result.at(1).argmax()), (4, 6))
    curve = result.curve[layer, head]
    assert layer == 2
    assert curve.argmax() == result.lags.index(1)
    assert curve.max() > 0.5
    assert np.delete(curve, result.lags.index(1)).max() < 0.1


def test_a_result_is_kept_and_shown(own_model, tmp_path: Path):
    model = interp.load(own_model("gpt2"))
    result = interp.heads.lag_curve(model, lags=LAGS, samples=2, span=20)
    assert interp.heads.lag_curve(model, lags=LAGS, samples=2, span=20).curve.tobytes() == result.curve.tobytes()
    again = LagCurve.load(result.save(tmp_path / "curve"))
    assert again.curve.tobytes() == result.curve.tobytes()
    assert (again.lags, again.layers, again.settings) == (result.lags, result.layers, result.settings)
    frame = again.to_frame()
    assert len(frame) == LAYERS * HEADS * len(LAGS)
    row = frame[(frame["layer"] == 1) & (frame["head"] == 2) & (frame["lag"] == -1)].iloc[0]
    assert row["attention"] == result.curve[1, 2, 2]
    assert len(again.plot().data) == LAYERS * HEADS + 1
    assert "lag +1: most in L" in again.summary()


def test_without_a_copy_there_is_no_curve(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    for given in (text_of(range(3, 23)), [5]):
        with pytest.raises(InputError, match="lag_curve: none of the tokens comes twice"):
            interp.heads.lag_curve(model, given)


def test_a_lag_that_no_query_has_is_nan(own_model):
    result = interp.heads.lag_curve(interp.load(own_model("llama")), [5, 6, 5], lags=(-2, -1, 0, 1, 2, 3))
    assert np.isnan(result.curve[0, 0]).tolist() == [True, True, False, False, False, True]
    assert "lag -2: no query has that pair" in result.summary()
    result.plot()
    with pytest.raises(InputError, match="lag 7 was not measured"):
        result.at(7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lags": ()}, r"lags: expected different whole numbers from -64 to 64, got \(\)"),
        ({"lags": (1, 1)}, "lags: expected different whole numbers"),
        ({"lags": (0, 65)}, "lags: expected different whole numbers"),
        ({"lags": (True,)}, "lags: expected different whole numbers"),
        ({"span": 1}, "span: expected a whole number of at least 2, got 1"),
        ({"seed": 2**70}, r"seed: expected an integer from 0 to 2\*\*32 - 1, got"),
        ({"samples": 0}, "samples: expected a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(given, message, own_model):
    with pytest.raises(InputError, match=message):
        interp.heads.lag_curve(interp.load(own_model("llama")), **given)


def test_an_encoder_is_refused(own_model):
    with pytest.raises(InputError, match="defined for heads that look back only, and BertModel sees both ways"):
        interp.heads.lag_curve(interp.load(own_model("bert")), [5, 6, 5])


def test_settings_say_the_span_that_the_context_holds(own_model):
    result = interp.heads.lag_curve(interp.load(own_model("llama")), span=5000, samples=1)
    ran = result.settings["inputs"]["described"]
    assert f"1 sequences of {result.settings['constants']['span']} random tokens, twice" in ran
    assert result.settings["constants"]["span"] == (CONTEXT - 1) // 2
