"""Arguments of the forward by name, bare pixels and sound, and what the decoder of an encoder-decoder reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding, BatchFeature, PreTrainedTokenizerFast

import interp
from interp.errors import InputError
from interp.inputs.batch import Batch
from tests.interp.tiny import CONTEXT, VOCABULARY, WIDTHS, randomised

IMAGE = {"image_size": 16, "patch_size": 8, "num_channels": 3}
STACKS = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY, "pad_token_id": 2, "bos_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 4,
}  # fmt: skip
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SOUND = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit() -> interp.HookedModel:
    return interp.load(randomised(transformers.ViTModel(transformers.ViTConfig(**WIDTHS, **IMAGE)).eval()))


@pytest.fixture(scope="module")
def bart() -> interp.HookedModel:
    config = transformers.BartConfig(**STACKS, max_position_embeddings=24, forced_eos_token_id=None)
    core = Tokenizer(WordLevel({"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(3, VOCABULARY)}, unk_token="w3"))
    core.pre_tokenizer = WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    return interp.load(randomised(transformers.BartForConditionalGeneration(config).eval()), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def whisper() -> interp.HookedModel:
    config = transformers.WhisperConfig(**STACKS, num_mel_bins=8, max_source_positions=20, max_target_positions=16)
    return interp.load(randomised(transformers.WhisperForConditionalGeneration(config).eval()))


def entropies(model: interp.HookedModel, inputs: Any) -> dict[Any, torch.Tensor]:
    return model.capture(inputs, ["entropy"])["entropy"]


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixel_values": PIXELS},
        BatchFeature({"pixel_values": PIXELS}),
        {"pixel_values": PIXELS.numpy()},
        {"pixel_values": PIXELS, "bool_masked_pos": None},
        PIXELS,
        PIXELS.double(),
        PIXELS.numpy(),
    ],
    ids=range(7),
)
def test_pixels_by_name_and_bare(inputs: Any, vit):
    capture = vit.capture(inputs, ["entropy"])
    assert (capture.ids, capture.keep, capture.tokens, capture.token_rows) == (None, None, [], ())
    eager = transformers.ViTModel(vit.host.config)
    eager.load_state_dict(vit.model.state_dict())
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        maps = eager.eval().double()(pixel_values=PIXELS.double(), output_attentions=True).attentions
    for layer, p in enumerate(maps):
        expected = -(p * p.log()).sum(-1)
        torch.testing.assert_close(capture["entropy"][layer].double(), expected, rtol=0, atol=1e-4)


def test_one_image_is_a_batch_of_one(vit):
    together, alone = entropies(vit, PIXELS), entropies(vit, PIXELS[1])
    assert alone[0].shape == (1, 4, 5)
    torch.testing.assert_close(alone[1][0], together[1][1], rtol=0, atol=1e-5)


def test_floats_come_in_the_models_dtype():
    model = transformers.ViTModel(transformers.ViTConfig(**WIDTHS, **IMAGE)).eval().bfloat16()
    batch = interp.load(model).batch({"pixel_values": PIXELS})
    assert batch.arguments["pixel_values"].dtype == torch.bfloat16
    assert entropies(interp.load(model), PIXELS)[0].shape == (2, 4, 5)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.full((3, 16, 16), torch.nan), "pixel_values holds NaN; check what the processor was given"),
        (torch.full((3, 16, 16), torch.inf), "pixel_values holds infinity"),
        (PIXELS[:, :1], r"ViTModel reads images of 3 channels, \[B, 3, height, width\], got \[2, 1, 16, 16\]"),
        (PIXELS[..., :8], "ViTModel reads images of 16 x 16 pixels, got 16 x 8; resize them with its processor"),
        (PIXELS[0, 0], r"pixel_values: expected floats of shape \[B, C, H, W\] or \[C, H, W\], got \[16, 16\]"),
        (PIXELS[:0], r"expected floats of shape .*, got \[0, 3, 16, 16\]"),
        ({"pixel_values": PIXELS.byte()}, "pixel_values: expected floats, scaled and normalised .*got torch.uint8"),
        ({"pixel_values": PIXELS.tolist()}, r"expected a tensor with a batch dimension, .* return_tensors='pt'"),
        ({"pixels": PIXELS}, r"inputs\['pixels'\]: ViTModel takes no pixels; did you mean 'pixel_values'\?"),
        ({"input_ids": torch.ones(1, 3).long()}, r"inputs\['input_ids'\]: ViTModel takes no input_ids"),
        (
            {"pixel_values": PIXELS, "labels": PIXELS},
            r"inputs\['labels'\]: a capture computes no loss; leave labels out",
        ),
        ({}, "expected arguments of the model's forward by name, got an empty mapping"),
        ("a text", r"reads no token ids; give what its processor returns, such as \{'pixel_values': a tensor\}"),
        ([5, 6], "this model reads no token ids"),
        (PIXELS.byte(), "this model reads no token ids"),
    ],
    ids=range(15),
)
def test_images_that_cannot_be_read(inputs: Any, said: str, vit):
    with pytest.raises(InputError, match=said):
        vit.capture(inputs)


def test_names_of_a_model_of_text(own_model):
    model = interp.load(own_model("llama"))
    ids = torch.tensor([[5, 6, 7]])
    for name in ("token_type_ids", "pixel_values"):
        with pytest.raises(InputError, match=rf"inputs\['{name}'\]: LlamaForCausalLM takes no {name}; .*input_ids"):
            model.batch({"input_ids": ids, name: ids})
    with pytest.raises(InputError, match=r"past_key_values'\]: a capture runs the whole input; leave the cache out"):
        model.batch({"input_ids": ids, "past_key_values": ids})
    with pytest.raises(InputError, match=r"attention_mask: expected 0/1 of shape \[1, 3\] as input_ids, got \[1, 2\]"):
        model.batch({"input_ids": ids, "attention_mask": torch.ones(1, 2)})
    with pytest.raises(InputError, match=r"input_ids: expected integers of shape \[B, T\], got torch.float32"):
        model.batch({"input_ids": ids.float()})
    with pytest.raises(InputError, match="expected integers of 64 bits, got 18446744073709551616"):
        model.batch([5, 2**64])


def test_what_a_tokenizer_returned(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    ids = torch.tensor([[0, 5, 6], [0, 7, 2]])
    keep = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = model.batch(BatchEncoding({"input_ids": ids, "attention_mask": keep}))
    assert [row.strings for row in batch.token_rows] == [["<s>", "w5", "w6"], ["<s>", "w7"]]
    assert batch.padding == "right"
    one_segment = model.batch({"input_ids": ids, "token_type_ids": torch.zeros_like(ids)})
    assert list(one_segment.arguments) == ["input_ids", "attention_mask"]
    as_arrays = model.batch({"input_ids": ids.numpy().astype(np.int32)})
    assert as_arrays.ids.dtype == torch.int64
    assert model.batch(ids.numpy()).ids.tolist() == ids.tolist()
    with pytest.raises(InputError, match="got an array of <U"):
        model.batch(np.array(["a text"]))


def test_a_part_takes_what_the_whole_passes_on():
    """Llava's forward names its image inputs, and hands keyword arguments on to its language model."""
    text = transformers.LlamaConfig(**WIDTHS, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT)
    vision = transformers.CLIPVisionConfig(**WIDTHS, **IMAGE, projection_dim=32)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=7, image_token_id=7)
    torch.manual_seed(0)
    model = interp.load(transformers.LlavaForConditionalGeneration(config).eval())
    ids = torch.tensor([[5, 7, 7, 7, 7, 6]])
    capture = model.capture({"input_ids": ids, "pixel_values": PIXELS[:1]}, ["entropy"])
    assert {"vision.0", 0} <= set(capture.layers)
    with pytest.raises(
        InputError, match=r"LlavaForConditionalGeneration takes no pixel_value; did you mean 'pixel_values'"
    ):
        model.batch({"input_ids": ids, "pixel_value": PIXELS})
    with pytest.raises(InputError, match=r"reads images of 16 x 16 pixels, got 8 x 8"):
        model.batch({"input_ids": ids, "pixel_values": PIXELS[:1, :, :8, :8]})


def test_the_decoder_reads_its_start_token_by_default(bart, whisper):
    for model, inputs in ((bart, [[5, 6, 7], [8, 9]]), (bart, "w5 w6"), (whisper, SOUND), (whisper, SOUND[0])):
        capture = model.capture(inputs, ["entropy"])
        size = 1 if isinstance(inputs, str) or (isinstance(inputs, torch.Tensor) and inputs.ndim == 2) else 2
        assert capture["entropy"]["decoder.0"].shape == (size, 4, 1)
        assert capture.queries("decoder.0").ids.tolist() == [[4]] * size
        assert model(inputs).logits.shape == (size, 1, VOCABULARY)


def test_the_decoders_text_is_shifted_as_in_training(bart):
    batch = bart.batch("w5 w6", decoder="w7 w8 w9")
    assert batch.ids.tolist() == [[0, 5, 6, 1]]
    assert batch.others["decoder_input_ids"].tolist() == [[4, 0, 7, 8, 9]]
    (row,) = batch.decoder_rows
    assert row.strings == ["w4", "<s>", "w7", "w8", "w9"]
    assert [token.start for token in row.tokens] == [None, None, 0, 3, 6]
    labels = bart.tokenizer(text_target="w7 w8 w9")["input_ids"]
    shifted = bart.model.prepare_decoder_input_ids_from_labels(torch.tensor([labels]))
    assert batch.others["decoder_input_ids"].tolist() == shifted.tolist()


def test_decoder_texts_of_different_lengths_are_padded(bart):
    together = bart.batch(["w5 w6", "w9"], decoder=["w7 w8 w9", "w10"])
    assert together.others["decoder_attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert [len(row.tokens) for row in together.decoder_rows] == [5, 3]
    capture = bart.capture(together, ["entropy"])
    for number, (text, target, length) in enumerate((("w5 w6", "w7 w8 w9", 5), ("w9", "w10", 3))):
        alone = bart.capture(bart.batch(text, decoder=target), ["entropy"])
        for layer in ("decoder.0", "cross.0"):
            found, expected = capture["entropy"][layer][number], alone["entropy"][layer][0]
            torch.testing.assert_close(found[:, :length], expected, rtol=0, atol=1e-5)
            assert bool(found[:, length:].isnan().all())


def test_decoder_ids_are_taken_as_they_are(bart, whisper):
    assert bart.batch([[5, 6]], decoder=[[4, 7, 8]]).others["decoder_input_ids"].tolist() == [[4, 7, 8]]
    given = {"input_ids": torch.tensor([[5, 6]]), "decoder_input_ids": torch.tensor([[7, 8]])}
    assert bart.capture(given, ["entropy"])["entropy"]["cross.0"].shape == (1, 4, 2)
    batch = whisper.batch(SOUND, decoder=[[4, 5, 6], [4, 7, 8]])
    assert entropies(whisper, batch)["decoder.0"].shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ([[VOCABULARY]], rf"the decoder's input holds token id {VOCABULARY}, outside of the model's vocabulary"),
        ([[4], [5]], "decoder: expected as many texts or rows of ids as inputs, 1, got 2"),
        ([[4] * 25], "the decoder's input has 25 tokens, BartForConditionalGeneration is made for 24, and its learned"),
        (" ", "the text is empty"),
        ([{"role": "user", "content": "x"}], "decoder: expected a text, texts, or token ids"),
        ({"input_ids": torch.ones(1, 1)}, "decoder: expected a text, texts, or token ids"),
    ],
    ids=range(6),
)
def test_decoder_inputs_that_do_not_fit(decoder: Any, said: str, bart):
    with pytest.raises(InputError, match=said):
        bart.batch([[5, 6]], decoder=decoder)


def test_decoder_ids_by_name_that_do_not_fit(bart):
    ids = torch.tensor([[5, 6]])
    for given, said in (
        (torch.tensor([[VOCABULARY]]), "the decoder's input holds token id 61"),
        (torch.tensor([[0.5]]), r"decoder_input_ids: expected integers of shape \[B, T\], got torch.float32 \[1, 1\]"),
        (torch.tensor([[4], [4]]), "decoder_input_ids: expected 1 rows, as many as inputs, got 2"),
    ):
        with pytest.raises(InputError, match=said):
            bart.capture({"input_ids": ids, "decoder_input_ids": given})
    both = {"input_ids": ids, "decoder_input_ids": ids}
    with pytest.raises(InputError, match="the inputs hold decoder_input_ids already; give one of them"):
        bart.batch(both, decoder=[[4]])


def test_a_decoder_for_a_model_that_has_none(own_model):
    with pytest.raises(InputError, match="decoder: LlamaForCausalLM has no decoder beside its encoder"):
        interp.load(own_model("llama")).batch([5, 6], decoder=[7])


def test_a_model_that_does_not_name_its_start_token():
    config = transformers.BartConfig(**STACKS | {"decoder_start_token_id": None, "bos_token_id": None})
    model = interp.load(transformers.BartModel(config).eval())
    with pytest.raises(
        InputError, match=r"does not say which token its decoder starts with; give decoder= or 'decoder_in"
    ):
        model.capture([[5, 6]])
    assert model.capture(model.batch([[5, 6]], decoder=[[7]]), ["entropy"]).layers


@pytest.mark.parametrize("inputs", ["a text", [[5, 6]]], ids=repr)
def test_text_for_a_model_of_sound(inputs: Any, whisper):
    said = r"reads no token ids; give what its processor returns, such as \{'input_features': a tensor\}; the text of its decoder"
    with pytest.raises(InputError, match=said):
        whisper.capture(inputs)


@pytest.mark.parametrize(
    ("sound", "why"), [(SOUND[..., :39], "to be of length 40, but found 39"), (SOUND[:, :7], "channels")]
)
def test_what_the_model_refuses_is_an_input_error(sound: torch.Tensor, why: str, whisper):
    with pytest.raises(
        InputError, match=rf"WhisperFor\w+ cannot begin with these inputs \(input_features .*{why}.*its forward"
    ):
        whisper.capture(sound)


def test_errors_beyond_the_first_layer_are_not_taken_for_those_of_inputs(own_model):
    model = interp.load(own_model("llama"))
    handle = model.model.model.layers[1].register_forward_pre_hook(_fails)
    try:
        with pytest.raises(ValueError, match="of another shape") as raised:
            model.capture([5, 6])
        assert not isinstance(raised.value, InputError)
    finally:
        handle.remove()


def _fails(*_: Any) -> None:
    raise ValueError("of another shape")


def test_a_batch_without_ids_is_run_as_it_is(vit):
    expected = entropies(vit, PIXELS)[0]
    assert torch.equal(entropies(vit, Batch(None, None, {"pixel_values": PIXELS}))[0], expected)
