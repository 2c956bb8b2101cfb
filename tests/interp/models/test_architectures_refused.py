"""What cannot be watched whole is refused with the reason, at load; a tower of it when an input reaches it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import interp
from interp.errors import InputError
from interp.loading.load import check_config
from interp.models.arguments import HARMLESS, attention_call
from interp.models.layers import AttentionLayer
from interp_kernels import Mask
from tests.interp.tiny import ARCHITECTURES, COMMON, GROUPED, WIDTHS, randomised, token_ids
from tests.interp.zoo.encoder_decoders import BART, T5
from tests.interp.zoo.multimodal import PATCHES

OWN = r"computes attention in code of its own and not through transformers' AttentionInterface \({}, .*Llama, Mistral, Qwen"
NONE = r"has no attention to look at .*choose a model with attention"
SPARSE = r"attends to keys that an indexer of its own chooses \({}, .*dense or sliding-window"
BERT = WIDTHS | COMMON
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Deberta": (BERT, OWN.format("DisentangledSelfAttention")),
    "DebertaV2": (BERT, OWN.format("DisentangledSelfAttention")),
    "XLNet": (
        {"vocab_size": 61, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 16},
        OWN.format("XLNetRelative.*"),
    ),
    "BigBird": (BERT, OWN.format("BigBirdBlockSparseAttention")),
    "Longformer": (BERT, OWN.format("LongformerSelfAttention")),
    "RoFormer": (BERT, OWN.format("RoFormerSelfAttention")),
    "WavLM": (BERT, OWN.format("WavLMAttention")),
    "LongT5": (T5, OWN.format("LongT5LocalAttention")),
    "PegasusX": (BART, OWN.format("PegasusXGlobalLocalAttention")),
    "Mamba": ({"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1}, NONE),
    "FNet": (BERT, NONE),
    "Rwkv": (
        {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1},
        r"linear attention only \(RwkvSelfAttention\)",
    ),
    "DeepseekV32": (GROUPED | LATENT, SPARSE.format("DeepseekV32Attention")),
    "DiffLlama": (
        GROUPED,
        r"runs its attention twice in each layer.*\(DiffLlamaAttention, .*choose another architecture",
    ),
    "T5Gemma2": ({}, r"looks at its own text and at the encoder's in one map \(T5Gemma2MergedAttention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_its_configuration_with_the_reason(name: str):
    """No weights are made: the configurations of some are of the size that was published."""
    arguments, reason = REFUSED[name]
    with pytest.raises(InputError, match=reason):
        check_config(getattr(transformers, f"{name}Config")(**arguments))


def test_a_configuration_that_makes_no_model():
    with pytest.raises(
        InputError, match=r"no AutoformerModel can be made of this configuration: The `prediction_length`"
    ):
        check_config(transformers.AutoformerConfig())


class OwnAttention(nn.Module):
    """As people write it into a model that they changed."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        weights = torch.softmax(hidden_states @ hidden_states.transpose(-1, -2), dim=-1)
        return weights @ hidden_states, None


def test_one_layer_of_its_own_among_others():
    """It would be missing in the capture."""
    model = ARCHITECTURES["llama"].build()
    model.model.layers[1].self_attn = OwnAttention()
    with pytest.raises(InputError, match=OWN.format("OwnAttention")):
        interp.load(model)


def listening() -> transformers.PreTrainedModel:
    """A language model with a vision tower whose attention is code of its own."""
    vision = PATCHES | {"hidden_size": 32, "output_channels": 8, "num_pos_feats": 8, "mlp_dim": 48, "window_size": 2}
    config = transformers.GotOcr2Config(
        text_config=GROUPED | {"model_type": "qwen2"},
        vision_config=vision | {"global_attn_indexes": [1], "image_size": 64, "patch_size": 8},
        image_token_index=59,
    )
    return randomised(transformers.GotOcr2ForConditionalGeneration(config).eval())


def test_a_tower_of_its_own_is_refused_when_an_input_reaches_it():
    model = interp.load(listening())
    assert model.layers == (0, 1)
    ids = token_ids((1, 9))
    assert model.capture({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).layers == (0, 1)
    own = model.model.model.vision_tower.layers[0].attn.forward
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 64, 64)}
    with pytest.raises(
        InputError, match=r"reaches .*vision_tower\.layers\.0\.attn, where GotOcr2VisionAttention .*text alone"
    ):
        model.capture(inputs)
    assert model.model.model.vision_tower.layers[0].attn.forward == own


LAYER = AttentionLayer("", 3, "layers.3", 2)


def call(**options: Any) -> Any:
    x = torch.randn(1, 2, 5, 4)
    return attention_call(LAYER, nn.Identity(), x, x, x, Mask.causal(), **options)


def test_an_argument_that_is_not_known_is_refused():
    with pytest.raises(
        InputError, match=r"layer 3: Identity hands temperature to its attention, which interp does not know"
    ):
        call(temperature=2.0)
    assert call(temperature=None).mask.is_causal


@pytest.mark.parametrize("name", ["indices", "block_indices"])
def test_chosen_keys_are_refused(name: str):
    with pytest.raises(
        InputError, match=rf"layer 3: Identity attends to keys that an indexer of its own chooses \({name}\)"
    ):
        call(**{name: torch.zeros(1, 5, 2)})


def test_what_does_not_change_the_attention_is_taken():
    assert call(**dict.fromkeys(HARMLESS, True)).mask.is_causal


def test_dropout_is_refused():
    with pytest.raises(InputError, match=r"layer 3: attention dropout 0.1 is on; call model.eval\(\) first"):
        call(dropout=0.1)


def test_a_mask_of_another_shape_is_refused():
    x = torch.randn(1, 2, 5, 4)
    with pytest.raises(InputError, match=r"layer 3: expected an attention mask of \[1, 2, 5, 5\].*got \[1, 1, 5, 4\]"):
        attention_call(LAYER, nn.Identity(), x, x, x, torch.ones(1, 1, 5, 4, dtype=torch.bool))


def test_a_mask_that_the_architecture_changes_by_itself_is_refused():
    model = ARCHITECTURES["llama"].build()
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, arguments, options: (
            (*arguments,),
            options | {"attention_mask": options["attention_mask"][:, 0]},
        ),
        with_kwargs=True,
    )
    with pytest.raises(InputError, match=r"LlamaForCausalLM changes its attention mask in code of its own.*ModelMask"):
        interp.load(model).capture(token_ids((1, 9)))
