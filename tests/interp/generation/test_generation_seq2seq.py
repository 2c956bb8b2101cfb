"""Generation with an encoder and a decoder: the encoder once, then a row of the decoder and of its look at the encoder a step.

Golden and plain are as in ``test_generation_statistics``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp.errors import InputError
from tests.interp import dense
from tests.interp.tiny import HEADS, LAYERS, VOCABULARY, randomised, token_ids

IDS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 2,
}
SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
SOUND: dict[str, Any] = {"max_source_positions": 20, "max_target_positions": 30, "num_mel_bins": 8}
CONFIGS: dict[str, Any] = {
    "T5": lambda: transformers.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=HEADS, **IDS),
    "Bart": lambda: transformers.BartConfig(max_position_embeddings=64, forced_eos_token_id=None, **SIZES, **IDS),
    "Whisper": lambda: transformers.WhisperConfig(
        **SOUND, **SIZES, **IDS, suppress_tokens=None, begin_suppress_tokens=None
    ),
}
NEW = 9
PADDED = token_ids((2, 15), seed=6)
PADDED[1, 11:] = 2
WEIGHTS = torch.rand(20, 2, generator=torch.Generator().manual_seed(5))


def build(name: str, kernel: str = "sdpa") -> Any:
    config = CONFIGS[name]()
    config._attn_implementation = kernel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    return randomised(model)


def inputs_of(name: str) -> dict[str, Tensor]:
    if name == "Whisper":
        return {"input_features": torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))}
    return {"input_ids": PADDED, "attention_mask": (PADDED != 2).long()}


def probes(step: interp.Step) -> list[Any]:
    return ["entropy", "distance", "peak", "received", interp.KeyMass(WEIGHTS[: step.keys])]


def by_formula(p: Tensor) -> dict[str, Tensor]:
    """[B, H, Tq, ...] of maps [B, H, Tq, Tk]; the query with index i stands at position i, of cross attention too."""
    i, j = torch.arange(p.shape[2])[:, None], torch.arange(p.shape[3])
    return {
        "entropy": dense.entropy(p),
        "distance": (p * (i - j).abs()).sum(-1),
        "peak": dense.peak(p),
        "received": p,
        "key_mass": dense.key_mass(p, WEIGHTS[: p.shape[3]]),
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_each_step_is_the_row_of_a_full_run(name):
    inputs = inputs_of(name)
    generation: Any = interp.load(build(name)).generate(inputs, NEW, probes, prefill_probes=["entropy"])
    assert generation.ids.shape[1] == generation.prompt + NEW
    maps = []
    for model in (build(name, "eager").double(), build(name, "eager")):
        given = {key: x.to(model.dtype) if x.is_floating_point() else x for key, x in inputs.items()}
        with torch.no_grad():
            maps.append(model(**given, decoder_input_ids=generation.ids, output_attentions=True, use_cache=False))
    for stack, held in (("decoder", "decoder_attentions"), ("cross", "cross_attentions")):
        for layer in range(LAYERS):
            golden, plain = (by_formula(output[held][layer].double()) for output in maps)
            for statistic, value in golden.items():
                scale = float(value.abs().max())
                bound = 2 * float((plain[statistic] - value).abs().max()) + 4 * torch.finfo(torch.float32).eps * scale
                for n, step in enumerate(generation.steps):
                    row = generation.prompt - 1 + n
                    got, want = step[statistic][f"{stack}.{layer}"], value[:, :, row]
                    if statistic == "received":
                        want = want[..., : row + 1] if stack == "decoder" else want
                    else:
                        got = got[:, :, 0]
                    there = step.keep[:, 0]
                    assert float((got.double() - want)[there].abs().max()) <= bound
    encoder = [output["encoder_attentions"] for output in maps]
    keep = inputs.get("attention_mask", torch.ones(2, 20)).bool()[:, None].expand(-1, HEADS, -1)
    for layer in range(LAYERS):
        golden, plain = (dense.entropy(attentions[layer].double()) for attentions in encoder)
        bound = 2 * float((plain - golden).abs().max()) + 1e-6
        measured = generation.prefill["entropy"][f"encoder.{layer}"]
        assert float((measured.double() - golden)[keep].abs().max()) <= bound
        assert bool(measured[~keep].isnan().all())


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_the_librarys(name):
    model = build(name)
    generation = interp.load(model).generate(inputs_of(name), NEW)
    # Whisper's class has a generate of its own, for long recordings, around the plain one.
    plain: Any = vars(transformers.GenerationMixin)["generate"]
    assert torch.equal(generation.ids, plain(model, **inputs_of(name), max_new_tokens=NEW, do_sample=False))


def test_stacks_of_a_step():
    generation: Any = interp.load(build("Bart")).generate(inputs_of("Bart"), 3, ["entropy", "received"])
    stacks = {stack: [f"{stack}.{n}" for n in range(LAYERS)] for stack in ("encoder", "decoder", "cross")}
    assert list(generation.prefill["entropy"]) == [*stacks["encoder"], "decoder.0", "cross.0", "decoder.1", "cross.1"]
    for n, step in enumerate(generation.steps):
        assert set(step["entropy"]) == {*stacks["decoder"], *stacks["cross"]}
        assert step["received"]["decoder.0"].shape[-1] == n + 1
        assert step["received"]["cross.0"].shape[-1] == 15
    assert generation.prompt == 1
    assert generation.prefill.ids.shape == (2, 15)


def test_a_function_is_asked_for_each_stack():
    asked: list[tuple[int, str, int]] = []

    def probes(step: interp.Step) -> list[str]:
        asked.append((step.number, step.stack, step.keys))
        return ["entropy"]

    interp.load(build("T5")).generate(inputs_of("T5"), 2, probes, min_new_tokens=2)
    assert asked == [(0, "decoder", 1), (0, "cross", 15), (1, "decoder", 2), (1, "cross", 15)]


def test_a_decoder_prompt():
    given = {**inputs_of("Bart"), "decoder_input_ids": torch.tensor([[2, 7, 8, 9], [2, 5, 6, 4]])}
    generation: Any = interp.load(build("Bart")).generate(given, 3, min_new_tokens=3)
    assert generation.prompt == 4
    assert generation.prefill["entropy"]["cross.0"].shape == (2, HEADS, 4)
    assert generation.steps[0].ids.tolist() == [[9], [4]]


@pytest.mark.parametrize(("name", "context"), [("Bart", 64), ("Whisper", 30)])
def test_a_decoder_has_a_context_too(name, context):
    with pytest.raises(InputError, match=f"a prompt of 1 tokens and {context} new ones make {context + 1}"):
        interp.load(build(name)).generate(inputs_of(name), context)
