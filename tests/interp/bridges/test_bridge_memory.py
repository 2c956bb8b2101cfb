"""A capture of a bridge takes little more memory than a plain SDPA forward of the same model, and makes no T x T tensor."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

import interp
from interp.inputs.batch import Batch
from tests.interp.bridges.bridges import native, quiet
from tests.interp.models.test_memory import HEADS, SQUARE, Largest, T, long_model
from tests.interp.tiny import token_ids

ALLOWED = 1.3
PROGRAM = """
import sys
from pathlib import Path

import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import interp

torch.set_num_threads(1)
TOKENS = 4096
COMMON = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1}


def built(name, attention):
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=TOKENS, **COMMON)
    else:
        config = transformers.LlamaConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=TOKENS, **COMMON
        )
    config._attn_implementation = attention
    model = (transformers.GPT2LMHeadModel if name == "gpt2" else transformers.LlamaForCausalLM)(config)
    return model.eval()


def kilobytes(entry):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry)).split()[1])


def peak(run):
    run(torch.randint(0, 100, (1, 64)))
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(torch.randint(0, 100, (1, TOKENS)))
    return kilobytes("VmHWM") - before


def rows(name):
    sdpa = built(name, "sdpa")
    yield peak(lambda ids: sdpa.base_model(ids, use_cache=False))
    model = built(name, "eager")
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    lens = interp.load(bridge)
    yield peak(lambda ids: lens.capture(ids, ["entropy", "peak"]))
    yield peak(bridge)


with torch.no_grad():
    for name in sys.argv[1:]:
        print(name, *rows(name))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of a run is read from Linux' /proc")  # noqa: PTH110
def test_a_capture_at_4096_tokens_takes_at_most_1_3_times_a_plain_sdpa_forward():
    # What is freed goes back to the system at once, so that the process holds what is in use and no more.
    returning = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, "llama", "gpt2"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **returning},
    )
    for line in run.stdout.splitlines():
        name, *numbers = line.split()
        sdpa, ours, own = map(int, numbers)
        assert ours <= ALLOWED * sdpa, f"{name}: {ours:,} kB against {sdpa:,} kB"
        assert own > 4 * sdpa  # the bridge's own dense run is seen by this measure


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "native"])
def test_a_capture_makes_nothing_of_the_size_of_the_map(name: str, compatibility: bool):
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    made: Any
    if name == "native":
        made = native(torch.float32, n_heads=HEADS, d_head=16, n_layers=1, n_ctx=T)
    else:
        model = long_model(name)
        made = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    if compatibility:
        with quiet():
            made.enable_compatibility_mode(disable_warnings=True)
    lens = interp.load(made)
    keep = torch.arange(T)[None] < T - 100
    with Largest() as largest:
        lens.capture(Batch(token_ids((1, T)) * keep, keep), ["entropy", "peak", "received"])
    assert 0 < largest.bytes < SQUARE, f"{largest.operation} made {largest.bytes:,} bytes"
