"""What load takes and what it refuses: each refusal says what came and what to do, before anything expensive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import interp
from interp.errors import InputError
from interp.loading.load import check_config
from tests.interp.tiny import ARCHITECTURES, BERT, GROUPED, HEADS, LAYERS, randomised, token_ids

OWN_ATTENTION: dict[str, tuple[str, dict[str, Any]]] = {
    "DebertaV2ForMaskedLM": (
        "DebertaV2Config",
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "vocab_size": 11,
        },
    ),
    "XLNetLMHeadModel": ("XLNetConfig", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 11}),
    "BigBirdForMaskedLM": (
        "BigBirdConfig",
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "vocab_size": 11,
        },
    ),
}
"""Architectures that compute attention in code of their own."""


def made(model: str, config: str, arguments: dict[str, Any]) -> transformers.PreTrainedModel:
    return getattr(transformers, model)(getattr(transformers, config)(**arguments)).eval()


def write_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def own_copy(bare_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(bare_folder, tmp_path / "model"))


def test_a_folder_is_loaded_with_its_tokenizer(model_folder: Path):
    model = interp.load(model_folder)
    assert (model.shape.layers, model.shape.heads, model.shape.kv_heads) == (LAYERS, HEADS, 2)
    assert model.tokenizer is not None
    assert model.name == str(model_folder)
    assert not model.model.training
    assert type(model.model).__name__ == "LlamaForCausalLM"


def test_a_folder_without_a_tokenizer_takes_token_ids(bare_folder: Path):
    model = interp.load(str(bare_folder))
    assert model.tokenizer is None
    assert model.capture([5, 6, 7])["entropy"][0].shape == (1, HEADS, 3)
    with pytest.raises(InputError, match=r"this model has no tokenizer; give token ids, or load\(\.\.\., tokenizer="):
        model.capture("w5 w6")


def test_a_tokenizer_can_be_given(bare_folder: Path, tokenizer):
    assert interp.load(bare_folder, tokenizer=tokenizer).capture("w5 w6").ids.tolist() == [[0, 5, 6]]


@pytest.mark.parametrize("dtype", ["auto", "float64", "float32", "bfloat16", "float16"])
def test_the_dtype_can_be_chosen(bare_folder: Path, dtype: str):
    model = interp.load(bare_folder, dtype=dtype, device="cpu")
    assert model.dtype == (torch.float32 if dtype == "auto" else getattr(torch, dtype))
    entropy = model.capture(token_ids((1, 20)))["entropy"][0]
    assert entropy.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    exact = interp.load(bare_folder).capture(token_ids((1, 20)))["entropy"][0]
    torch.testing.assert_close(entropy.float(), exact, rtol=0, atol=0.1)


def test_a_model_object_is_used_as_it_is(own_model):
    model = own_model("llama")
    hooked = interp.load(model)
    assert hooked.model is model
    assert hooked.tokenizer is None


def test_an_unknown_name_offline_says_what_was_looked_for_and_where():
    from huggingface_hub.constants import HF_HUB_CACHE

    with pytest.raises(InputError) as raised:
        interp.load("nobody/no-such-model", revision="v2")
    message = str(raised.value)
    assert message.startswith("found no model named 'nobody/no-such-model' at revision v2: there is no such folder")
    assert HF_HUB_CACHE in message
    assert "the Hugging Face hub was not asked (offline)" in message
    assert "give a local folder or 'demo'" in message


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "a/b/c", "~/model", Path("nowhere")], ids=str)
def test_a_path_that_does_not_exist_is_not_taken_for_a_name(source: str | Path):
    with pytest.raises(InputError, match=rf"there is no folder .*{Path(source).name}; give a local model folder"):
        interp.load(source)


def test_a_name_that_no_hub_would_take():
    with pytest.raises(InputError, match="found no model named 'no such model'"):
        interp.load("no such model")


def test_a_folder_without_config(tmp_path: Path):
    with pytest.raises(InputError, match=rf"{tmp_path} is no model folder: it has no config\.json"):
        interp.load(tmp_path)


def test_a_folder_without_weights(own_copy: Path):
    (own_copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has a config\.json but no weights; looked for \*\.safetensors"):
        interp.load(own_copy)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"hidden_size": 4}', '{"model_type": "no-such"}'])
def test_a_config_that_cannot_be_read(own_copy: Path, content: str):
    (own_copy / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json cannot be used: \S"):
        interp.load(own_copy)


def test_a_config_with_code_of_its_own_is_refused_without_a_question(own_copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    write_config(own_copy, model_type="own-code", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    with pytest.raises(
        InputError, match=r"brings Python code of its own \(own\.Config, own\.Model\).*read it.*trust_remote_code=True"
    ):
        interp.load(own_copy)


def test_weights_that_cannot_be_read(own_copy: Path):
    (own_copy / "model.safetensors").write_bytes(b"\x07 not weights")
    with pytest.raises(InputError, match=rf"the weights of {own_copy} cannot be loaded: \S"):
        interp.load(own_copy)


def test_weights_cut_short(own_copy: Path):
    path = own_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=rf"the weights of {own_copy} cannot be loaded: \S"):
        interp.load(own_copy)


def test_weights_that_lack_a_tensor_are_not_filled_up_with_random_numbers(own_copy: Path):
    path = own_copy / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"not whole: 1 tensors are missing, among them model\.layers\.1\.self_attn\.q_proj"
    ):
        interp.load(own_copy)


def test_weights_of_other_shapes(own_copy: Path):
    write_config(own_copy, hidden_size=64)
    with pytest.raises(InputError, match=rf"the weights of {own_copy} cannot be loaded: \S"):
        interp.load(own_copy)


def test_an_encoder_without_its_pooler_is_loaded(encoder_folder: Path, tmp_path: Path):
    """Checkpoints of masked language models have none; it stands after all attention."""
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "bert"))
    weights = {n: w for n, w in load_file(folder / "model.safetensors").items() if not n.startswith("pooler.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert interp.load(folder).shape.layers == LAYERS


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("LlamaModel", "LlamaModel"),
        ("LlamaForSequenceClassification", "LlamaModel"),
        ("GPT2LMHeadModel", "GPT2LMHeadModel"),
        ("BertForMaskedLM", "BertModel"),
    ],
)
def test_heads_of_other_tasks(saved: str, loaded: str, tmp_path: Path):
    """Language models keep their head; of all others the attention is what counts."""
    name = saved.split("For", maxsplit=1)[0].removesuffix("Model").removesuffix("LMHead").lower()
    architecture = BERT if name == "bert" else ARCHITECTURES[name]
    config = getattr(transformers, architecture.config)(**architecture.arguments)
    model = randomised(getattr(transformers, saved)(config).eval())
    model.save_pretrained(tmp_path)
    hooked = interp.load(tmp_path)
    assert type(hooked.model).__name__ == loaded
    ids = token_ids((1, 20))
    own = interp.load(model).capture(ids)
    assert torch.equal(hooked.capture(ids).stacked("entropy"), own.stacked("entropy"))


def test_gpt2_saved_without_its_tied_head(tmp_path: Path):
    """As the first checkpoints were: the head is the embedding."""
    model = ARCHITECTURES["gpt2"].build()
    model.transformer.save_pretrained(tmp_path)
    write_config(tmp_path, architectures=["GPT2LMHeadModel"])
    ids = token_ids((1, 20))
    logits = interp.load(tmp_path).capture(ids, logits=True).logits
    assert torch.equal(logits, interp.load(model).capture(ids, logits=True).logits)


def test_a_tokenizer_that_cannot_be_read(own_copy: Path):
    (own_copy / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=rf"the tokenizer of {own_copy} cannot be loaded: \S"):
        interp.load(own_copy)


@pytest.mark.parametrize("model", OWN_ATTENTION)
def test_a_model_object_with_attention_of_its_own(model: str):
    with pytest.raises(InputError, match=rf"{model} computes attention in code of its own .*AttentionInterface"):
        interp.load(made(model, *OWN_ATTENTION[model]))


@pytest.mark.parametrize("model", OWN_ATTENTION)
def test_a_folder_with_attention_of_its_own_is_refused_before_its_weights_are_read(model: str, tmp_path: Path):
    made(model, *OWN_ATTENTION[model]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("unreadable")
    with pytest.raises(InputError, match=r"computes attention in code of its own .*Llama, Mistral, Qwen"):
        interp.load(tmp_path)


def test_a_configuration_that_can_be_hooked_passes():
    check_config(transformers.LlamaConfig(**GROUPED))


@pytest.mark.parametrize("source", [None, 3, torch.nn.Linear(1, 1)], ids=["None", "3", "module"])
def test_something_that_is_no_model(source: Any):
    with pytest.raises(InputError, match=r"expected 'demo', a folder, a hub name.* transformers model.*, got"):
        interp.load(source)


@pytest.mark.parametrize("device", ["cuda:99", "no-such", "cpu:x"])
def test_a_device_that_does_not_exist(bare_folder: Path, device: str):
    with pytest.raises(InputError, match=rf"device '{device}' cannot be used here: \S"):
        interp.load(bare_folder, device=device)


def test_a_device_and_a_dtype_of_torch(bare_folder: Path):
    model = interp.load(bare_folder, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokenizer": "x"}, r"tokenizer: expected a tokenizer of transformers, got 'x'; transformers\.AutoTokenizer"),
        ({"revision": 5}, r"revision: expected a branch, tag or commit as a string, got 5"),
        ({"trust_remote_code": "yes"}, r"trust_remote_code: expected True or False, got 'yes'"),
        ({"dtype": [1]}, r"dtype: expected 'auto' or one of .* got \[1\]"),
        ({"device": []}, r"device \[\] cannot be used here"),
    ],
    ids=str,
)
def test_arguments_of_other_kinds(bare_folder: Path, given: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        interp.load(bare_folder, **given)


def test_a_dtype_that_does_not_exist(bare_folder: Path):
    with pytest.raises(InputError, match=r"dtype: expected 'auto' or one of float32, float16, .* got 'float13'"):
        interp.load(bare_folder, dtype="float13")


@pytest.mark.parametrize("option", [{"device": "cpu"}, {"dtype": "float32"}, {"revision": "main"}], ids=str)
def test_options_that_a_model_object_does_not_take(own_model, option: dict[str, str]):
    with pytest.raises(InputError, match="are for models that interp loads; move the model object yourself"):
        interp.load(own_model("llama"), **option)


OWN_CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-code"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    ran = Path({witness!r}).write_text("ran")
"""


@pytest.fixture
def own_code(own_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model whose classes stand in its folder, and the file that tells whether they ran."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    witness = tmp_path / "witness"
    (own_copy / "modeling_own.py").write_text(OWN_CODE.format(witness=str(witness)))
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    write_config(own_copy, model_type="own-code", auto_map=names, architectures=["OwnForCausalLM"])
    return own_copy, witness


def test_code_of_a_folder_does_not_run_unless_asked(own_code: tuple[Path, Path]):
    folder, witness = own_code
    with pytest.raises(InputError) as raised:
        interp.load(folder)
    assert str(raised.value) == (
        f"{folder} brings Python code of its own (modeling_own.OwnConfig, modeling_own.OwnForCausalLM), which interp does not "
        "run unless asked; read it, and if you trust it use load(..., trust_remote_code=True)"
    )
    assert not witness.exists()


def test_code_of_a_folder_runs_when_asked(own_code: tuple[Path, Path], bare_folder: Path):
    folder, witness = own_code
    model = interp.load(folder, trust_remote_code=True)
    assert witness.exists()
    assert type(model.model).__name__ == "OwnForCausalLM"
    expected = interp.load(bare_folder).capture(token_ids((1, 12))).stacked("entropy")
    assert torch.equal(model.capture(token_ids((1, 12))).stacked("entropy"), expected)


def test_code_in_the_place_of_a_class_of_transformers_is_refused_too(own_copy: Path):
    """A known model type must not be run by the library's class where the checkpoint was made for another."""
    write_config(own_copy, architectures=["OwnLlama"], auto_map={"AutoModelForCausalLM": "own.OwnLlama"})
    with pytest.raises(InputError, match=r"brings Python code of its own \(own\.OwnLlama\)"):
        interp.load(own_copy)
    write_config(own_copy, architectures=["LlamaForCausalLM"])
    assert type(interp.load(own_copy).model).__name__ == "LlamaForCausalLM"


def test_code_that_does_not_run_says_so(own_code: tuple[Path, Path]):
    folder, _ = own_code
    (folder / "modeling_own.py").write_text("from transformers import LlamaConfig as OwnConfig\nraise_here = = 1")
    with pytest.raises(InputError, match=rf"{folder}.* cannot be"):
        interp.load(folder, trust_remote_code=True)


@pytest.mark.parametrize("source", ["demo", "folder"])
def test_a_revision_of_a_folder_is_refused(source: str, model_folder: Path):
    given = str(model_folder) if source == "folder" else source
    with pytest.raises(InputError, match=r"revision 'main' is for hub names; .* is a folder"):
        interp.load(given, revision="main")
