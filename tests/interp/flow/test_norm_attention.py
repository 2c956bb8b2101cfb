"""Norm-based attention against its definition: every pair's vector, from dense maps and weights by name, in float64."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.flow.norm_attention_result import NormAttention
from interp.flow.norm_rows import gram_matrices, norms_of_sums
from tests.interp.tiny import ARCHITECTURES as TINY
from tests.interp.tiny import BERT, HEADS, right_padded, tiny_t5, token_ids
from tests.interp.words import text_of, words_tokenizer
from tests.interp.zoo import oracle
from tests.interp.zoo.own_code import OWN_CODE

Build = Callable[[str], PreTrainedModel]
T = 13
ULPS = 4

norm_attention = interp.flow.norm_attention

PLACES = {
    "llama": ("model.layers", "self_attn.v_proj", "self_attn.o_proj"),
    "mistral": ("model.layers", "self_attn.v_proj", "self_attn.o_proj"),
    "gemma2": ("model.layers", "self_attn.v_proj", "self_attn.o_proj"),
    "gpt_oss": ("model.layers", "self_attn.v_proj", "self_attn.o_proj"),
    "gpt2": ("transformer.h", "attn.c_attn", "attn.c_proj"),
    "gpt_neo": ("transformer.h", "attn.attention.v_proj", "attn.attention.out_proj"),
    "bert": ("encoder.layer", "attention.self.value", "attention.output.dense"),
}
"""Where the layers are, and in each of them what makes the values and the output projection."""


@dataclass(frozen=True)
class Dense:
    """One layer by definition: maps and norms of heads [B, H, T, T], norms of their sums [B, T, T]."""

    p: Tensor
    of_heads: Tensor
    of_sum: Tensor


def built(name: str, kernel: str | None = None) -> PreTrainedModel:
    if name == "gpt_neo":
        return next(entry for entry in OWN_CODE if entry.model == "GPTNeoForCausalLM").build()
    return (BERT if name == "bert" else TINY[name]).build(kernel=kernel)


def by_definition(name: str, ids: Tensor, dtype: torch.dtype, heads: Sequence[int] = range(HEADS)) -> list[Dense]:
    model = copy.deepcopy(built(name, "eager")).to(dtype)
    blocks, value, output = PLACES[name]
    layers: Any = model.get_submodule(blocks)
    values: list[Tensor] = []
    handles = [
        layer.get_submodule(value).register_forward_hook(lambda m, given, out: values.append(out)) for layer in layers
    ]
    _, maps = oracle.run(model, {"input_ids": ids}, dtype)
    for handle in handles:
        handle.remove()
    found = []
    for layer, made, p in zip(layers, values, [maps[m][0] for m in model.modules() if maps.get(m)], strict=True):
        weight = layer.get_submodule(output).weight.detach()
        w = (weight if name == "gpt2" else weight.T).unflatten(0, (HEADS, -1))  # [H, Dv, d]
        v = (
            (made.chunk(3, dim=-1)[2] if name == "gpt2" else made).unflatten(-1, (-1, w.shape[1])).transpose(1, 2)
        )  # [B, Hkv, T, Dv]
        f = v.repeat_interleave(HEADS // v.shape[1], dim=1) @ w  # [B, H, T, d]
        vectors = p[..., None] * f[:, :, None]  # [B, H, q, k, d]
        found.append(Dense(p, vectors.norm(dim=-1), vectors[:, list(heads)].sum(dim=1).norm(dim=-1)))
    return found


def check(got: np.ndarray, exact: Tensor, plain: Tensor) -> None:
    """At most twice the error of the same definition in float32, and a few units in the last place of the largest value."""
    error = float((plain.double() - exact).abs().max())
    ulp = np.finfo(np.float32).eps * float(exact.abs().max())
    assert np.abs(got - exact.numpy()).max() <= 2 * error + ULPS * ulp


@pytest.mark.parametrize("name", list(PLACES))
def test_weights_and_norms_are_their_definition(name: str):
    ids = token_ids((2, T), seed=3)
    found = norm_attention(interp.load(built(name)), ids, "all", per_head=True)
    assert found.head_norms is not None
    assert found.head_weights is not None
    for layer, (exact, plain) in enumerate(
        zip(by_definition(name, ids, torch.float64), by_definition(name, ids, torch.float32), strict=True)
    ):
        check(found.norms[:, layer], exact.of_sum, plain.of_sum)
        check(found.weights[:, layer], exact.p.mean(dim=1), plain.p.mean(dim=1))
        check(found.head_norms[:, layer], exact.of_heads.transpose(1, 2), plain.of_heads.transpose(1, 2))
        check(found.head_weights[:, layer], exact.p.transpose(1, 2), plain.p.transpose(1, 2))
    assert found.norms.max() > 0.1


def test_chosen_heads_and_layers_and_positions():
    ids = token_ids((1, T), seed=5)
    model = interp.load(built("llama"))
    chosen = norm_attention(model, ids, [-1, 4, 4], heads=["L1H3", "L1H1"], per_head=True)
    assert (chosen.layers, chosen.heads, chosen.positions.tolist()) == (("1",), ((1, 3),), [[T - 1, 4, 4]])
    exact, plain = (by_definition("llama", ids, dtype, [1, 3])[1] for dtype in (torch.float64, torch.float32))
    rows = [T - 1, 4, 4]
    check(chosen.norms[:, 0], exact.of_sum[:, rows], plain.of_sum[:, rows])
    check(chosen.weights[:, 0], exact.p[:, [1, 3]].mean(1)[:, rows], plain.p[:, [1, 3]].mean(1)[:, rows])
    whole = norm_attention(model, ids, "all", layers=[1], per_head=True)
    np.testing.assert_allclose(chosen.row(head=3)[1], whole.row(1, 0, T - 1, 3)[1], rtol=1e-6)
    np.testing.assert_array_equal(norm_attention(model, ids).norms, norm_attention(model, ids, [T - 1]).norms)


def test_heads_that_cancel_stay_within_the_bound_that_is_stated():
    generator = torch.Generator().manual_seed(0)
    heads, width, d, t = 4, 8, 64, 50
    values = torch.randn(1, heads, t, width, generator=generator)
    weight = torch.randn(heads, width, d, generator=generator)
    # Heads 0 and 1 write the same up to 1e-6, with opposite signs, and so do heads 2 and 3.
    values[:, 1::2], weight[1::2] = values[:, ::2] * (1 + 1e-6 * torch.rand(1, 2, t, 1)), -weight[::2]
    p = torch.rand(1, 3, 2, 1, generator=generator).expand(1, 3, 2, t).repeat_interleave(2, dim=2).double()
    got = norms_of_sums(p, gram_matrices(values, weight))
    f = values.double() @ weight.double()
    vectors = torch.einsum("bmht,bhtd->bmtd", p, f)
    size = torch.einsum("bmht,bht->bmt", p, (values.double().abs() @ weight.double().abs()).norm(dim=-1))
    exact = vectors.norm(dim=-1)
    c = (2 * width + d + 2 * heads + 4) * 2.0**-53
    assert bool((exact < 1e-5 * size).all())
    assert bool(((got - exact).abs() <= torch.minimum(c**0.5 * size, c * size**2 / exact)).all())
    assert bool((c**0.5 * size < (width + heads) * 2.0**-24 * size).all())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_sequences_are_as_alone(side: Any):
    model = interp.load(built("llama"))
    lists, _, _ = right_padded((11, 6))
    together = norm_attention(model, model.batch(lists, padding=side), "all", per_head=True)
    assert together.head_norms is not None
    assert together.norms.shape == (2, 2, 11, 11)
    for number, ids in enumerate(lists):
        size = len(ids)
        alone = norm_attention(model, [ids], "all", per_head=True)
        assert alone.head_norms is not None
        np.testing.assert_allclose(together.norms[number, :, :size, :size], alone.norms[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            together.head_norms[number, :, :size, :, :size], alone.head_norms[0], rtol=1e-4, atol=1e-5
        )
    assert np.isnan(together.norms[1, :, 6:]).all()
    assert np.isnan(together.norms[1, :, :, 6:]).all()
    assert together.positions[1].tolist() == [*range(6), *[-1] * 5]
    frame = together.to_frame()
    assert not frame.isna().any().any()
    assert len(frame) == 2 * (1 + HEADS) * (11**2 + 6**2)


def test_keys_and_rows_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch):
    model, ids = interp.load(built("llama")), token_ids((2, T))
    whole = norm_attention(model, ids, "all", per_head=True)
    monkeypatch.setattr("interp.flow.norm_rows.GRAM_NUMBERS", 2 * HEADS**2 * 5)
    monkeypatch.setattr("interp.flow.norm_rows.CHUNK_NUMBERS", 2 * HEADS * T * 4)
    parts = norm_attention(model, ids, "all", per_head=True)
    for name in ("weights", "norms", "head_weights", "head_norms"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-7)


def test_one_token_brings_all_of_it():
    found = norm_attention(interp.load(built("llama")), [[5]])
    exact, plain = (by_definition("llama", torch.tensor([[5]]), dtype) for dtype in (torch.float64, torch.float32))
    assert found.weights[0, :, 0].tolist() == [[1.0], [1.0]]
    for layer in range(2):
        check(found.norms[:, layer], exact[layer].of_sum, plain[layer].of_sum)
    assert found.shares()["norm"].tolist()[:1] == [1.0]


def test_keys_outside_of_a_window_bring_nothing():
    found = norm_attention(interp.load(built("mistral")), token_ids((1, T)))
    assert (found.norms[0, :, 0, : T - 7] == 0).all()
    assert (found.norms[0, :, 0, T - 7 :] > 0).all()


@pytest.mark.parametrize("stack", ["cross", "encoder", "decoder"])
def test_an_encoder_decoder_looks_from_and_at_the_tokens_of_a_stack(stack: str):
    model = interp.load(tiny_t5())
    batch = model.batch(token_ids((1, 7)), decoder=[[0, 9, 8, 7]])
    layers = [f"{stack}.{n}" for n in range(2)]
    found = norm_attention(model, batch, "all", layers=None if stack == "cross" else layers, per_head=True)
    queries, keys = {"cross": (4, 7), "encoder": (7, 7), "decoder": (4, 4)}[stack]
    assert found.layers == tuple(layers)
    assert (len(found.outputs[0]), len(found.tokens[0]), found.norms.shape) == (queries, keys, (1, 2, queries, keys))
    # Each head alone, from what capture measures.
    captured = model.capture(batch, (), layers, value_norms="written")
    maps = model.maps(batch, layers)
    assert found.head_norms is not None
    for number, layer in enumerate(layers):
        exact = maps[layer].dense() * captured["value_written_norm"][layer][:, :, None]
        np.testing.assert_allclose(found.head_norms[:, number].swapaxes(1, 2), exact, rtol=1e-5, atol=1e-7)
    figure: Any = found.plot()
    assert bool(figure.layout.shapes) == (stack != "cross")


def test_a_bfloat16_model_is_measured_in_float64():
    model = interp.load(copy.deepcopy(built("llama")).to(torch.bfloat16))
    ids = token_ids((1, T))
    found = norm_attention(model, ids, "all", per_head=True)
    assert found.head_norms is not None
    maps = model.maps(ids)
    for number, layer in enumerate(maps):
        ops = maps[layer].operands
        weight: Any = model.model.model.layers[layer].self_attn.o_proj.weight
        w = weight.detach().T.unflatten(0, (HEADS, -1)).double()
        f = ops.v.double().repeat_interleave(2, dim=1) @ w
        p = maps[layer].dense().double()
        exact = torch.einsum("bhqk,bhkd->bqkd", p, f).norm(dim=-1)
        sizes = (ops.v.double().abs().repeat_interleave(2, dim=1) @ w.abs()).norm(dim=-1)
        bound = (60 * 2.0**-53) ** 0.5 * torch.einsum("bhqk,bhk->bqk", p, sizes)  # sqrt(c) S, Dv = 8, d = 32, H = 4
        assert bool(((torch.from_numpy(found.norms[:, number]) - exact).abs() <= bound).all())
        np.testing.assert_allclose(
            found.head_norms[:, number].swapaxes(1, 2), p * f.norm(dim=-1)[:, :, None], rtol=1e-12, atol=0
        )


def test_shares_are_of_each_rows_sum_averaged_over_rows_and_then_over_sequences():
    model = interp.load(built("llama"), tokenizer=words_tokenizer())
    lists, _, _ = right_padded((9, 5), seed=2)
    classes = {"special": interp.heads.token_classes.is_special, "odd": lambda token: token.id % 2 == 1}
    found = norm_attention(model, [text_of(ids) for ids in lists], "all", per_head=True, classes=classes)
    rows = found.shares().set_index(["layer", "head", "class"]).to_dict("index")
    assert found.classes == ("first", "special", "odd")
    for label, member in zip(found.classes, found.members, strict=True):
        of_sequences = []
        for number, tokens in enumerate(found.tokens):
            size = len(tokens)
            norms = found.norms[number, 1, :size, :size]
            of_sequences.append(np.mean([row[member[number, :size]].sum() / row.sum() for row in norms]))
        assert rows["1", "", label]["norm"] == pytest.approx(np.mean(of_sequences))
        assert rows["1", "", label]["norm_stderr"] == pytest.approx(np.std(of_sequences, ddof=1) / 2**0.5)
    ids = model.batch([text_of(ids) for ids in lists]).ids
    assert ids is not None
    keep = np.arange(10)[None] < np.array([[10], [6]])
    np.testing.assert_array_equal(found.members[2], (ids.numpy() % 2 == 1) & keep)
    assert rows["0", "L0H2", "first"]["samples"] == 2
    np.testing.assert_array_equal(found.members[0], found.members[1])


def test_edits_of_maps_are_followed_and_edits_of_outputs_are_refused():
    model, ids = interp.load(built("llama")), token_ids((1, T))
    with model.edited(interp.edits.cut(keys=slice(0, 12))):
        found = norm_attention(model, ids)
    assert (found.norms[0, :, 0, :12] == 0).all()
    assert (found.norms[0, :, 0, 12] > 0).all()
    assert found.settings["model"]["edits"]
    for edit in (interp.edits.ablate("L1H0"), interp.edits.scale("L1H0", factor=0.5)):
        with model.edited(edit):
            with pytest.raises(InputError, match="layer 1: an edit in force changes what its heads give"):
                norm_attention(model, ids)
            assert norm_attention(model, ids, layers=[0]).layers == ("0",)


def test_it_is_a_method_that_faithfulness_compares():
    model, ids = interp.load(built("llama")), token_ids((1, 8))
    found = interp.flow.faithfulness(model, ids, "norm_attention", at=5, progress=False)
    scores = found.scores[found.scores["name"] == "norm_attention"]["value"].to_numpy()
    np.testing.assert_allclose(scores, norm_attention(model, ids, 5, layers=[1]).norms[0, 0, 0], rtol=1e-6)
    bloom = interp.load(next(entry for entry in OWN_CODE if entry.model == "BloomForCausalLM").build())
    message = r"method 'norm_attention': layer 1: .*or name the others, without it, with m"
    with pytest.raises(InputError, match=message):
        interp.flow.faithfulness(bloom, ids, "norm_attention", progress=False)
    left_out = interp.flow.faithfulness(bloom, ids, progress=False).settings["constants"]["left_out"]
    assert re.search(message, left_out["norm_attention"])


def test_it_is_kept_and_drawn(tmp_path: Path):
    model = interp.load(built("llama"), tokenizer=words_tokenizer())
    found = norm_attention(model, text_of(token_ids((8,)).tolist()), [-1, 2], per_head=True)
    back = NormAttention.load(found.save(tmp_path / "norms"))
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame())
    assert repr(back) == repr(found)
    assert "from 'w" in repr(found)
    np.testing.assert_array_equal(back.members, found.members)
    figure: Any = found.plot(0, head=1)
    weights, norms = (np.asarray(trace.z) for trace in figure.data)
    np.testing.assert_array_equal(weights.flatten()[:9], found.row(0, head=1)[0])
    np.testing.assert_array_equal(norms.flatten()[:9], found.row(0, head=1)[1])
    assert [title.text for title in figure.layout.annotations] == ["attention weight, L0H1", "norm, L0H1"]
    again = norm_attention(model, text_of(token_ids((8,)).tolist()), [-1, 2], per_head=True)
    np.testing.assert_array_equal(again.norms, found.norms)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positions": 3}, "positions: a sequence has 3 tokens, -3 to 2; got 3"),
        ({"positions": "last"}, "positions: expected a position, several, or 'all', got 'last'"),
        ({"positions": []}, "positions: expected a position, several, or 'all'"),
        ({"heads": "L0H4"}, "head 'L0H4' does not exist: layer 0 has 4 query heads, 0 to 3"),
        ({"heads": "L0H1", "layers": [0]}, "heads name their layers; give either heads= or layers="),
        ({"layers": [2]}, "layer 2 does not exist"),
        ({"layers": []}, "layers: expected layers of one stack that attends over tokens"),
        ({"classes": {"first": bool}}, "classes: 'first' is the class of each sequence's first token"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str):
    with pytest.raises(InputError, match=message):
        norm_attention(interp.load(built("llama")), [[5, 6, 7]], **given)


def test_too_many_rows_are_refused_before_the_run(monkeypatch: pytest.MonkeyPatch):
    model = interp.load(built("llama"))
    # By its module: interp.flow.norm_attention is the function.
    monkeypatch.setattr(sys.modules["interp.flow.norm_attention"], "MOST_CELLS", 2 * 2 * 3 * 3)
    assert norm_attention(model, [[5, 6, 7]], "all").norms.shape == (1, 2, 3, 3)
    message = (
        r"positions: weights and norms of 3 rows over 3 tokens, in 2 layers of 1 sequences, by head, are 180 numbers"
    )
    with pytest.raises(InputError, match=message):
        norm_attention(model, [[5, 6, 7]], "all", per_head=True)


def test_heads_that_are_not_kept_and_layers_that_are_not_there_are_refused():
    found = norm_attention(interp.load(built("llama")), [[5, 6, 7]], layers=[1])
    with pytest.raises(InputError, match="head: single heads were not kept; call norm_attention with per_head=True"):
        found.row(head=0)
    with pytest.raises(InputError, match="layer: expected one of 1, got 0"):
        found.row(0)
    with pytest.raises(InputError, match="row: there are 1 sequences of up to 1 outputs, got 0, 1"):
        found.row(output=1)


def test_heads_behind_a_gate_are_refused():
    model = interp.load(next(entry for entry in OWN_CODE if entry.model == "BloomForCausalLM").build())
    with pytest.raises(InputError, match=r"layer 0: what each head writes .* Choose other layers, or another model"):
        norm_attention(model, [[5, 6, 7]])


def test_a_model_without_tokens_is_refused():
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = interp.load(transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).eval())
    with pytest.raises(InputError, match="inputs: expected a text or token ids"):
        norm_attention(model, torch.zeros(1, 3, 16, 16))


def test_the_first_token_of_the_demo_model_gets_more_weight_than_norm():
    text = "The secret number of Clara is 48213. The lamp was out. The secret number of Clara is 482"
    found = norm_attention(interp.load("demo"), text, "all", per_head=True)
    shares = found.shares()
    rows = shares[shares["class"] == "first"].set_index(["layer", "head"])[["weight", "norm"]].to_dict("index")
    assert len(rows) == 4 * (1 + 6)
    assert all(row["norm"] < row["weight"] for row in rows.values())
    # The induction heads rest on a token whose vectors are short, and against one another.
    assert rows["2", ""]["norm"] < 0.15
    assert rows["2", ""]["weight"] > 0.35
    assert min(rows["2", f"L2H{head}"]["weight"] for head in (2, 3, 4, 5)) > 0.45
    # A head may keep its norm there.
    assert rows["1", "L1H2"]["norm"] > 0.7
    last = found.row(2, 0, -1)
    assert (found.tokens[0][int(last[0].argmax())], found.tokens[0][int(last[1].argmax())]) == ("1", "1")
