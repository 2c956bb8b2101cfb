"""The copying score and ranks against full V x V matrices in float64, hand-made heads, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import interp
from interp.errors import InputError
from interp.heads import MapsScores, OVCopying, maps_score, ov_copying
from tests.interp.heads.dense_circuits import full_circuits, rank_of, score_of
from tests.interp.tiny import ARCHITECTURES, COMMON, GROUPED, HEADS, LAYERS, VOCABULARY, WIDTHS, randomised

NAMES = ("llama", "gpt2", "gpt_neox", "gemma2")


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_full_matrices(name: str, own_model):
    found = ov_copying(interp.load(own_model(name)), sample=None)
    assert found.sample == found.vocabulary == VOCABULARY
    for layer in range(LAYERS):
        for head, full in enumerate(full_circuits(own_model(name), name, layer)):
            # Weights come out of float32 runs: each is off by a few roundings, the score by the condition of its eigenvalues.
            assert found.scores[layer, head] == pytest.approx(score_of(full), abs=1e-4)
            own = np.array([rank_of(full, s, s) for s in range(VOCABULARY)])
            assert found.own_rank[layer, head] == pytest.approx(own.mean() / (VOCABULARY - 1), abs=1e-3)
            assert found.top_share[layer, head] == pytest.approx((own < 10).mean(), abs=0.02)


def with_circuit(sign: float) -> transformers.PreTrainedModel:
    """A Llama whose tied embedding is orthonormal; layer 0's heads hand on a quarter of it each, times ``sign``."""
    arguments: dict[str, Any] = GROUPED | {"num_key_value_heads": HEADS, "vocab_size": 32, "tie_word_embeddings": True}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**arguments)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.linalg.qr(torch.randn(32, 32)).Q)
        model.model.layers[0].self_attn.v_proj.weight.copy_(torch.eye(32))
        model.model.layers[0].self_attn.o_proj.weight.copy_(sign * torch.eye(32))
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    return model


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_heads_made_to_copy_and_to_suppress(sign: float):
    torch.manual_seed(0)
    found = ov_copying(interp.load(with_circuit(sign)), sample=None, k=1)
    np.testing.assert_allclose(found.scores[0], sign, atol=1e-5)
    assert np.isnan(found.scores[1]).all(), "a head that writes nothing has no score"
    np.testing.assert_array_equal(found.own_rank[1], 0.5)
    assert (found.own_rank[0] < 0.2).all() if sign > 0 else (found.own_rank[0] > 0.8).all()


def test_random_heads_are_about_zero():
    config = transformers.LlamaConfig(
        **WIDTHS | COMMON | {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 8}
    )
    torch.manual_seed(1)
    scores = ov_copying(interp.load(transformers.LlamaForCausalLM(config).eval())).scores
    # 32 heads that are 32 wide: a standard deviation of 1.5 / 32 each.
    assert abs(scores.mean()) < 4 * (1.5 / 32) / 32**0.5
    assert 0.5 < scores.std() / (1.5 / 32) < 2
    detector = interp.detectors()["ov_copying"]
    assert scores.max() < detector.threshold


def test_the_detector_gives_the_same_scores(own_model):
    model = interp.load(own_model("gpt_neox"))
    table = interp.scan(model, "ov_copying", progress=False)
    np.testing.assert_allclose(table.grid("ov_copying"), ov_copying(model).scores, rtol=1e-12)
    assert table.range("ov_copying") == (-1.0, 1.0)
    assert table.to_frame()["chance"].isna().all()
    assert table.settings["inputs"]["ov_copying"] == f"the weights alone, over {VOCABULARY} tokens"


def test_it_is_kept_and_drawn(own_model, tmp_path):
    found = ov_copying(interp.load(own_model("llama")), sample=20, seed=3)
    loaded = OVCopying.load(found.save(tmp_path / "kept"))
    assert loaded.to_frame().equals(found.to_frame())
    assert len(found.to_frame()) == LAYERS * HEADS
    heatmap = found.plot().data[0]
    assert (heatmap.zmin, heatmap.zmax) == (-1.0, 1.0)
    assert "copying scores of 8 heads" in found.summary()
    again = ov_copying(interp.load(own_model("llama")), sample=20, seed=3)
    np.testing.assert_array_equal(again.own_rank, found.own_rank)


@pytest.mark.parametrize("name", NAMES)
def test_maps_counts_targets_in_the_top(name: str, own_model):
    pairs = [(s, (7 * s + 3) % VOCABULARY) for s in range(0, VOCABULARY, 2)]
    found = maps_score(interp.load(own_model(name)), pairs, k=6)
    for layer in range(LAYERS):
        for head, full in enumerate(full_circuits(own_model(name), name, layer)):
            ranks = np.array([rank_of(full, s, t) for s, t in pairs])
            assert found.scores[layer, head] == pytest.approx((ranks < 6).mean(), abs=1.1 / len(pairs))
            assert found.ranks[layer, head] == pytest.approx(np.median(ranks), abs=1)
    assert found.chance == 6 / VOCABULARY


def test_one_pair_has_no_standard_error(own_model):
    model = interp.load(own_model("llama"))
    assert maps_score(model, [(5, 6)]).to_frame()["stderr"].isna().all()
    frame = maps_score(model, [(5, 6), (7, 8), (9, 10), (11, 12)]).to_frame()
    # The standard error of a mean of zeros and ones, from their sample variance.
    ones = (frame["score"] * 4).round().astype(int)
    expected = [np.std([1] * n + [0] * (4 - n), ddof=1) / 2 for n in ones]
    np.testing.assert_allclose(frame["stderr"], expected, atol=1e-12)


def test_maps_takes_texts_and_is_kept(own_model, tokenizer, tmp_path):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    found = maps_score(model, [("w5", "w6"), (7, "w8")])
    assert found.pairs == (("w5", "w6"), ("w7", "w8"))
    assert MapsScores.load(found.save(tmp_path / "kept")).to_frame().equals(found.to_frame())
    assert (found.plot().data[0].zmin, found.plot().data[0].zmax) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("pairs", "k", "message"),
    [
        ([], 10, "^pairs: expected at least one pair"),
        ([(1, 2, 3)], 10, "^pairs: expected at least one pair"),
        ([5], 10, "^pairs: expected at least one pair"),
        ([("w5 w6", "w7")], 10, "^pairs: the text 'w5 w6' is 2 tokens"),
        ([(5, VOCABULARY)], 10, f"^pairs: there is no token {VOCABULARY}"),
        ([(5, 6)], 0, "^k: expected a whole number from 1 to"),
        ([(5, 6)], VOCABULARY, "^k: expected a whole number from 1 to"),
    ],
)
def test_pairs_that_are_none(pairs: Any, k: int, message: str, own_model, tokenizer):
    with pytest.raises(InputError, match=message):
        maps_score(interp.load(own_model("llama"), tokenizer=tokenizer), pairs, k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 1}, "^sample: expected a whole number of at least 2"),
        ({"k": 0}, "^k: expected a whole number of at least 1"),
        ({"seed": -1}, "^seed: expected an integer from 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str, own_model):
    with pytest.raises(InputError, match=message):
        ov_copying(interp.load(own_model("llama")), **options)


def test_models_without_such_circuits_are_refused(own_model):
    with pytest.raises(InputError, match="has no unembedding"):
        ov_copying(interp.load(own_model("bert")))
    with pytest.raises(InputError, match=r"detector 'ov_copying' cannot be run: .* has no unembedding"):
        interp.scan(interp.load(own_model("bert")), "ov_copying", progress=False)
    config = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    with pytest.raises(
        InputError, match=r"one stack of layers that reads tokens; its stacks are \['cross', 'decoder', 'encoder'\]"
    ):
        ov_copying(interp.load(transformers.T5ForConditionalGeneration(config).eval()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_on_the_heads_is_refused(dtype: torch.dtype):
    config = transformers.Qwen3NextConfig(
        **GROUPED | {"num_hidden_layers": 1, "head_dim": 8, "layer_types": ["full_attention"], "num_experts": 2},
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    model = interp.load(randomised(transformers.Qwen3NextForCausalLM(config).eval()).to(dtype))
    with pytest.raises(InputError, match=r"depends on the token in other ways than by a scale \(a gate\)"):
        ov_copying(model)


def test_an_edited_model_is_refused(own_model):
    model = interp.load(own_model("llama"))
    with model.edited([interp.edits.ablate("L0H0")]), pytest.raises(InputError, match="which no edit changes"):
        ov_copying(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_bfloat16_gives_nearly_the_scores(name: str, own_model):
    exact = ov_copying(interp.load(own_model(name))).scores
    found = ov_copying(interp.load(ARCHITECTURES[name].build().bfloat16())).scores
    np.testing.assert_allclose(found, exact, rtol=0, atol=8 * torch.finfo(torch.bfloat16).eps)


def test_weights_come_in_several_runs_all_the_same(own_model, monkeypatch):
    model = interp.load(ARCHITECTURES["llama"].build())
    whole = ov_copying(model).scores
    monkeypatch.setattr("interp.captures.circuits.ROWS", 5)
    np.testing.assert_allclose(ov_copying(model).scores, whole, atol=1e-5)
