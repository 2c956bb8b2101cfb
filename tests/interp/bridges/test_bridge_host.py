"""A bridge is left as it was, whatever happens; edits, generation, texts and threads; what cannot be hooked is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
import transformers

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

from transformer_lens.model_bridge.generalized_components import AttentionBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import interp
from interp.errors import InputError
from tests.interp.bridges.bridges import bridge, furthest, native, own_run, plain, quiet
from tests.interp.tiny import COMMON, randomised, token_ids
from tests.interp.words import text_of, words_tokenizer

IDS = token_ids((2, 24))


def state(made: Any) -> dict[str, set[str]]:
    """Names in the own dictionaries of everything in the bridge that attends, and the attention that is configured."""
    modules = [m for m in made.modules() if isinstance(m, AttentionBridge)]
    modules += [m.original_component for m in modules] + [made.original_model]
    found = {f"{n} {type(m).__name__}": set(vars(m)) for n, m in enumerate(modules)}
    config = getattr(made.original_model, "config", None)
    return found | {"attention": {str(getattr(config, "_attn_implementation", None))}}


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "native"])
def test_a_capture_leaves_the_bridge_as_it_was(name: str):
    made = native() if name == "native" else bridge(name)
    before, logits = state(made), own_run(made, IDS)[0]
    interp.load(made).capture(IDS)
    assert state(made) == before
    assert torch.equal(own_run(made, IDS)[0], logits)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "native"])
def test_an_error_in_a_hook_leaves_the_bridge_as_it_was(name: str):
    made = native() if name == "native" else bridge(name)
    before, logits = state(made), own_run(made, IDS)[0]

    def fail(value: Any, hook: Any) -> None:
        raise RuntimeError("in the middle of layer 1")

    model = interp.load(made)
    with made.hooks(fwd_hooks=[("blocks.1.attn.hook_v", fail)]), pytest.raises(RuntimeError, match="in the middle"):
        model.capture(IDS)
    assert state(made) == before
    assert torch.equal(own_run(made, IDS)[0], logits)
    assert model.capture(IDS).stats  # and it can be captured again


def test_captures_and_plain_runs_in_other_threads_do_not_disturb_one_another():
    made = bridge("llama")
    model = interp.load(made)
    alone, own = model.capture(IDS)["entropy"][1], own_run(made, IDS)[0]
    wrong: list[str] = []

    def capture() -> None:
        wrong.extend("capture" for _ in range(5) if not torch.equal(model.capture(IDS)["entropy"][1], alone))

    def run() -> None:
        for _ in range(5):
            with torch.no_grad():
                if not torch.equal(made(IDS), own):
                    wrong.append("plain")

    threads = [threading.Thread(target=each) for each in (capture, run, capture)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "opt"])
def test_edits_and_generation_are_those_of_the_model_through_transformers(name: str):
    lens, through = interp.load(bridge(name)), interp.load(plain(name))
    edits = [interp.edits.ablate("L1H1"), interp.edits.uniform("L0H2")]
    found = []
    for model in (lens, through):
        with model.edited(edits):
            found.append(model.capture(IDS, outputs=True, contributions=True, logits=True))
    assert furthest(found[0].logits, found[1].logits) < 1e-10
    for statistic in ("entropy", "output", "contribution"):
        assert furthest(found[0][statistic][1], found[1][statistic][1]) < 1e-10
    written = [model.generate([[5, 6, 7], [8, 9, 10, 11, 12]], 5, probes=["entropy"]) for model in (lens, through)]
    assert torch.equal(written[0].ids, written[1].ids)
    for ours, theirs in zip(written[0].steps, written[1].steps, strict=True):
        assert furthest(ours["entropy"][1], theirs["entropy"][1]) < 1e-10


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "opt", "native"])
def test_the_bridges_own_runs_are_edited_too_with_everything_cached(name: str):
    made = native() if name == "native" else bridge(name)
    model, plain_logits = interp.load(made), own_run(made, IDS)[0]
    with model.edited([interp.edits.ablate("L1H1")]), torch.no_grad():
        want = model.capture(IDS, logits=True).logits
        assert want is not None
        assert torch.equal(made(IDS), want)
        with pytest.warns(interp.DenseLayerWarning):
            cached, cache = made.run_with_cache(IDS)
    assert furthest(want, plain_logits) > 1e-2
    assert furthest(cached, want) < 1e-5
    assert cache["blocks.1.attn.hook_pattern"].shape == (2, 4, 24, 24)


def test_texts_go_through_the_bridges_tokenizer():
    made = bridge("llama")
    made.tokenizer = words_tokenizer()
    text = text_of(range(5, 12))
    model, through = interp.load(made), interp.load(plain("llama"), tokenizer=words_tokenizer())
    assert model.tokenizer is made.tokenizer
    ours, theirs = model.capture(text), through.capture(text)
    assert ours.tokens == theirs.tokens
    assert furthest(ours["entropy"][1], theirs["entropy"][1]) < 1e-10


def test_calling_the_model_gives_its_own_output():
    made = bridge("gpt2")
    with torch.no_grad():
        assert torch.equal(interp.load(made)(IDS).logits, own_run(made, IDS)[0])


def test_training_mode_is_refused():
    made = bridge("gpt2")
    made.train()
    with pytest.raises(InputError, match="training mode"):
        interp.load(made).capture(IDS)
    made.eval()
    made.original_model.train()
    with pytest.raises(InputError, match=r"inside the bridge is in training mode.*bridge\.eval\(\)"):
        interp.load(made).capture(IDS)


def test_attention_that_is_not_known_is_refused():
    config = transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **COMMON)
    with quiet():
        made = build_bridge_from_module(
            randomised(transformers.BloomForCausalLM(config).eval()), "BloomForCausalLM", hf_config=config
        )
    with pytest.raises(
        InputError, match=r"BloomAttentionBridge around BloomAttention.*load the model through transformers"
    ):
        interp.load(made)


def test_the_model_inside_a_bridge_is_refused_with_what_to_do():
    made = bridge("llama")
    with pytest.raises(InputError, match=r"stands inside a TransformerBridge.*give load the bridge itself"):
        interp.load(made.original_model)


def test_device_and_type_are_the_bridges_own():
    with pytest.raises(InputError, match="move the model object yourself"):
        interp.load(bridge("gpt2"), dtype="float32")


def test_transformer_lens_is_imported_by_those_who_have_a_bridge_only():
    code = "import sys, interp; interp.load('demo'); sys.exit('transformer_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
