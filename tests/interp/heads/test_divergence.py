"""Divergences of heads against the formula on dense maps, and planes and clusters against scikit-learn on dense distances."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.heads.clusters import clustered, in_plane
from interp.heads.divergence import HeadDivergences, divergences
from interp.inputs.batch import Batch
from tests.interp import dense
from tests.interp.tiny import HEADS, LAYERS, right_padded, tiny_t5, token_ids

Build = Callable[[str], PreTrainedModel]


def by_formula(maps: list[Tensor], keep: Tensor, smoothing: float) -> np.ndarray:
    """The definition of the docstring on maps [B, H, T, T] in float64, pair by pair and row by row."""
    heads = [map_[:, head] for map_ in maps for head in range(map_.shape[1])]
    total, rows = np.zeros((len(heads), len(heads))), 0
    for sequence, kept in enumerate(keep):
        n = int(kept.sum())
        rows += n
        smooth = [(1 - smoothing) * head[sequence, :n, :n] + smoothing / n for head in heads]
        for a, p in enumerate(smooth):
            for b, q in enumerate(smooth):
                m = (p + q) / 2
                total[a, b] += float(((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2)
    return total / rows


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "bert"])
def test_divergences_are_their_formula(name: str, own_model: Build, eager_model: Build):
    _, ids, keep = right_padded((12, 20), seed=3)
    result = divergences(interp.load(own_model(name)), Batch(ids, keep), smoothing=0.01)
    exact = by_formula(dense.eager_maps(eager_model(name), ids, keep), keep, 0.01)
    assert result.rows == 32
    assert result.heads == tuple(f"L{layer}H{head}" for layer in range(LAYERS) for head in range(HEADS))
    # |dJS / dP| is at most ln(2 / smoothing of a cell) / 2, about 4 here, over P that are right to 3e-5.
    np.testing.assert_allclose(result.divergence, exact, rtol=0, atol=4 * 3e-5)
    assert result.divergence.max() > 0.1
    assert (np.diag(result.divergence) == 0).all()
    assert np.array_equal(result.divergence, result.divergence.T)


def test_its_table_can_be_joined_with_those_of_other_analyses(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((2, 25))
    table = divergences(model, ids).to_frame()
    scores = interp.scan(model, ["previous_token"], progress=False).to_frame()
    joined = table.merge(scores, on=["layer", "head"])
    assert len(joined) == LAYERS * HEADS
    assert joined["layer"].tolist() == [layer for layer in range(LAYERS) for _ in range(HEADS)]


def test_blocks_of_rows_change_nothing(own_model: Build, monkeypatch: pytest.MonkeyPatch):
    # In float64: in float32 the rows themselves are sums in another order where a block has others.
    model, ids = interp.load(copy.deepcopy(own_model("llama")).double()), token_ids((2, 25))
    whole = divergences(model, ids).divergence
    monkeypatch.setattr("interp.heads.divergence.CELLS", 7 * 25 * LAYERS * HEADS)
    np.testing.assert_allclose(divergences(model, ids).divergence, whole, rtol=1e-12, atol=1e-15)


def test_some_rows_are_evenly_spread(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 25))
    few = divergences(model, ids, rows=3)
    rows = [divergences(model, ids[:, : n + 1]).divergence * (n + 1) for n in range(25)]
    single = [rows[n] - (rows[n - 1] if n else 0) for n in (0, 12, 24)]
    assert few.rows == 3
    # Smoothing spreads over the keys of the whole input, which shorter inputs have fewer of.
    np.testing.assert_allclose(few.divergence, sum(single) / 3, atol=0.01)


def test_no_head_is_farther_than_ln_2(own_model: Build):
    assert divergences(interp.load(own_model("llama")), token_ids((1, 30))).divergence.max() <= math.log(2)


def test_chosen_heads(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 20))
    whole = divergences(model, ids)
    some = divergences(model, ids, ["L1H2", "L0H1", (1, 0)])
    assert some.heads == ("L0H1", "L1H0", "L1H2")
    index = [whole.heads.index(name) for name in some.heads]
    np.testing.assert_allclose(some.divergence, whole.divergence[np.ix_(index, index)], rtol=1e-12)
    assert divergences(model, ids, layers=[1]).heads == ("L1H0", "L1H1", "L1H2", "L1H3")


def test_plane_and_clusters_are_those_of_scikit_learn_on_the_dense_distances(own_model: Build, eager_model: Build):
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import adjusted_rand_score

    _, ids, keep = right_padded((30,), seed=3)
    result = divergences(interp.load(own_model("llama")), Batch(ids, keep), clusters=3)
    exact = by_formula(dense.eager_maps(eager_model("llama"), ids, keep), keep, 0.001)
    labels = AgglomerativeClustering(n_clusters=3, metric="precomputed", linkage="average").fit_predict(exact)
    assert adjusted_rand_score(labels, result.cluster) == 1.0
    apart = np.linalg.norm(result.place[:, None] - result.place, axis=-1)
    # Kruskal's stress-1 of the places, from its formula.
    stress = math.sqrt(((apart - exact) ** 2).sum() / (apart**2).sum())
    assert result.stress == pytest.approx(stress, abs=1e-3)


def test_points_of_a_plane_are_found_again():
    points = np.random.default_rng(0).normal(size=(9, 2))
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    place, stress = in_plane(apart, seed=0)
    np.testing.assert_allclose(np.linalg.norm(place[:, None] - place, axis=-1), apart, atol=0.02)
    assert stress < 0.01


def test_things_without_a_distance_lie_on_one_spot():
    place, stress = in_plane(np.zeros((3, 3)), seed=0)
    assert not place.any()
    assert stress == 0


def test_clear_groups_are_found_and_numbered_by_size():
    points = np.array([0.0, 0.1, 9.0, 5.0, 5.1, 5.2, 0.2, 0.15])
    apart = np.abs(points[:, None] - points)
    expected = [0, 0, 2, 1, 1, 1, 0, 0]
    assert clustered(apart, 3).tolist() == expected
    assert clustered(apart, None).tolist() == expected
    assert clustered(apart, 1).tolist() == [0] * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["L0H0", "L0H1"]}, r"heads: expected at least three to compare, got \['L0H0', 'L0H1'\]"),
        ({"heads": ["L0H9", "L0H1", "L0H2"]}, "head 'L0H9' does not exist"),
        ({"heads": ["L0H0"], "layers": [1]}, "give either heads= or layers="),
        ({"smoothing": 0.0}, "smoothing: expected a number between 0 and 1, got 0.0"),
        ({"rows": 0}, "rows: expected an integer of at least 1, or None for all, got 0"),
        ({"clusters": 0}, "clusters: expected an integer of at least 1, or None to choose, got 0"),
        ({"clusters": 9}, "clusters: expected at most the number of heads, 8, got 9"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str, own_model: Build):
    with pytest.raises(InputError, match=message):
        divergences(interp.load(own_model("llama")), token_ids((1, 8)), **options)


def test_maps_over_other_tokens_are_refused():
    model = interp.load(tiny_t5())
    batch = model.batch(token_ids((1, 9)), decoder=token_ids((1, 5)))
    with pytest.raises(InputError, match="their maps must be over the same tokens"):
        divergences(model, batch)
    crossed = divergences(model, batch, layers=["cross.0", "cross.1"])
    assert crossed.rows == 5
    assert set(crossed.to_frame()["layer"]) == {"cross.0", "cross.1"}


def test_it_is_kept_and_drawn(own_model: Build, tmp_path: Path):
    result = divergences(interp.load(own_model("llama")), token_ids((1, 20)))
    back = HeadDivergences.load(result.save(tmp_path))
    assert np.array_equal(back.divergence, result.divergence)
    assert back.to_frame().equals(result.to_frame())
    assert len(result.pairs()) == LAYERS * HEADS * (LAYERS * HEADS - 1) // 2
    assert result.pairs()["divergence"].is_monotonic_increasing
    figure = result.plot()
    assert sorted(name for trace in figure.data for name in trace.text) == sorted(result.heads)
    again = divergences(interp.load(own_model("llama")), token_ids((1, 20)))
    assert np.array_equal(again.place, result.place)


def test_the_induction_heads_of_the_demo_model_are_one_cluster():
    prose = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")[:600]
    result = divergences(interp.load("demo"), prose, rows=64)
    of = dict(zip(result.heads, result.cluster.tolist(), strict=True))
    assert {name for name, number in of.items() if number == of["L2H5"]} == {"L2H2", "L2H3", "L2H4", "L2H5"}
