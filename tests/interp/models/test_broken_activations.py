"""NaN and infinity in a model are an error that says where they arose, never a statistic."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

import interp
from interp.errors import InputError, RunError
from tests.interp.tiny import ARCHITECTURES, token_ids

IDS = token_ids((1, 20))


def poisoned(part: str, value: float = torch.nan) -> PreTrainedModel:
    """A Llama of three layers with one weight that is no number."""
    model = ARCHITECTURES["llama"].build(num_hidden_layers=3)
    with torch.no_grad():
        model.get_parameter(f"{part}.weight").view(-1)[0] = value
    return model


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("model.layers.0.self_attn.q_proj", "layer 0: NaN in the queries that enter its attention; the"),
        ("model.layers.1.self_attn.k_proj", "layer 1: NaN in the keys .*, while that of layer 0 was still finite; the"),
        ("model.layers.1.self_attn.v_proj", "layer 1: NaN in the values .*, while that of layer 0 was still finite"),
        ("model.layers.1.mlp.down_proj", "layer 2: NaN in the queries .*, while that of layer 1 was still finite"),
        ("model.layers.2.mlp.down_proj", "NaN .* in the last hidden state, after the attention of layer 2 was still"),
        ("model.norm", "NaN .* in the last hidden state, after the attention of layer 2 was still finite"),
    ],
)
def test_nan_is_named_with_its_layer(part: str, message: str):
    with pytest.raises(RunError, match=message):
        interp.load(poisoned(part)).capture(IDS)


def test_nan_in_the_logits():
    model = interp.load(poisoned("lm_head"))
    with pytest.raises(RunError, match="in the logits, after the attention of layer 2 was still finite"):
        model.capture(IDS, logits=True)
    assert not bool(model.capture(IDS).stacked("entropy").isnan().any())


def test_infinity_is_named_with_its_layer():
    with pytest.raises(RunError, match=r"layer 1: infinity in the values .*whether torch\.float32 is wide enough"):
        interp.load(poisoned("model.layers.1.self_attn.v_proj", torch.inf)).capture(IDS)


def test_scores_that_overflow_are_named():
    """Finite queries and keys whose products are not."""
    model = ARCHITECTURES["llama"].build()
    for part in ("q_proj", "k_proj"):
        model.get_parameter(f"model.layers.1.self_attn.{part}.weight").data.mul_(1e25)
    with pytest.raises(RunError, match="layer 1: NaN in the output of its attention"):
        interp.load(model).capture(IDS)


def test_nan_stops_lazy_maps_and_scans():
    model = interp.load(poisoned("model.layers.1.self_attn.q_proj"))
    for run in (lambda: model.maps(IDS), lambda: interp.scan(model, progress=False)):
        with pytest.raises(RunError, match="layer 1: NaN in the queries"):
            run()


def test_it_is_the_runs_failure_and_not_the_inputs():
    assert not issubclass(RunError, InputError)


@pytest.mark.parametrize("part", ["model.layers.1.self_attn.q_proj", "lm_head"])
def test_parts_in_different_dtypes_are_named(part: str):
    model = ARCHITECTURES["llama"].build()
    model.get_submodule(part).to(torch.bfloat16)
    said = rf"parts of LlamaForCausalLM are in different dtypes \(.*{part}.weight in bfloat16.*bring all of it into one"
    hooked = interp.load(model)
    for run in (lambda: hooked.capture(IDS, ["entropy"], logits=True), lambda: hooked.generate(IDS, 2)):
        with pytest.raises(RunError, match=said):
            run()


def test_a_layer_taken_out_since_the_model_was_loaded():
    hooked = interp.load(ARCHITECTURES["llama"].build())
    del hooked.model.model.layers[1]
    with pytest.raises(RunError, match=r"layers \[1\] of LlamaForCausalLM .* load the changed model again"):
        hooked.capture(IDS)
