"""Attention flow against networkx on whole maps in float64, its bounds, and what it says of the demo model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.flow import AttentionFlow, attention_flow, rollout
from interp.models.hooked import HookedModel
from tests.interp.flow.dense_flow import both_sides, flows, maps_alone, network, shares
from tests.interp.flow.test_rollout import encoder_decoder
from tests.interp.tiny import right_padded, token_ids
from tests.interp.words import words_tokenizer

Build = Callable[[str], PreTrainedModel]
T = 12
ROUNDING = 2**-30
TEXT = "The old man went down to the river, and the old man sat by the river."
WAYS = {
    "as in the paper": {},
    "without residual": {"residual": False},
    "the largest head": {"fusion": "max"},
    "not normalised": {"normalize": False},
}


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


def check_between(result: AttentionFlow, exact: Tensor, own: Tensor, edges: int) -> None:
    """The flows are networkx's, rounded down by less than one unit an edge; maps in float32 have errors of their own."""
    error = 2 * edges * float((own.double() - exact).abs().max()) + 16 * edges * torch.finfo(torch.float32).eps
    low, high = torch.from_numpy(result.flow), torch.from_numpy(result.flow_high)
    assert bool((low - exact <= error).all())
    assert bool((exact - high <= error).all())
    assert bool((high - low <= edges * ROUNDING).all())
    assert np.allclose(result.weights[:, 0], exact / exact.sum(dim=-1, keepdim=True), atol=error + edges * ROUNDING)


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "as in the paper") for name in ("llama", "mistral", "gpt2")]
    + [(name, way) for name in ("gemma2", "gpt_oss", "bert") for way in WAYS],
)
def test_flows_are_those_of_networkx(name: str, way: str, own_model: Build, eager_model: Build) -> None:
    ids = token_ids((1, T), seed=5)
    result = attention_flow(interp.load(own_model(name)), ids, positions=[T - 1, 4], **WAYS[way])
    of_layers = {
        dtype: [shares(p, **WAYS[way]) for p in maps_alone(eager_model(name), {"input_ids": ids}, dtype)]
        for dtype in (torch.float32, torch.float64)
    }
    graph = network(of_layers[torch.float64])
    exact = torch.tensor([flows(graph, (2, q), T) for q in (T - 1, 4)], dtype=torch.float64)
    # A flow is a cut's capacity: it is wrong by no more than its edges are, of which there are at most these.
    off = max(
        float((a - b).abs().max()) for a, b in zip(of_layers[torch.float32], of_layers[torch.float64], strict=True)
    )
    check_between(result, exact, exact + off, graph.number_of_edges())
    assert float(exact.min()) < 0.9 * float(exact.max())


def test_chosen_heads_make_the_network(own_model: Build, eager_model: Build) -> None:
    ids = token_ids((1, T))
    result = attention_flow(interp.load(own_model("llama")), ids, heads=["L0H1", "L0H3", "L1H2"])
    first, second = maps_alone(eager_model("llama"), {"input_ids": ids})
    graph = network([shares(first, heads=[1, 3]), shares(second, heads=[2])])
    assert np.allclose(result.flow[0], flows(graph, (2, T - 1), T), atol=1e-5)
    assert result.settings["constants"]["heads"] == {"0": [1, 3], "1": [2]}


def test_an_encoders_output_is_one_node_for_all_layers_of_the_decoder() -> None:
    model = interp.load(encoder_decoder("t5"))
    ids, decoder = token_ids((1, 6)), token_ids((1, 4), seed=1)
    result = attention_flow(model, model.batch(ids, decoder=decoder))
    maps = maps_alone(encoder_decoder("t5").double(), {"input_ids": ids, "decoder_input_ids": decoder})
    steps = both_sides(maps[:2], maps[2::2], maps[3::2])
    graph = network(steps)
    # What the oracle's levels repeat without attention is one node: its edge to itself holds back nothing.
    for upper, lower, values in graph.edges(data=True):
        is_encoders = upper[1] < 6 and upper[0] > 2
        is_decoders = upper[1] >= 6 and upper[0] <= 2
        if (is_encoders or is_decoders) and upper[1] == lower[1]:
            values["capacity"] = float("inf")
    assert np.allclose(result.flow[0], flows(graph, (6, 9), 10), atol=1e-5)
    assert result.encoder_tokens == (6,)


@settings(deadline=None, max_examples=10)
@given(
    length=st.integers(1, 11),
    layers=st.integers(1, 4),
    keep=st.one_of(st.none(), st.integers(1, 4)),
    position=st.integers(0, 10),
    seed=st.integers(0, 10_000),
)
def test_the_exact_flow_lies_between_the_bounds(
    demo: HookedModel, length: int, layers: int, keep: int | None, position: int, seed: int
) -> None:
    position = min(position, length - 1)
    ids = torch.randint(0, demo.shape.vocabulary, (1, length), generator=torch.Generator().manual_seed(seed))
    result = attention_flow(demo, ids, position, layers=range(layers), keep=keep)
    of_layers = [shares(lazy.dense()[0].double()) for lazy in demo.maps(ids, layers=range(layers)).values()]
    exact = np.array(flows(network(of_layers), (layers, position), length))
    assert bool((result.flow[0] <= exact + 1e-6).all())
    assert bool((result.flow_high[0] >= exact - 1e-6).all())
    weight = exact / exact.sum()
    assert bool((result.low[0, 0] <= weight + 1e-6).all())
    assert bool((result.high[0, 0] >= weight - 1e-6).all())
    assert result.weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["gemma2", "bert", "gpt_oss"])
def test_bounds_hold_for_networks_without_their_small_edges(name: str, own_model: Build) -> None:
    model, ids = interp.load(own_model(name)), token_ids((1, T), seed=8)
    exact = attention_flow(model, ids)
    gaps = []
    for keep in (1, 2, 4, T):
        pruned = attention_flow(model, ids, keep=keep)
        assert bool((pruned.flow <= exact.flow + 1e-6).all())
        assert bool((pruned.flow_high >= exact.flow - 1e-6).all())
        assert bool((pruned.kept[..., 1] <= pruned.kept[..., 0] + 1e-12).all())
        gaps.append(float((pruned.flow_high - pruned.flow).max()))
    assert gaps[0] > gaps[-1]
    assert gaps[-1] < 1e-5
    assert pruned.kept.min() == pytest.approx(1.0, abs=1e-6)


def test_kept_is_the_share_of_the_largest_probabilities(own_model: Build) -> None:
    model, ids = interp.load(own_model("bert")), token_ids((1, T), seed=8)
    pruned = attention_flow(model, ids, positions="all", keep=3)
    for number, lazy in enumerate(model.maps(ids).values()):
        largest = lazy.dense()[0].sort(dim=-1, descending=True).values[..., :3].sum(dim=-1).mean(dim=0)
        if number == 1:  # all of the last layer's queries are asked for
            assert pruned.kept[0, 1].tolist() == pytest.approx([float(largest.mean()), float(largest.min())], abs=1e-5)


def test_no_flow_is_less_than_what_rollout_sends(demo: HookedModel) -> None:
    flow, rolled = attention_flow(demo, TEXT), rollout(demo, TEXT)
    assert bool((flow.flow >= rolled.weights[:, 0] - 1e-6).all())
    assert bool((flow.flow <= 1 + 1e-6).all())


def test_padding_and_other_sequences_change_nothing(own_model: Build) -> None:
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    rows, _, _ = right_padded((5, 9))
    for keep in (None, 2):
        alone = [attention_flow(model, row, keep=keep) for row in rows]
        for padding in ("left", "right"):
            together = attention_flow(model, model.batch(rows, padding=padding), keep=keep)
            for number, single in enumerate(alone):
                assert np.allclose(together.flow[number, : len(rows[number])], single.flow[0], atol=1e-6)
                assert np.allclose(together.flow_high[number, : len(rows[number])], single.flow_high[0], atol=1e-5)
                assert bool(np.isnan(together.flow[number, len(rows[number]) :]).all())


def test_one_token_and_tokens_that_cannot_be_reached(demo: HookedModel) -> None:
    assert attention_flow(demo, [7]).flow.tolist() == [[pytest.approx(1.0, abs=1e-6)]]
    result = attention_flow(demo, [7, 8, 9, 10], positions=1)
    assert bool((result.flow[0, 2:] == 0).all())
    assert bool((result.flow_high[0, 2:] == 0).all())


def test_results_are_kept_and_tabulated(demo: HookedModel, tmp_path: Path) -> None:
    made = attention_flow(demo, ["The old man", "Yes"])
    read = AttentionFlow.load(made.save(tmp_path / "kept"))
    assert np.array_equal(read.flow_high, made.flow_high, equal_nan=True)
    frame = read.to_frame()
    assert list(frame.columns[-5:]) == ["weight", "low", "high", "flow", "flow_high"]
    assert len(frame) == sum(map(len, made.tokens))
    assert not frame.isna().any().any()
    again = attention_flow(demo, ["The old man", "Yes"])
    assert np.array_equal(again.flow, made.flow, equal_nan=True)
    assert "no edge dropped" in repr(made)


def test_what_would_take_too_long_is_refused_with_the_time(demo: HookedModel) -> None:
    ids = token_ids((1, 200))
    with pytest.raises(InputError, match=r"would take about .* minutes or more here, and 0.001 are allowed; .* keep="):
        attention_flow(demo, ids, max_minutes=0.001)


def test_networks_too_large_to_hold_are_refused_before_they_are_read(
    demo: HookedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("interp.flow.capacities"), "MOST_EDGES", 100)
    with pytest.raises(InputError, match="the network has 210 edges or more, and 100 are allowed; keep the largest"):
        attention_flow(demo, token_ids((1, 20)), positions="all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep: expected None or an integer of at least 1, got 0"),
        ({"keep": 2, "fusion": "max"}, "keep: the largest edges of the maximum over heads need all of the map"),
        ({"max_minutes": 0}, "max_minutes: expected a number above 0, got 0"),
        ({"positions": 7}, "positions: sequence 0 has 3 tokens"),
    ],
)
def test_bad_arguments_are_refused(demo: HookedModel, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attention_flow(demo, [4, 5, 6], **arguments)  # type: ignore[arg-type]


def test_without_scipy_the_extra_is_named(demo: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.csgraph", None)
    with pytest.raises(InputError, match=r"pip install 'interp\[analysis\]'"):
        attention_flow(demo, [4, 5, 6])
