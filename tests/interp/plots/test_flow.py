"""Pictures of weights on tokens: what is hidden, empty or hostile looks so, and long inputs are summed."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.flow import AttentionFlow, Rollout, attention_flow, compare, rollout, side_by_side
from interp.models.hooked import HookedModel
from interp.plots.flow import HIDDEN, LEAST_AFTER, MOST_COLUMNS
from tests.interp.flow.test_rollout import encoder_decoder
from tests.interp.tiny import token_ids

TEXT = "The old man went down to the river."


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


def test_levels_by_tokens_have_the_weights_and_the_later_tokens_are_hidden(demo: HookedModel) -> None:
    result = rollout(demo, TEXT, positions=3, every_level=True)
    figure = result.plot()
    (heat,) = figure.data
    z = np.asarray(heat.z, dtype=np.float64)
    assert np.allclose(z[:, :4] ** 2, result.weights[0, :, :4], atol=1e-6)
    assert bool(np.isnan(z[:, 4:]).all())
    assert figure.layout.plot_bgcolor == HIDDEN
    assert list(figure.layout.yaxis.ticktext) == [*(f"into layer {n}" for n in range(4)), "output"]
    assert next(iter(figure.layout.xaxis.ticktext)) == "&lt;s&gt;"


def test_bars_have_the_weights_and_whiskers_their_bounds(demo: HookedModel) -> None:
    result = attention_flow(demo, TEXT, positions=3, keep=1)
    (bars,) = result.plot().data
    heights = np.asarray(bars.y, dtype=np.float64)
    assert np.allclose(heights[:4], result.weights[0, 0, :4])
    assert bool(np.isnan(heights[4:]).all())
    assert np.allclose(bars.error_y.array[:4], (result.high - result.weights)[0, 0, :4])
    assert np.allclose(bars.error_y.arrayminus[:4], (result.weights - result.low)[0, 0, :4])


def test_of_the_tokens_after_the_output_the_first_are_shown(demo: HookedModel) -> None:
    result = rollout(demo, token_ids((1, 900)), positions=[40, 400], every_level=True)
    few = np.asarray(result.plot(position=40).data[0].z, dtype=np.float64)
    assert few.shape[1] == 41 + LEAST_AFTER
    assert np.isnan(few).all(axis=0).tolist() == [False] * 41 + [True] * LEAST_AFTER
    assert np.allclose(few[:, :41] ** 2, result.weights[0, :, :41], atol=1e-6)
    many = np.asarray(result.plot(position=400).data[0].z, dtype=np.float64)
    assert many.shape[1] == -(-(401 + 401 // 8) // 2)
    assert np.allclose(np.nansum(many**2, axis=1), 1.0, atol=1e-4)


def test_several_results_stand_in_panels_of_one_axis(demo: HookedModel) -> None:
    results = {"rollout": rollout(demo, TEXT), "<b>flow</b>": attention_flow(demo, TEXT)}
    figure = side_by_side(results)
    assert [len(trace.y) for trace in figure.data] == [len(results["rollout"].tokens[0])] * 2
    assert figure.layout.yaxis2.title.text == "&lt;b&gt;flow&lt;/b&gt;"


def test_long_inputs_are_summed_and_say_so(demo: HookedModel) -> None:
    result = rollout(demo, token_ids((1, 600)), every_level=True)
    figure = result.plot()
    z = np.asarray(figure.data[0].z, dtype=np.float64)
    assert z.shape[1] <= MOST_COLUMNS
    assert np.allclose((z**2).sum(axis=1), 1.0, atol=1e-4)
    assert figure.layout.xaxis.title.text == "token (sums over runs of 3)"
    assert z[0, 1] ** 2 == pytest.approx(float(result.weights[0, 0, 3:6].sum()), rel=1e-4)


def test_both_sides_of_an_encoder_decoder_stand_beside_each_other() -> None:
    model = interp.load(encoder_decoder("t5"))
    batch = model.batch(token_ids((1, 6)), decoder=token_ids((1, 4), seed=1))
    result = rollout(model, batch, positions=1, every_level=True)
    heat = result.plot().data[0]
    z = np.asarray(heat.z, dtype=np.float64)
    assert bool(np.isnan(z[:, 8:]).all())
    assert not np.isnan(z[:, :8]).any()
    assert heat.customdata[0][6][1].startswith("decoder token 0")


def test_equal_tokens_are_columns_of_their_own(demo: HookedModel) -> None:
    result = rollout(demo, [5, 5, 5])
    (bars,) = result.plot().data
    assert list(bars.x) == [0, 1, 2]


def test_correlations_below_the_diagonal(demo: HookedModel) -> None:
    made = compare({"rollout": rollout(demo, TEXT), "max": rollout(demo, TEXT, fusion="max")})
    z = np.asarray(made.plot().data[0].z, dtype=np.float64)
    assert z[0, 0] == pytest.approx(made.to_frame()["correlation"][0])
    assert np.isnan(z[0, 1])


def test_hostile_names_in_a_stored_result_are_escaped(demo: HookedModel) -> None:
    result = rollout(demo, [5, 6, 7])
    hostile = Rollout(**{**vars(result), "tokens": (("<a href='x'>", "b", "<br>"),)})
    assert "<a" not in hostile.plot().to_json()
    assert "<a" not in hostile.plot(0, -1).layout.title.text
    assert isinstance(hostile, Rollout)
    assert not isinstance(hostile, AttentionFlow)
