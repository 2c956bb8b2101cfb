"""Peak memory of captures of TransformerLens bridges beside a plain SDPA forward of the same model, and the bridge's own run.

    python benchmarks/bridge_memory.py

Needs transformer-lens (the extra `lens`) and Linux. Each road runs in a process of its own, one thread, in which memory that is
freed goes back to the system at once, so that the peak is what was in use: above what the process held before the run. The
bridge runs after a run over 64 tokens, which loads what is loaded once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MODELS = ("llama", "gpt2", "gpt_neox")
ROADS = ("sdpa", "raw", "compatibility", "bridge")
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WIDTH, INNER, HEADS, LAYERS, VOCABULARY = 256, 1024, 8, 2, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "ROAD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measured(*options.one, options.tokens))
        return
    print("| model | " + " | ".join(ROADS) + " | raw / sdpa | compatibility / sdpa |")
    print("|" + "---|" * (len(ROADS) + 3))
    for model in MODELS:
        found = [_in_process(model, road, options.tokens) for road in ROADS]
        cells = [f"{kilobytes / 1e3:,.1f} MB" for kilobytes in found]
        ratios = [f"{found[i] / found[0]:.2f}" for i in (1, 2)]
        print(f"| {model} | " + " | ".join(cells + ratios) + " |", flush=True)


def _in_process(model: str, road: str, tokens: int) -> int:
    command = [sys.executable, "-W", "ignore", __file__, "--tokens", str(tokens), "--one", model, road]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **RETURNING})
    return int(ran.stdout.split()[-1])


def measured(model: str, road: str, tokens: int) -> int:
    """Kilobytes that a run over ``tokens`` tokens takes above what was held before it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = _road(model, road, tokens)
    with torch.no_grad():
        run(torch.randint(0, VOCABULARY, (1, 64)))
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run(torch.randint(0, VOCABULARY, (1, tokens)))
    return _status("VmHWM") - before


def _road(name: str, road: str, tokens: int) -> Callable[[torch.Tensor], Any]:
    model = _model(name, "sdpa" if road == "sdpa" else "eager", tokens)
    if road == "sdpa":
        return lambda ids: model.base_model(ids, use_cache=False)
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    import interp

    bridge: Any = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    if road == "bridge":
        return bridge
    if road == "compatibility":
        bridge.enable_compatibility_mode(disable_warnings=True)
    hooked = interp.load(bridge)
    return lambda ids: hooked.capture(ids, ["entropy", "peak"])


def _model(name: str, attention: str, tokens: int) -> Any:
    import transformers

    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": tokens,
    }
    match name:
        case "gpt2":
            gpt2 = {"n_embd": WIDTH, "n_inner": INNER, "n_layer": LAYERS, "n_head": HEADS, "n_positions": tokens}
            config, kind = transformers.GPT2Config(**gpt2, **common), transformers.GPT2LMHeadModel
        case "llama":
            config, kind = transformers.LlamaConfig(**sizes, **common), transformers.LlamaForCausalLM
        case _:
            config, kind = transformers.GPTNeoXConfig(**sizes, **common), transformers.GPTNeoXForCausalLM
    config._attn_implementation = attention
    return kind(config).eval()


def _status(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry)).split()[1])


if __name__ == "__main__":
    main()
