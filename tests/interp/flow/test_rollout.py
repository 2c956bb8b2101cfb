"""Rollout against products of whole maps in float64, and what it says of the demo model."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.flow import Rollout, rollout
from interp.flow.steps import Fusion
from interp.models.hooked import HookedModel
from tests.interp.flow.dense_flow import both_sides, maps_alone, rolled, shares
from tests.interp.tiny import COMMON, NAMES, WIDTHS, randomised, right_padded, token_ids
from tests.interp.words import words_tokenizer

Build = Callable[[str], PreTrainedModel]
T = 30
WAYS = {
    "as in the paper": {},
    "without residual": {"residual": False},
    "the largest head": {"fusion": "max"},
    "the largest head, without residual": {"fusion": "max", "residual": False},
    "not normalised": {"normalize": False},
    "neither": {"normalize": False, "residual": False},
}
CHOSEN = {"L0H1": (0, 1), "L0H2": (0, 2), "L1H3": (1, 3)}


def check_near(found: np.ndarray, own: Tensor, exact: Tensor) -> None:
    """Within twice what whole products in float32 are wrong by, and some ulps of a share."""
    bound = 2 * float((own.double() - exact).abs().max()) + 16 * torch.finfo(torch.float32).eps
    assert float((torch.from_numpy(found).double() - exact).abs().max()) <= bound


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "as in the paper") for name in NAMES]
    + [
        (name, way)
        for name in ("gemma2", "gpt_oss", "bert")
        for way in WAYS
        if (name == "bert" or way != "as in the paper")
    ],
)
def test_every_level_is_that_of_products_of_whole_maps(
    name: str, way: str, own_model: Build, eager_model: Build
) -> None:
    ids = token_ids((1, T), seed=3)
    result = rollout(interp.load(own_model(name)), ids, positions="all", every_level=True, **WAYS[way])
    own, exact = (
        torch.stack(rolled([shares(p, **WAYS[way]) for p in maps_alone(eager_model(name), {"input_ids": ids}, dtype)]))
        for dtype in (torch.float32, torch.float64)
    )
    assert result.levels == ("0", "1", "output")
    check_near(result.weights, own.transpose(0, 1), exact.transpose(0, 1))


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss"])
def test_chosen_heads_count_and_a_layer_without_any_is_passed_by(
    name: str, fusion: str, own_model: Build, eager_model: Build
) -> None:
    ids = token_ids((1, T), seed=4)
    maps = {dtype: maps_alone(eager_model(name), {"input_ids": ids}, dtype) for dtype in (torch.float32, torch.float64)}
    for heads in (["L0H1", "L0H2", "L1H3"], ["L1H3"], [(0, 2)]):
        named = [CHOSEN.get(str(head), head) for head in heads]
        of_layers = [[head for layer, head in named if layer == number] for number in (0, 1)]
        own, exact = (
            rolled([shares(p, fusion=fusion, heads=of) for p, of in zip(maps[dtype], of_layers, strict=True)])[0]
            for dtype in (torch.float32, torch.float64)
        )
        result = rollout(interp.load(own_model(name)), ids, positions=[-1, 4], heads=heads, fusion=fusion)
        check_near(result.weights[:, 0], own[[T - 1, 4]], exact[[T - 1, 4]])


def test_layers_that_are_not_chosen_are_passed_by(own_model: Build, eager_model: Build) -> None:
    ids = token_ids((1, T))
    result = rollout(interp.load(own_model("llama")), ids, layers=[1], every_level=True)
    (first, second) = maps_alone(eager_model("llama"), {"input_ids": ids})
    assert result.levels == ("1", "output")
    assert np.allclose(result.of(), shares(second)[-1], atol=1e-5)
    assert not np.allclose(result.of(), rolled([shares(first), shares(second)])[0][-1], atol=1e-3)


def encoder_decoder(kind: str) -> PreTrainedModel:
    if kind == "t5":
        config = transformers.T5Config(
            **COMMON, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        made = transformers.T5ForConditionalGeneration
    else:
        config = transformers.BartConfig(
            **COMMON,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            decoder_start_token_id=0,
            forced_eos_token_id=None,
        )
        made = transformers.BartForConditionalGeneration
    config._attn_implementation = "eager"
    return randomised(made(config).eval())


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_decoder_draws_on_its_own_tokens_and_through_cross_attention_on_the_encoders(kind: str) -> None:
    model = interp.load(encoder_decoder(kind))
    ids, decoder = token_ids((1, 9)), token_ids((1, 5), seed=1)
    result = rollout(model, model.batch(ids, decoder=decoder), positions="all", every_level=True)
    found = []
    for dtype in (torch.float32, torch.float64):
        inputs = {"input_ids": ids, "decoder_input_ids": decoder}
        maps = maps_alone(encoder_decoder(kind).to(dtype), inputs, dtype)
        # The encoder's modules stand first, then those of each decoder layer.
        whole = rolled(both_sides(maps[:2], maps[2::2], maps[3::2]))
        found.append(torch.stack(whole).transpose(0, 1)[9:])
    assert result.levels == ("encoder.0", "encoder.1", "decoder.0", "cross.0", "decoder.1", "cross.1", "output")
    check_near(result.weights, *found)
    assert np.allclose(result.weights.sum(axis=-1), 1.0, atol=1e-5)
    frame = result.to_frame()
    lowest = frame[(frame["level"] == "encoder.0") & (frame["position"] == 4)]
    assert list(lowest["side"]) == ["encoder"] * 9 + ["decoder"] * 5
    assert list(lowest["token_index"]) == [*range(9), *range(5)]


def test_padding_changes_nothing_on_either_side(own_model: Build) -> None:
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    rows, _, _ = right_padded((6, 13))
    for fusion in ("mean", "max"):
        alone = [rollout(model, row, positions=[0, -2, -1], fusion=fusion) for row in rows]
        for padding in ("left", "right"):
            batch = model.batch(rows, padding=padding)
            together = rollout(model, batch, positions=[0, -2, -1], fusion=fusion)
            assert list(together.position) == [0, 4, 5, 0, 11, 12]
            for number, single in enumerate(alone):
                of = together.weights[together.sequence == number, 0]
                assert np.allclose(of[:, : len(rows[number])], single.weights[:, 0], atol=1e-6)
                assert bool(np.isnan(of[:, len(rows[number]) :]).all())
            assert together.tokens == (alone[0].tokens[0], alone[1].tokens[0])


def test_an_encoders_padding_gets_no_weight_from_a_decoder() -> None:
    model = interp.load(encoder_decoder("t5"), tokenizer=words_tokenizer())
    rows, _, _ = right_padded((4, 9))
    decoders = [[0, 7, 8, 9, 10], [0, 7, 8]]
    together = rollout(model, model.batch(rows, decoder=decoders))
    for number in (0, 1):
        alone = rollout(model, model.batch(rows[number], decoder=decoders[number]))
        count = len(rows[number]) + len(decoders[number])
        assert together.encoder_tokens[number] == len(rows[number])
        assert np.allclose(together.weights[number, 0, :count], alone.weights[0, 0], atol=1e-6)
        assert bool(np.isnan(together.weights[number, 0, count:]).all())


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


@settings(deadline=None, max_examples=8)
@given(
    length=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    residual=st.booleans(),
    fusion=st.sampled_from(["mean", "max"]),
)
def test_weights_are_shares_that_look_back(
    demo: HookedModel, length: int, seed: int, residual: bool, fusion: Fusion
) -> None:
    ids = torch.randint(0, demo.shape.vocabulary, (1, length), generator=torch.Generator().manual_seed(seed))
    found = rollout(demo, ids, positions="all", residual=residual, fusion=fusion).weights[:, 0]
    assert bool((found >= 0).all())
    assert np.allclose(found.sum(axis=-1), 1.0, atol=1e-5)
    assert bool((np.triu(found, 1) == 0).all())


def test_one_token_draws_on_itself_alone() -> None:
    result = rollout(interp.load("demo"), [5])
    assert result.weights.tolist() == [[[1.0]]]


def test_what_the_sinks_took_is_missing_without_normalising(own_model: Build, eager_model: Build) -> None:
    ids = token_ids((1, T))
    model = interp.load(own_model("gpt_oss"))
    first, second = maps_alone(eager_model("gpt_oss"), {"input_ids": ids})
    kept = rolled([shares(p, normalize=False) for p in (first, second)])[0][-1].sum()
    assert float(kept) < 0.98
    assert rollout(model, ids, normalize=False).of().sum() == pytest.approx(float(kept), abs=1e-5)
    assert rollout(model, ids).of().sum() == pytest.approx(1.0, abs=1e-5)


def test_blocks_of_outputs_and_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch, own_model: Build) -> None:
    model, ids = interp.load(own_model("mistral")), token_ids((2, 40))
    whole = {fusion: rollout(model, ids, positions="all", fusion=fusion) for fusion in ("mean", "max")}
    monkeypatch.setattr(import_module("interp.flow.rollout"), "COLUMN_CELLS", 2 * 4 * 40 * 7)
    monkeypatch.setattr(import_module("interp.flow.steps"), "BLOCK_CELLS", 2 * 4 * 40 * 3)
    for fusion, want in whole.items():
        assert np.allclose(rollout(model, ids, positions="all", fusion=fusion).weights, want.weights, atol=1e-6)


def test_edits_in_force_are_seen() -> None:
    model = interp.load("demo")
    with model.edited([interp.edits.cut(queries=None, keys=0)]):
        edited = rollout(model, "The old man went down to the river.")
    plain = rollout(model, "The old man went down to the river.")
    # A row of its own key alone keeps it: only what starts there stays there.
    assert plain.of()[0] > 0.3
    assert edited.of()[0] == 0
    assert "edits" in edited.settings["model"]


def test_half_precision_is_rolled_in_float32(own_model: Build) -> None:
    import copy

    model = interp.load(copy.deepcopy(own_model("llama")).to(torch.bfloat16))
    result = rollout(model, token_ids((1, T)))
    assert result.weights.dtype == np.float32
    assert result.of().sum() == pytest.approx(1.0, abs=1e-5)


def test_results_are_kept_and_tabulated(tmp_path: Path) -> None:
    made = rollout(interp.load("demo"), ["The old man went down.", "Yes"], positions=[0, -1], every_level=True)
    read = Rollout.load(made.save(tmp_path / "kept"))
    assert np.array_equal(read.weights, made.weights, equal_nan=True)
    assert (read.tokens, read.levels, read.settings) == (made.tokens, made.levels, made.settings)
    frame = read.to_frame()
    assert not frame["weight"].isna().any()
    assert len(frame) == sum(2 * 5 * len(tokens) for tokens in made.tokens)
    row = frame[(frame["sequence"] == 0) & (frame["position"] == len(made.tokens[0]) - 1) & (frame["level"] == "2")]
    assert np.array_equal(row["weight"], made.weights[1, 2, : len(made.tokens[0])])
    assert list(row["token"]) == list(made.tokens[0])
    assert set(row["position_token"]) == {made.tokens[0][-1]}
    assert repr(made).startswith("Rollout(demo)")


def test_importance_over_outputs_is_the_largest_or_the_mean() -> None:
    made = rollout(interp.load("demo"), "The old man went down.", positions="all")
    assert np.array_equal(made.over_positions("max")[0], made.weights[:, 0].max(axis=0))
    assert np.array_equal(made.over_positions("mean")[0], made.weights[:, 0].mean(axis=0))
    assert np.array_equal(made.of(0, -1), made.of())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "min"}, "fusion: expected 'mean' or 'max', got 'min'"),
        ({"residual": 1}, "residual: expected True or False, got 1"),
        ({"fusion": "max", "normalize": False}, "rows of the maximum over heads sum to more than 1"),
        ({"positions": 9}, "positions: sequence 0 has 5 tokens, so that they run from -5 to 4; got 9"),
        ({"positions": "last"}, "positions: expected integers or 'all', got 'last'"),
        ({"positions": []}, "positions: expected an integer, at least one of several, or 'all'"),
        ({"positions": 2.0}, "positions: expected an integer, at least one of several, or 'all', got 2.0"),
        ({"heads": ["L0H1"], "layers": [0]}, "heads name their layers; give either heads= or layers="),
        ({"heads": ["L9H1"]}, "layer 9 does not exist"),
        ({"layers": [7]}, "layer 7 does not exist"),
        ({"layers": []}, "layers: give at least one"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        rollout(interp.load("demo"), [4, 5, 6, 7, 8], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", [np.array([1, -1]), torch.tensor([1, -1]), range(1, 5, 3), [np.int64(1), 4]])
def test_positions_are_integers_of_any_kind(positions: Any) -> None:
    assert rollout(interp.load("demo"), [4, 5, 6, 7, 8], positions).position.tolist() == [1, 4]
    assert rollout(interp.load("demo"), [4, 5, 6, 7, 8], positions[0]).position.tolist() == [1]


def test_what_cannot_be_rolled_is_refused_with_the_reason(own_model: Build) -> None:
    both = interp.load(encoder_decoder("t5"))
    with pytest.raises(
        InputError, match="everything that a decoder's output is comes through its last cross attention"
    ):
        rollout(both, token_ids((1, 5)), residual=False)
    with pytest.raises(InputError, match="several stacks of layers that do not follow one another"):
        rollout(both, token_ids((1, 5)), layers=["encoder.0", "decoder.0"])
    with pytest.raises(InputError, match="'all' of 2,049 tokens makes a result of T x T"):
        rollout(interp.load("demo"), token_ids((1, 2049)), positions="all", beyond_context=True)
    with pytest.raises(InputError, match="made for 1,024"):
        rollout(interp.load("demo"), token_ids((1, 1025)))
    result = rollout(interp.load("demo"), [4, 5, 6])
    with pytest.raises(InputError, match="position: 1 of sequence 0 was not asked for"):
        result.of(0, 1)
    with pytest.raises(InputError, match="position: expected the number of a token, got 'last'"):
        result.of(0, "last")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="sequence: there are 1, counted from 0; got 3"):
        result.of(3)


def test_the_encoder_alone_of_an_encoder_decoder() -> None:
    model, ids = interp.load(encoder_decoder("t5")), token_ids((1, 9))
    result = rollout(model, ids, layers=["encoder.0", "encoder.1"], residual=False)
    maps = maps_alone(
        encoder_decoder("t5"), {"input_ids": ids, "decoder_input_ids": torch.zeros(1, 1, dtype=torch.int64)}
    )
    want = rolled([shares(p, residual=False) for p in maps[:2]])[0][-1]
    assert np.allclose(result.of(), want, atol=1e-5)
    assert result.encoder_tokens == ()


def test_layers_that_do_not_attend_are_not_passed_by_in_silence() -> None:
    config = transformers.JambaConfig(
        **WIDTHS,
        **COMMON,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=1,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_dt_rank=4,
    )
    model = interp.load(transformers.JambaForCausalLM(config).eval())
    with pytest.raises(InputError, match=r"1 of the 2 layers of .* do not attend"):
        rollout(model, token_ids((1, 5)))
    assert rollout(model, token_ids((1, 5)), layers=[1]).of().sum() == pytest.approx(1.0, abs=1e-5)


def test_the_demo_model_traces_its_last_token_to_the_first_and_to_itself() -> None:
    result = rollout(interp.load("demo"), "The old man went down to the river, and the old man sat by the river.")
    weights = result.of()
    assert list(np.argsort(-weights)[:2]) == [0, len(weights) - 1]
    assert weights[0] == pytest.approx(0.491, abs=0.002)


def test_an_encoder_of_images_has_patches_for_tokens() -> None:
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    model = interp.load(randomised(transformers.ViTModel(config).eval()))
    pixels = {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    result = rollout(model, pixels, positions=0)
    config._attn_implementation = "eager"
    maps = maps_alone(randomised(transformers.ViTModel(config).eval()), pixels)
    assert result.tokens == (("0", "1", "2", "3", "4"),)
    assert np.allclose(result.of(), rolled([shares(p) for p in maps])[0][0], atol=1e-5)
    with pytest.raises(InputError, match="positions: sequence 0 has 5 tokens"):
        rollout(model, pixels, positions=5)
