"""A head's profile is what its dense map says, beside uniform attention over what it can see."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.views import head_profile
from interp.views.head_profile import HeadProfile
from tests.interp.tiny import right_padded
from tests.interp.views.dense_views import KINDS, case

OFFSETS = {"cached keys": 55}
"""Position of the first query where queries are fewer than keys, and a rule says which keys are its past."""


def expected_of(p: np.ndarray, visible: np.ndarray, offset: int, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Each statistic of one dense map [Tq, Tk], from its definition."""
    seen = visible.any(axis=1)
    i, j = np.arange(p.shape[0])[:, None] + offset, np.arange(p.shape[1])[None]
    logs = np.log(np.where(p > 0, p, 1.0))
    first = int(np.nonzero(visible.any(axis=0))[0][0])
    counts = visible.sum(axis=0)
    distance = [(p * ((abs(i - j) >= a) & (abs(i - j) < b))).sum(axis=1) for a, b in pairwise(edges)]
    with np.errstate(invalid="ignore"):
        received = p.sum(axis=0) / np.where(counts > 0, counts, np.nan)
    return {
        "entropy": -(p * logs).sum(axis=1),
        "peak": p.max(axis=1),
        "first_mass": p[:, first],
        "received": received,
        "distance": np.array([mass[seen].mean() for mass in distance]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_dense_map_says_and_so_is_chance(kind: str):
    of = case(kind)
    for b, h in ((0, 1), (1, 2)):
        found = head_profile(of.lazy, h, batch=b)
        p, visible = of.p[b, h], of.visible[b, h]
        uniform = visible / np.maximum(visible.sum(axis=1, keepdims=True), 1)
        offset = OFFSETS.get(kind, 0)
        own, chance = (expected_of(each, visible, offset, found.edges) for each in (p, uniform))
        if kind == "cross":  # two inputs have no distance between them
            own["distance"][:] = chance["distance"][:] = np.nan
        for name, value in own.items():
            np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-12, err_msg=name)
        for name in ("entropy", "peak", "received", "distance"):
            np.testing.assert_allclose(
                getattr(found, f"{name}_chance"), chance[name], rtol=1e-9, atol=1e-12, err_msg=name
            )
        np.testing.assert_allclose(found.first_chance, chance["first_mass"], rtol=1e-9, atol=1e-12)
        peak = np.where(visible.any(axis=1), np.where(visible, p, -1).argmax(axis=1), -1)
        np.testing.assert_array_equal(found.peak_key, peak)
        np.testing.assert_array_equal(found.seen_by, visible.sum(axis=0))
        assert found.kv_head == h // 2
        assert found.edges[-1] > np.abs(np.arange(len(p))[:, None] + offset - np.arange(p.shape[1])).max()


def test_the_ln_of_the_visible_keys_is_the_chance_of_entropy():
    np.testing.assert_allclose(head_profile(case("causal").lazy, 0).entropy_chance, np.log(np.arange(1, 91)))


def test_padding_has_no_numbers_and_counts_in_none(own_model):
    lists, _, _ = right_padded((21, 40))
    model = interp.load(own_model("bert"))
    together, alone = head_profile(model.maps(lists)[1], 2), head_profile(model.maps(lists[0])[1], 2)
    assert np.isnan(together.entropy).tolist() == [False] * 21 + [True] * 19
    assert together.peak_key[21:].tolist() == [-1] * 19
    for name in ("entropy", "peak", "first_mass", "received", "received_chance", "entropy_chance"):
        np.testing.assert_allclose(getattr(together, name)[:21], getattr(alone, name), atol=1e-5)
    np.testing.assert_allclose(together.distance[:6], alone.distance, atol=1e-5)
    np.testing.assert_allclose(together.distance_chance[:6], alone.distance_chance, atol=1e-6)
    frame = together.to_frame()
    assert frame[frame["statistic"] == "entropy"]["position"].max() == 20


def test_the_table_has_every_number_with_its_token(own_model, tokenizer):
    lazy = interp.load(own_model("llama"), tokenizer=tokenizer).maps("w5 w9 w4")[0]
    found = head_profile(lazy, 1)
    frame = found.to_frame()
    assert list(frame) == ["statistic", "side", "position", "token", "value", "chance"]
    entropy = frame[frame["statistic"] == "entropy"]
    assert entropy["token"].tolist() == ["<s>", "w5", "w9", "w4"]
    np.testing.assert_array_equal(entropy["value"], found.entropy)
    assert frame[frame["statistic"] == "distance"]["position"].tolist() == [0, 1, 2]
    assert frame["statistic"].value_counts().to_dict() == {
        "entropy": 4,
        "peak": 4,
        "first_mass": 4,
        "received": 4,
        "distance": 3,
    }


def test_it_is_stored_and_read_back_equal(tmp_path):
    found = head_profile(case("causal").lazy, 1)
    found.save(tmp_path / "it")
    again = HeadProfile.load(tmp_path / "it")
    assert again.to_frame().equals(found.to_frame())
    assert again.summary() == found.summary()
    assert "key 0" in found.summary() or "receives most" in found.summary()


def test_rows_that_see_nothing_are_said_to():
    import interp_kernels as ik

    q = torch.ones(1, 1, 3, 2)
    lazy = ik.attend(q, q, q, mask=ik.Mask.from_padding(torch.zeros(1, 3, dtype=torch.bool))).map
    found = head_profile(lazy, 0)
    assert np.isnan(found.received).all()
    assert found.entropy.tolist() == [0, 0, 0]
    assert found.summary() == "head 0: no query sees a key"


def test_bad_input_is_refused():
    lazy = case("causal").lazy
    with pytest.raises(InputError, match="head: expected a whole number from 0 to 3, got 4"):
        head_profile(lazy, 4)
    weighted = lazy.weighted_by(torch.ones(2, 4, 90, 8, dtype=torch.float64))
    with pytest.raises(InputError, match="map: expected attention weights, and this map is weighted by its gradient"):
        head_profile(weighted, 0)
