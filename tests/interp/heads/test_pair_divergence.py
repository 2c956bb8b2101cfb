"""The divergence of two maps by query: against the formula on dense maps, on maps made by hand, and what is refused."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.heads import PairDivergence, distance_divergence, divergences, pair_divergence
from interp.inputs.batch import Batch
from interp.views import head_profile
from interp_kernels import AttentionMap, Mask, attend
from tests.interp import dense
from tests.interp.tiny import right_padded, token_ids

Build = Callable[[str], PreTrainedModel]
MODULE = importlib.import_module("interp.heads.pair_divergence")  # the package's attribute of that name is the function


def by_formula(p: Tensor, q: Tensor, smoothing: float) -> np.ndarray:
    """The definition of the docstring on dense rows [n, keys], float64, cell by cell."""
    found = []
    for row, other in zip(p.double().tolist(), q.double().tolist(), strict=True):
        total = 0.0
        for pair in zip(row, other, strict=True):
            a, b = ((1 - smoothing) * x + smoothing / len(row) for x in pair)
            m = (a + b) / 2
            total += (a * math.log(a / m) if a else 0.0) / 2 + (b * math.log(b / m) if b else 0.0) / 2
        found.append(total)
    return np.array(found)


def random_map(queries: int, mask: Mask, seed: int, sharp: float = 3.0) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, queries, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    return attend(sharp * q, k, v, mask=mask, backend="reference").map


@pytest.mark.parametrize("smoothing", [0.0, 0.001, 0.3])
@pytest.mark.parametrize(
    ("mask", "other_mask"),
    [(Mask.causal(), Mask.causal()), (Mask.causal(window=5), Mask.causal()), (Mask.full(), Mask.full(window=9))],
    ids=["causal", "one with a window", "both ways"],
)
def test_it_is_its_formula_whatever_the_tiles(
    mask: Mask, other_mask: Mask, smoothing: float, monkeypatch: pytest.MonkeyPatch
):
    one, other = random_map(37, mask, 0), random_map(37, other_mask, 1)
    exact = by_formula(one.dense()[0, 1], other.dense()[0, 0], smoothing)
    for rows, columns in ((256, 2048), (5, 7)):
        monkeypatch.setattr(MODULE, "ROWS", rows)
        monkeypatch.setattr(MODULE, "COLUMNS", columns)
        found = pair_divergence(one, 1, other, 0, smoothing=smoothing)
        # float64 on both sides: some tens of roundings of 1e-16 each, in maps and sums.
        np.testing.assert_allclose(found.by_query, exact, rtol=0, atol=1e-13)
        assert found.divergence == pytest.approx(exact.mean(), abs=1e-13)
    assert exact.max() > 0.1


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "bert"])
def test_on_models_it_is_the_formula_and_what_divergences_says_of_the_pair(
    name: str, own_model: Build, eager_model: Build
):
    _, ids, keep = right_padded((12, 20), seed=3)
    model, batch = interp.load(own_model(name)), Batch(ids, keep)
    maps, exact = model.maps(batch), dense.eager_maps(eager_model(name), ids, keep)
    means = []
    for sequence, length in enumerate((12, 20)):
        found = pair_divergence(maps[1], 2, maps[0], 3, batch=sequence, other_batch=sequence, smoothing=0.01)
        one, other = (map_[sequence, head, :length, :length] for map_, head in ((exact[1], 2), (exact[0], 3)))
        # As of divergences: |dJS / dP| is at most about 4, over P that are right to 3e-5.
        np.testing.assert_allclose(found.by_query[:length], by_formula(one, other, 0.01), rtol=0, atol=4 * 3e-5)
        assert np.isnan(found.by_query[length:]).all()
        means.append(found.divergence)
    whole = divergences(model, batch, ["L1H2", "L0H3", "L0H0"], smoothing=0.01)
    pair = whole.divergence[whole.heads.index("L1H2"), whole.heads.index("L0H3")]
    assert pair == pytest.approx((12 * means[0] + 20 * means[1]) / 32, abs=1e-7)


def test_equal_heads_have_none_and_heads_without_a_key_in_common_have_ln_2():
    values = torch.zeros(1, 1, 6, 4, dtype=torch.float64)
    keys = torch.eye(6, dtype=torch.float64)[None, None]
    # Sharp enough that exp underflows: query i looks at key i, or at key 0 alone.
    own = attend(keys * 1e4, keys, values, mask=Mask.causal()).map
    first = attend(keys[:, :, :1].expand(1, 1, 6, 6) * 1e4, keys, values, mask=Mask.causal()).map
    assert not pair_divergence(own, 0, own, 0).by_query.any()
    apart = pair_divergence(own, 0, first, 0, smoothing=0.0).by_query
    np.testing.assert_allclose(apart, [0.0, *[math.log(2)] * 5], rtol=0, atol=1e-15)


def test_it_is_the_same_both_ways():
    one, other = random_map(20, Mask.causal(), 2), random_map(20, Mask.causal(), 3)
    there, back = pair_divergence(one, 0, other, 1), pair_divergence(other, 1, one, 0)
    assert np.array_equal(there.by_query, back.by_query)


def test_no_map_is_built(monkeypatch: pytest.MonkeyPatch):
    one, other = random_map(600, Mask.causal(), 2), random_map(600, Mask.causal(), 3)
    monkeypatch.setattr(MODULE, "COLUMNS", 128)
    sizes: list[int] = []
    tile = AttentionMap.tile

    def counted(self: AttentionMap, rows: slice, cols: slice) -> Tensor:
        found = tile(self, rows, cols)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(AttentionMap, "tile", counted)
    pair_divergence(one, 0, other, 0)
    assert max(sizes) <= 256 * 128
    # Of a causal map no tile lies above the diagonal: of 3 strips of rows and 5 of keys, 2 + 4 + 5, in both maps.
    assert len(sizes) == 2 * (2 + 4 + 5)


def test_two_texts_of_one_length_are_compared_by_position_and_others_refused(own_model: Build):
    model = interp.load(own_model("llama"))
    one, other, longer = (model.maps(token_ids((1, n), seed=n + s))[1] for s, n in ((0, 9), (5, 9), (0, 12)))
    assert (pair_divergence(one, 0, other, 0).by_query[1:] > 0).all()
    with pytest.raises(InputError, match="expected a map of 9 queries and 9 keys like the first one, got 12 and 12"):
        pair_divergence(one, 0, longer, 0)


def test_shares_by_distance_are_compared_whatever_the_lengths():
    short, long = (head_profile(random_map(n, Mask.causal(), n), 0) for n in (9, 40))
    found = distance_divergence(short, long)
    p, q = np.pad(short.distance, (0, len(long.distance) - len(short.distance))), long.distance
    exact = by_formula(torch.from_numpy(p)[None], torch.from_numpy(q)[None], 0.0)
    assert found.weights == pytest.approx(exact[0], abs=1e-12)
    assert found.chance > 0
    assert distance_divergence(short, short) == (0.0, 0.0)
    assert distance_divergence(long, short) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 1.0}, "smoothing: expected a number from 0 to below 1, got 1.0"),
        ({"smoothing": True}, "smoothing: expected a number from 0 to below 1, got True"),
        ({"names": ("a",)}, r"names: expected two strings, got \('a',\)"),
        ({"head": 9}, "head: expected a whole number from 0 to 1, got 9"),
        ({"other_batch": 1}, "batch: expected a whole number from 0 to 0, got 1"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str):
    one = random_map(5, Mask.causal(), 0)
    given = {"one": one, "head": 0, "other": one, "other_head": 1} | options
    with pytest.raises(InputError, match=message):
        pair_divergence(**given)


def test_maps_weighted_by_a_gradient_are_refused():
    one = random_map(5, Mask.causal(), 0)
    weighted = one.weighted_by(torch.ones(1, 2, 5, 8, dtype=torch.float64))
    with pytest.raises(InputError, match="weighted by its gradient"):
        pair_divergence(one, 0, weighted, 0)


def test_it_is_kept_and_drawn(own_model: Build, tmp_path: Path):
    model = interp.load("demo")
    maps = model.maps("The lamp was lit. <b>The boat</b> came in. " * 3)
    result = pair_divergence(maps[2], 5, maps[0], 3, names=("L2H5", "<b>L0H3</b>"))
    back = PairDivergence.load(result.save(tmp_path))
    assert np.array_equal(back.by_query, result.by_query)
    assert back.to_frame().equals(result.to_frame())
    assert result.to_frame()["token"].tolist() == list(result.queries)
    assert "0.693" in result.summary()
    figure: Any = result.plot(dark=True)
    np.testing.assert_allclose(figure.data[0].y, result.by_query, rtol=1e-6, atol=1e-9)
    assert figure.layout.yaxis.range == (0, math.log(2))
    assert "<b>" not in figure.layout.title.text


def test_it_says_what_was_compared_by_which_model(own_model: Build, tmp_path: Path):
    model = interp.load(own_model("llama"))
    ids, other_ids = token_ids((1, 12), seed=1), token_ids((1, 12), seed=2)
    plain = model.maps(ids, [0, 1])
    with model.edited(interp.edits.ablate("L0H1")):
        edited = model.maps(ids, [1])
    found = pair_divergence(plain[0], 1, plain[1], 2)
    assert found.settings["model"] == model.facts()
    assert "other_model" not in found.settings
    told = found.settings["inputs"]["maps"]
    assert [(each["layer"], each["head"], each["shape"]) for each in told] == [(0, 1, [12, 12]), (1, 2, [12, 12])]
    assert told[0]["sha256"] == told[1]["sha256"] is not None
    assert repr(found).startswith(f"PairDivergence({model.name})")
    by_edit = pair_divergence(plain[1], 2, edited[1], 2).settings
    assert "edits" not in by_edit["model"]
    assert by_edit["other_model"]["edits"] == ["ablate(heads=('L0H1',))"]
    by_text = pair_divergence(plain[1], 2, model.maps(other_ids, [1])[1], 2).settings["inputs"]["maps"]
    assert by_text[0]["sha256"] != by_text[1]["sha256"]
    assert PairDivergence.load(found.save(tmp_path / "pair")).settings == found.settings


def test_maps_without_a_model_still_say_the_versions():
    one = random_map(9, Mask.causal(), 0)
    settings = pair_divergence(one, 0, one, 1).settings
    assert settings["model"]["versions"]["torch"]
    assert settings["inputs"]["maps"][0]["sha256"] is None
