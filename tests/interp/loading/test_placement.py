"""Where weights are and in which form: used as they are, on one device in floating point, or refused before any work."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, BERT, token_ids

IDS = token_ids((2, 24))
KEEP = torch.ones_like(IDS, dtype=torch.bool)


def build(name: str = "llama", **options: Any) -> PreTrainedModel:
    return (BERT if name == "bert" else ARCHITECTURES[name]).build(**options)


def places(model: nn.Module) -> dict[str, tuple[int, torch.device, torch.dtype]]:
    """Every weight's address in memory."""
    held = (*model.named_parameters(), *model.named_buffers())
    return {name: (x.data_ptr(), x.device, x.dtype) for name, x in held}


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_model_object_is_neither_moved_nor_copied(name: str):
    model = build(name)
    before, weights = places(model), {name: x.clone() for name, x in model.state_dict().items()}
    hooked = interp.load(model)
    hooked.capture(IDS)
    hooked.maps(IDS)
    assert hooked.model is model
    assert places(model) == before
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss", "bert"])
def test_half_precision_is_as_close_to_float64_as_the_models_own(name: str, dtype: torch.dtype):
    """At most twice the error of the model's own eager attention in that dtype, both against the same weights in float64."""
    half: Any = build(name, kernel="eager")
    half.to(dtype)
    exact = copy.deepcopy(half).double()
    capture = interp.load(half).capture(IDS, ["entropy", "received"])
    for layer, (p, own) in enumerate(
        zip(dense.eager_maps(exact, IDS, KEEP), dense.eager_maps(half, IDS, KEEP), strict=True)
    ):
        for statistic, formula in (("entropy", dense.entropy), ("received", lambda p: dense.received(p, KEEP))):
            expected, value = formula(p), capture[statistic][layer]
            assert value.dtype == torch.float32
            allowed = 2 * float((formula(own.double()) - expected).abs().max())
            assert 0 < float((value.double() - expected).abs().max()) <= allowed


@pytest.mark.parametrize("logits", [False, True])
def test_a_model_in_the_wrapper_of_torch_compile_is_taken(logits: bool):
    model = build()
    expected = interp.load(model).capture(IDS, logits=logits)
    hooked = interp.load(torch.compile(model, backend="eager"))  # pyright: ignore[reportArgumentType]
    assert hooked.model is model
    found = hooked.capture(IDS, logits=logits)
    assert torch.equal(found.stacked("entropy"), expected.stacked("entropy"))
    if logits:
        assert torch.equal(found.logits, expected.logits)  # pyright: ignore[reportArgumentType]


def test_a_compiled_module_that_is_no_transformers_model_is_no_model():
    compiled: Any = torch.compile(nn.Linear(2, 2), backend="eager")
    with pytest.raises(InputError, match=r"expected 'demo', .* got OptimizedModule"):
        interp.load(compiled)


def test_a_model_wrapped_by_peft_says_what_to_give():
    kind = type("PeftModelForCausalLM", (nn.Module,), {"__module__": "peft.peft_model"})
    with pytest.raises(InputError, match=r"PeftModelForCausalLM wraps a model for PEFT; .*get_base_model\(\)"):
        interp.load(kind())


def refused(model: nn.Module, match: str) -> None:
    """Loading it is refused, and its forward never ran."""
    ran: list[int] = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError, match=match):
        interp.load(model)
    assert not ran


def test_weights_without_numbers_are_refused():
    model = build()
    model.model.layers[1].mlp.to("meta")
    refused(model, r"layers\.1\.mlp\.gate_proj\.weight is on the device 'meta'.*load the model whole on one device")


@pytest.mark.parametrize("where", ["cpu", "disk", 1])
def test_a_device_map_with_several_places_is_refused(where: str | int):
    model: Any = build()
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": where}
    refused(model, rf"spread over several devices \(0, {where}\).*put all of it on one, model\.to\('cuda:0'\)")


def test_a_device_map_with_one_place_is_taken(bare_folder: Path):
    pytest.importorskip("accelerate")
    model = transformers.AutoModelForCausalLM.from_pretrained(bare_folder, device_map="cpu").eval()
    assert interp.load(model).capture(IDS)["entropy"][0].shape[0] == 2


@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
def test_offloaded_weights_are_refused(offload: str, tmp_path: Path):
    accelerate = pytest.importorskip("accelerate")
    options = {"offload_dir": str(tmp_path)} if offload == "disk_offload" else {}
    model = getattr(accelerate, offload)(build(), execution_device="cpu", **options)
    refused(model, r"is on the device 'meta', which holds no numbers \(offloaded")


def test_weights_offloaded_by_a_hook_are_refused_even_while_they_are_there():
    accelerate = pytest.importorskip("accelerate")
    model = build()
    hook = accelerate.hooks.AlignDevicesHook(execution_device="cpu", offload=False)
    accelerate.hooks.add_hook_to_module(model.model.layers[0].mlp, hook)
    assert interp.load(model).capture(IDS).layers == (0, 1)
    hook.offload = True
    refused(model, r"the weights of model\.layers\.0\.mlp are offloaded and brought to the device when it runs")


def with_configuration(model: PreTrainedModel) -> PreTrainedModel:
    model.config.quantization_config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    return model


def with_int8(model: PreTrainedModel) -> PreTrainedModel:
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter((layer.weight * 10).to(torch.int8), requires_grad=False)
    return model


def with_float8(model: PreTrainedModel) -> PreTrainedModel:
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return model


def with_packed(model: PreTrainedModel) -> PreTrainedModel:
    class PackedLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))

    model.model.layers[0].mlp.up_proj = PackedLinear()
    return model


class Shadow(Tensor):
    """A tensor whose numbers are elsewhere, as torchao makes them."""


def with_subclass(model: PreTrainedModel) -> PreTrainedModel:
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Shadow), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (with_configuration, "its configuration names the method 'bitsandbytes'"),
        (with_int8, r"model\.layers\.0\.mlp\.up_proj\.weight is int8"),
        (with_float8, r"model\.layers\.0\.mlp\.up_proj\.weight is float8_e4m3fn"),
        (with_packed, r"model\.layers\.0\.mlp\.up_proj is a .*PackedLinear"),
        (with_subclass, r"model\.layers\.0\.mlp\.up_proj\.weight is held as Shadow"),
    ],
)
def test_quantised_weights_are_refused(change: Callable[[PreTrainedModel], PreTrainedModel], how: str):
    refused(change(build()), rf"LlamaForCausalLM has quantised weights \({how}\).*load it in float16")


@pytest.mark.filterwarnings("ignore:.*quantiz.* deprecated")
def test_dynamically_quantised_linear_layers_are_refused():
    if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
        pytest.skip("this build of torch quantises nothing")
    model = torch.ao.quantization.quantize_dynamic(build(), {nn.Linear}, dtype=torch.qint8)
    refused(model, r"has quantised weights \(model\.layers\.0\.self_attn\.q_proj is a torch\.ao\.nn\.quantized")


def test_a_quantised_checkpoint_is_refused_before_its_weights_are_read(bare_folder: Path, tmp_path: Path):
    config = transformers.AutoConfig.from_pretrained(bare_folder)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("unreadable")
    with pytest.raises(InputError, match=rf"{tmp_path} has quantised weights .*'gptq'"):
        interp.load(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnOneGpu:
    def test_a_folder_goes_to_the_gpu_and_its_tensors_stay_there(self, bare_folder: Path):
        hooked = interp.load(bare_folder, dtype="float32")
        assert hooked.device.type == "cuda"
        before = places(hooked.model)
        capture = hooked.capture(IDS, logits=True)
        assert places(hooked.model) == before
        expected = interp.load(bare_folder, device="cpu").capture(IDS, logits=True)
        assert capture.logits is not None
        assert expected.logits is not None
        torch.testing.assert_close(capture.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(capture.stacked("entropy"), expected.stacked("entropy"), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_every_dtype_runs(self, bare_folder: Path, dtype: str):
        found = interp.load(bare_folder, dtype=dtype).capture(IDS).stacked("entropy")
        exact = interp.load(bare_folder, dtype="float64", device="cpu").capture(IDS).stacked("entropy")
        assert float((found - exact).abs().max()) < 0.1

    def test_a_model_on_two_devices_is_refused(self):
        model = build()
        model.model.layers[1].to("cuda")
        refused(model, r"spread over several devices \(model\.embed_tokens\.weight on cpu, .* on cuda:0\)")


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_whose_other_half_waits_on_the_cpu_is_refused(bare_folder: Path):
    places = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 0, "lm_head": 0}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        bare_folder, device_map=places | {"model.layers.0": 0, "model.layers.1": "cpu"}
    )
    refused(model.eval(), r"is on the device 'meta'|spread over several devices")
