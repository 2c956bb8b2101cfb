"""Faithfulness: effects against runs by hand, correlations against scipy, and a model on which gradients are exactly faithful."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError, RunError
from interp.flow import METHODS, Example, Faithfulness, Method, faithfulness
from interp.flow.ranks import spearman
from tests.interp.flow.linear import linear_model
from tests.interp.tiny import right_padded, token_ids
from tests.interp.words import text_of, words_tokenizer

Build = Callable[[str], PreTrainedModel]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3, 4], [1, 3, 2, 4]),
        ([1, 1, 2, 2, 5], [3, 2, 2, 9, 9]),
        ([0.1, 0.2, 0.3], [3, 2, 1]),
        (np.random.default_rng(0).integers(0, 4, 40), np.random.default_rng(1).integers(0, 4, 40)),
    ],
)
def test_rank_correlation_is_scipys_ties_included(x: Any, y: Any):
    want = scipy.stats.spearmanr(x, y).statistic
    assert spearman(np.array(x), np.array(y)) == pytest.approx(want, abs=1e-14)


def test_rank_correlation_with_a_constant_or_of_two_is_not_defined():
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert np.isnan(spearman(np.arange(2), np.arange(2)))


def effects(result: Faithfulness, example: int, name: str = "ablation") -> np.ndarray:
    of = result.scores[(result.scores["example"] == example) & (result.scores["name"] == name)]
    return of["value"].to_numpy()


def test_on_a_linear_model_gradient_times_input_is_the_effect_of_zeroing_a_token():
    model = interp.load(linear_model())
    examples = [list(range(3, 12)), list(range(20, 14, -1))]
    found = faithfulness(model, examples, ablation="zero", measure="logit", progress=False)
    for number in range(2):
        np.testing.assert_allclose(
            effects(found, number), effects(found, number, "gradient_x_input"), rtol=1e-4, atol=1e-5
        )
    table = found.table().set_index(["method", "reference"])
    assert table.loc[("gradient_x_input", "ablation"), "mean"] == pytest.approx(1)
    # Uniform attention ranks nothing.
    assert table.loc[("attention", "ablation"), "undefined"] == 2
    assert np.isnan(table.loc[("attention", "ablation"), "mean"])  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("ablation", ["mean", "zero", "unk", "mask", 9, "cut"])
@pytest.mark.parametrize(("name", "measure"), [("llama", "probability"), ("gpt2", "logit")])
def test_effects_are_those_of_runs_by_hand(
    ablation: Any, name: str, measure: Any, own_model: Build, eager_model: Build
):
    tokenizer = words_tokenizer(None)
    tokenizer.add_special_tokens({"unk_token": "w7", "mask_token": "w8"})
    model = interp.load(own_model(name), tokenizer=tokenizer)
    ids = token_ids((1, 8), 3)
    found = faithfulness(model, ids, "attention", 11, at=5, ablation=ablation, measure=measure, progress=False)
    eager: Any = eager_model(name)
    table = eager.get_input_embeddings().weight

    def explained(embedded: Tensor, hidden: int | None = None) -> float:
        t = ids.shape[1]
        visible = torch.ones(t, t).tril().bool()
        if hidden is not None:
            visible[:, hidden] = torch.arange(t) == hidden
        mask = torch.zeros(1, 1, t, t, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)
        with torch.no_grad():
            logits = eager(inputs_embeds=embedded, attention_mask=mask).logits[0, 5]
        return float((logits if measure == "logit" else logits.softmax(-1))[11])

    x = table[ids]
    want = []
    for j in range(8):
        without = x.clone()
        if ablation != "cut":
            by = {"mean": table.mean(0), "zero": torch.zeros(32), "unk": table[7], "mask": table[8], 9: table[9]}
            without[0, j] = by[ablation]
        want.append(explained(x) - explained(without, j if ablation == "cut" else None))
    np.testing.assert_allclose(effects(found, 0), want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
    assert found.values[0] == pytest.approx(explained(x), rel=1e-4)
    assert np.abs(want).max() > 1e-4
    # What stands after the output is not compared.
    assert found.correlations["tokens"].tolist() == [6, 6, 6]
    assert found.scores["is_compared"].to_numpy()[:8].tolist() == [True] * 6 + [False] * 2


def test_each_method_has_the_scores_that_it_has_alone(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 10))
    found = faithfulness(model, ids, target=7, measure="logit", progress=False)
    assert dict.fromkeys(found.correlations["method"]).keys() == METHODS.keys()
    np.testing.assert_array_equal(effects(found, 0, "relevance"), interp.flow.relevance(model, ids, 7).row())
    gradients = interp.flow.input_gradients(model, ids, 7)
    np.testing.assert_array_equal(effects(found, 0, "gradient_norm"), gradients.norm[0])
    np.testing.assert_array_equal(effects(found, 0, "gradient_x_input"), gradients.product[0])
    np.testing.assert_array_equal(effects(found, 0, "rollout"), interp.flow.rollout(model, ids).of())
    flow = interp.flow.attention_flow(model, ids)
    np.testing.assert_array_equal(effects(found, 0, "attention_flow"), flow.flow[0])
    row = model.maps(ids)[1].rows([-1])[0, :, 0].mean(0)
    np.testing.assert_allclose(effects(found, 0, "attention"), row, rtol=1e-6)
    by_routes = effects(found, 0, "routes")
    for position, value in enumerate(by_routes):
        nodes = interp.flow.routes(model, ids).nodes.query(f"stage == 0 and position == {position}")["flow"]
        assert value == (nodes.item() if len(nodes) else 0.0)
    assert by_routes.sum() == pytest.approx(1.0)


def test_methods_score_the_output_that_is_explained_and_not_the_last_one(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 10))
    found = faithfulness(model, ids, ["rollout", "attention_flow", "routes"], at=4, progress=False)
    assert effects(found, 0, "routes")[:5].sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(effects(found, 0, "rollout"), interp.flow.rollout(model, ids, 4).of())
    np.testing.assert_array_equal(
        effects(found, 0, "attention_flow"), interp.flow.attention_flow(model, ids, 4).flow[0]
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_beyond_the_context_where_that_is_allowed(method: str, own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 257))
    with pytest.raises(InputError, match="made for 256"):
        faithfulness(model, ids, method, progress=False)
    example = Example(model, model.checked(ids, beyond_context=True), 256, 7, None, "logit", beyond_context=True)
    assert METHODS[method].scores(example).shape == (257,)


def test_examples_beyond_the_context_are_compared_where_that_is_allowed():
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8,
    )
    model = interp.load(transformers.LlamaForCausalLM(config).eval())
    found = faithfulness(model, token_ids((1, 9)), beyond_context=True, progress=False)
    assert found.correlations["tokens"].unique().tolist() == [9]


def test_correlations_are_of_the_scores_that_are_kept_signed_ones_by_sign_others_by_size(own_model: Build):
    model = interp.load(own_model("llama"))
    found = faithfulness(model, [token_ids((n,), n).tolist() for n in (12, 7)], progress=False)
    for row in found.correlations.itertuples():
        x, y = effects(found, row.example, row.method), effects(found, row.example, row.reference)  # pyright: ignore[reportArgumentType]
        is_signed = row.method == "gradient_x_input" and row.reference == "ablation"
        want = scipy.stats.spearmanr(*((x, y) if is_signed else (np.abs(x), np.abs(y)))).statistic
        assert row.spearman == pytest.approx(want, abs=1e-12)
    table = found.table()
    of = found.correlations[
        (found.correlations["method"] == "relevance") & (found.correlations["reference"] == "ablation")
    ]
    line = table[(table["method"] == "relevance") & (table["reference"] == "ablation")].iloc[0]
    assert line["mean"] == pytest.approx(of["spearman"].mean())
    assert line["stderr"] == pytest.approx(of["spearman"].std(ddof=1) / 2**0.5)


def test_examples_of_a_padded_batch_are_as_alone(own_model: Build):
    model = interp.load(own_model("llama"))
    lists, _, _ = right_padded((11, 6))
    together = faithfulness(model, model.batch(lists, padding="left"), ["attention"], progress=False)
    for number, ids in enumerate(lists):
        alone = faithfulness(model, [ids], ["attention"], progress=False)
        np.testing.assert_allclose(effects(together, number), effects(alone, 0), rtol=1e-3, atol=1e-7)


def test_methods_of_ones_own_are_compared(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, 9))
    seen: list[Example] = []

    def recency(example: Example) -> list[int]:
        seen.append(example)
        return list(range(example.batch.tokens))

    oracle = Method(lambda example: example.gradients.product[0], "a test", is_signed=True)
    found = faithfulness(model, ids, {"recency": recency, "oracle": oracle}, 7, progress=False)
    assert (seen[0].position, seen[0].target, seen[0].at, seen[0].measure) == (8, 7, 8, "probability")
    table = found.table().set_index(["method", "reference"])["mean"]
    assert table["oracle", "gradient_x_input"] == pytest.approx(1)
    assert set(table.index.get_level_values("method")) == {"recency", "oracle"}


def test_the_outputs_own_token_and_special_ones_can_be_left_out(own_model: Build):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    found = faithfulness(
        model, text_of(token_ids((8,)).tolist()), "attention", special=False, own=False, progress=False
    )
    assert found.scores["is_compared"].to_numpy()[:9].tolist() == [False, *[True] * 7, False]


def test_a_function_can_be_explained(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((2, 6))
    found = faithfulness(model, ids, "gradient_norm", lambda logits: logits[0, -1, 7], progress=False)
    named = faithfulness(model, ids, "gradient_norm", 7, measure="logit", progress=False)
    np.testing.assert_allclose(found.scores["value"], named.scores["value"], rtol=1e-3, atol=1e-5)
    assert found.targets == ()


def test_a_classifier_that_sees_both_ways(own_model: Build):
    options: dict[str, Any] = {"vocab_size": 61, "num_labels": 3}
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **options
    )
    model = interp.load(transformers.BertForSequenceClassification(config).eval())
    found = faithfulness(model, token_ids((1, 7)), target=1, ablation=5, progress=False)
    assert found.targets == ("LABEL_1",)
    assert found.correlations["tokens"].unique().tolist() == [7]
    assert (effects(found, 0) != 0).any()


def test_it_is_kept_and_drawn(own_model: Build, tmp_path: Path):
    model = interp.load(own_model("llama"))
    found = faithfulness(
        model,
        token_ids((3, 8)),
        {"<b>mine</b>": lambda e: np.arange(8), "relevance": METHODS["relevance"]},
        progress=False,
    )
    back = Faithfulness.load(found.save(tmp_path / "f"))
    pd.testing.assert_frame_equal(back.table(), found.table())
    pd.testing.assert_frame_equal(back.scores, found.scores)
    figure: Any = back.plot()
    assert figure.layout.yaxis.ticktext == ("&lt;b&gt;mine&lt;/b&gt;", "relevance")
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == [
        "ablation",
        "gradient norm",
        "gradient x input",
    ]
    assert "over 3 examples: " in back.summary()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": "relevanc"}, "methods: unknown method 'relevanc'; did you mean 'relevance'"),
        ({"methods": []}, "methods: give at least one"),
        ({"methods": 3}, r"methods: expected names \(attention, .*, got 3"),
        ({"methods": len}, r"methods: expected names .* or functions by name such as \{'mine': function\}, got <built"),
        ({"methods": [["rollout"]]}, r"methods: expected names .* got \[\['rollout'\]\]"),
        (
            {"methods": {"ablation": len}},
            "methods: 'ablation' is the name of what methods are compared with; give yours another",
        ),
        ({"methods": {"mine": 3}}, r"methods\['mine'\]: expected a function of an Example"),
        ({"ablation": "drop"}, "ablation: expected one of unk, mask, mean, zero, cut, or a token id, got 'drop'"),
        ({"ablation": "mask"}, "ablation: .* has no mask token; take 'mean', or give a token id"),
        ({"ablation": 61}, "ablation: token id 61 is outside of the vocabulary of 61"),
        ({"measure": "loss"}, "measure: expected 'logit' or 'probability', got 'loss'"),
        ({"target": [1, 2]}, "target: expected one for each of 1 sequences, got 2"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str, own_model: Build):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    with pytest.raises(InputError, match=message):
        faithfulness(model, token_ids((1, 5)), progress=False, **given)


def test_one_example_has_no_standard_error_to_tell(own_model: Build):
    found = faithfulness(interp.load(own_model("llama")), token_ids((1, 6)), "attention", progress=False)
    assert re.fullmatch(r"correlation with ablation over 1 example: attention: -?\d\.\d\d", found.summary())


def test_examples_of_two_tokens_say_nothing(own_model: Build):
    with pytest.raises(InputError, match="texts: rank correlations need 3 tokens, and no example has as many"):
        faithfulness(interp.load(own_model("llama")), [[5, 6], [7]], progress=False)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["x"] * 5, "method 'mine': expected a number for each of 5 tokens, got \\['x'"),
        (np.arange(4), r"method 'mine': expected a number for each of 5 tokens, got shape \[4\]"),
        (np.full(5, np.nan), "method 'mine': it gave NaN or infinity"),
    ],
)
def test_what_a_method_gives_is_checked(scores: Any, message: str, own_model: Build):
    with pytest.raises(RunError, match=message):
        faithfulness(interp.load(own_model("llama")), token_ids((1, 5)), {"mine": lambda e: scores}, progress=False)


def test_an_encoder_decoder_is_refused():
    config = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    with pytest.raises(
        InputError, match=r"faithfulness is for one stack of layers, and .* has an encoder and a decoder"
    ):
        faithfulness(interp.load(transformers.T5ForConditionalGeneration(config).eval()), [[5, 6, 7]], progress=False)


def test_methods_that_the_model_does_not_allow_are_left_out_with_the_reason_unless_they_are_named():
    config = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)
    model = interp.load(transformers.BloomForCausalLM(config).eval())
    found = interp.flow.faithfulness(model, token_ids((1, 6)), progress=False)
    left_out = found.settings["constants"]["left_out"]
    assert set(left_out) == {"norm_attention", "routes"}
    assert not set(left_out) & set(found.table()["method"])
    assert {"attention", "rollout", "relevance", "gradient_norm"} <= set(found.table()["method"])
    assert f"left out norm_attention: {left_out['norm_attention']}" in found.summary()
    with pytest.raises(InputError):
        interp.flow.faithfulness(model, token_ids((1, 6)), ["norm_attention"], progress=False)
