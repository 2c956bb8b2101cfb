"""A model is hooked only while it runs: afterwards, even after an error, it is as before."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import interp
from interp.errors import InputError, RunError
from interp.models.attention import IMPLEMENTATION
from interp_kernels import Entropy, Probe
from tests.interp.tiny import ARCHITECTURES, GROUPED, NAMES, randomised, token_ids

IDS = token_ids((2, 30))


def implementations(model: PreTrainedModel) -> list[tuple[str, str | None]]:
    """What every module with a configuration would call."""
    found = []
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if config is not None:
            found.append((name, config._attn_implementation))
    assert len(found) > 2
    return found


def own_output(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel", ["own", "eager"])
def test_a_capture_leaves_the_model_as_it_was(name: str, kernel: str):
    architecture = ARCHITECTURES[name]
    model = architecture.build(kernel=None if kernel == "own" else kernel)
    before = implementations(model), own_output(model), {key: id(value) for key, value in model.state_dict().items()}
    hooked = interp.load(model)
    hooked.capture(IDS, logits=True)
    hooked.maps(IDS)
    assert {name for _, name in implementations(model)} == {architecture.kernel if kernel == "own" else kernel}
    assert implementations(model) == before[0]
    assert torch.equal(own_output(model), before[1])
    assert model.state_dict().keys() == before[2].keys()
    assert not model.training


def test_calling_a_hooked_model_runs_its_own_attention(own_model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("interp.models.call.attend", lambda *_, **__: pytest.fail("attend was called"))
    model = own_model("llama")
    output = interp.load(model)(IDS)
    assert isinstance(output, transformers.modeling_outputs.CausalLMOutputWithPast)
    assert torch.equal(output.logits, own_output(model))


def test_an_error_in_the_middle_leaves_the_model_as_it_was():
    model = ARCHITECTURES["gemma2"].build()
    before = implementations(model), own_output(model)

    def stop(module, arguments, output):
        used.append(model.config._attn_implementation)
        raise KeyError("in the middle")

    used: list[str] = []
    handle = model.model.layers[0].register_forward_hook(stop)
    with pytest.raises(KeyError, match="in the middle"):
        interp.load(model).capture(IDS)
    handle.remove()
    assert used == [IMPLEMENTATION]  # it was hooked when the error came
    assert implementations(model) == before[0]
    assert torch.equal(own_output(model), before[1])


def test_a_probe_that_does_not_fit_leaves_the_model_as_it_was():
    """Its shape is known before the run; its dtype is looked at by ``attend``, in the middle."""
    model = ARCHITECTURES["llama"].build()
    before = implementations(model)
    with pytest.raises(ValueError, match=r"LabelMatch\.query_labels: expected an integer tensor"):
        interp.load(model).capture(IDS, [interp.LabelMatch(torch.ones(30), torch.ones(30))])
    assert implementations(model) == before


def test_sub_configurations_are_hooked_and_given_back():
    """A model that holds models, each with a configuration object of its own."""
    text = {**GROUPED, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=59,
        eoi_token_index=58,
    )
    config._attn_implementation = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}
    model = randomised(transformers.Gemma3ForConditionalGeneration(config).eval())
    before = implementations(model)
    assert {kind for _, kind in before} == {"eager", "sdpa"}
    capture = interp.load(model).capture(IDS, logits=True)
    assert implementations(model) == before
    torch.testing.assert_close(capture.logits, own_output(model), rtol=0, atol=2e-4)


def test_our_attention_outside_of_a_capture_is_refused():
    model = ARCHITECTURES["llama"].build()
    model.config._attn_implementation = IMPLEMENTATION
    with pytest.raises(RunError, match=r"set to 'interp' outside of a capture; .*set_attn_implementation\('sdpa'\)"):
        own_output(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_training_mode_is_refused_before_the_run(name: str):
    """Dropout would change the attention, and an average over it be measured."""
    changes = {"attn_pdrop": 0.2} if name == "gpt2" else {}
    model = ARCHITECTURES[name].build(**changes).train()
    run = []
    model.get_input_embeddings().register_forward_hook(lambda *_: run.append(1))
    with pytest.raises(InputError, match=r"is in training mode.*model\.eval\(\)"):
        interp.load(model).capture(IDS)
    assert not run


class Silent(torch.nn.Module):
    """In the place of an attention module, one that takes a road of its own."""

    def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        return hidden_states, None


def test_a_layer_that_does_not_report_is_an_error():
    """A statistic must not be missing in silence."""
    hooked = interp.load(ARCHITECTURES["llama"].build())
    hooked.model.model.layers[1].self_attn = Silent()
    with pytest.raises(RunError, match=r"layers \[1\] of LlamaForCausalLM did not pass through the hooked attention"):
        hooked.capture(IDS)


def test_a_layer_that_reports_twice_is_an_error():
    """Else the second map would stand in the place of the first."""
    hooked = interp.load(ARCHITECTURES["llama"].build())
    hooked.model.model.layers[1].self_attn = hooked.model.model.layers[0].self_attn
    with pytest.raises(RunError, match="layer 0 ran its attention twice in one forward run"):
        hooked.capture(IDS)


def test_a_module_that_came_after_loading_is_an_error():
    hooked = interp.load(ARCHITECTURES["llama"].build())
    own = hooked.model.model.layers[1].self_attn
    hooked.model.model.layers[1].self_attn = type(own)(hooked.model.config, layer_idx=1)
    with pytest.raises(InputError, match="LlamaAttention was not part of the model when it was loaded"):
        hooked.capture(IDS)


def test_probes_are_measured_on_asked_layers_only(own_model, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Probe, ...]] = []
    attend = interp.attend

    def spy(*operands, probes=(), **options):
        asked.append(tuple(probes))
        return attend(*operands, probes=probes, **options)

    monkeypatch.setattr("interp.models.call.attend", spy)
    probe = Entropy()
    interp.load(own_model("llama")).capture(IDS, [probe], layers=[1])
    assert asked == [(), (probe,)]
