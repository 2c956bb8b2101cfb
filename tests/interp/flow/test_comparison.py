"""Rank correlations of methods against scipy's, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import interp
from interp.errors import InputError
from interp.flow import Comparison, attention_flow, compare, input_gradients, rollout, side_by_side
from interp.models.hooked import HookedModel

TEXTS = [
    "The old man went down to the river.",
    "Anna put the red key into the old box, and went home.",
    "Yes, she did.",
]


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


def test_correlations_are_those_of_scipy_averaged_over_outputs(demo: HookedModel) -> None:
    raw = rollout(demo, TEXTS, layers=[3], residual=False)
    rolled = rollout(demo, TEXTS)
    made = compare({"raw": raw, "rollout": rolled})
    assert made.methods == ("raw", "rollout", "place")
    frame = made.to_frame().set_index(["first", "second"])
    each = [spearmanr(raw.of(n), rolled.of(n)).statistic for n in range(3)]
    place = [spearmanr(raw.of(n), np.arange(len(raw.tokens[n]))).statistic for n in range(3)]
    assert frame.loc[("raw", "rollout"), "correlation"] == pytest.approx(np.mean(each))
    assert frame.loc[("raw", "rollout"), "stderr"] == pytest.approx(np.std(each, ddof=1) / 3**0.5)
    assert frame.loc[("raw", "place"), "correlation"] == pytest.approx(np.mean(place))
    assert frame["outputs"].tolist() == [3, 3, 3]


def test_raw_attention_is_rollout_through_one_layer_without_residual(demo: HookedModel) -> None:
    raw = rollout(demo, TEXTS[0], layers=[2], residual=False)
    assert np.allclose(raw.of(), demo.maps(TEXTS[0])[2].rows([-1])[0, :, 0].mean(dim=0), atol=1e-6)


def test_only_tokens_that_can_be_drawn_on_are_ranked(demo: HookedModel) -> None:
    ids = [4, 5, 6, 7, 8, 9]
    rolled, flow = (method(demo, ids, positions=[1, 3]) for method in (rollout, attention_flow))
    made = compare({"rollout": rolled, "flow": flow})
    assert set(made.correlations["position"]) == {3}  # position 1 draws on two tokens
    found = made.correlations.set_index(["first", "second"]).loc[("rollout", "flow"), "correlation"]
    assert found == pytest.approx(spearmanr(rolled.of(0, 3)[:4], flow.of(0, 3)[:4]).statistic)


def test_comparisons_are_kept(demo: HookedModel, tmp_path: Path) -> None:
    made = compare({"rollout": rollout(demo, TEXTS[0]), "max": rollout(demo, TEXTS[0], fusion="max")})
    read = Comparison.load(made.save(tmp_path / "kept"))
    assert read.to_frame().equals(made.to_frame())
    assert "rollout and max: rank correlation" in repr(read)
    assert "over 1 output\n" in repr(read)
    assert "nan" not in repr(read)
    assert read.settings["constants"]["max"]["fusion"] == "max"


def test_what_cannot_be_compared_is_refused(demo: HookedModel) -> None:
    one = rollout(demo, TEXTS[0])
    with pytest.raises(InputError, match="expected at least two"):
        compare({"rollout": one})
    for wrong in ([one, one], {"a": one, "b": 3}, {"a": one, 2: one}):
        with pytest.raises(InputError, match="expected at least two of rollout or attention_flow, by name"):
            compare(wrong)  # pyright: ignore[reportArgumentType]
    for wrong in ([one], {}, {"a": input_gradients(demo, TEXTS[0])}):
        with pytest.raises(InputError, match="expected at least one of rollout or attention_flow, by name"):
            side_by_side(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="'a' and 'b' are of different inputs"):
        compare({"a": one, "b": rollout(demo, TEXTS[1])})
    with pytest.raises(InputError, match="'a' and 'b' are of different outputs"):
        side_by_side({"a": one, "b": rollout(demo, TEXTS[0], positions=0)})
    with pytest.raises(InputError, match="'place' stands for the tokens' places"):
        compare({"place": one, "b": one})
    with pytest.raises(InputError, match="no output draws on 3 tokens or more"):
        compare({"a": rollout(demo, [5, 6]), "b": rollout(demo, [5, 6])})
