"""The same statistics of every head (previous token, first token, entropy) by four roads: seconds and extra peak memory.

    python benchmarks/scan_against_peers.py --out benchmarks/results

A GPT-2-small shaped model with random weights reads 1,024, 2,048 and 4,096 tokens:

    interp   HookedModel.capture with probes in the attention pass
    bridge   TransformerLens 4: TransformerBridge with a hook on every layer's attention pattern
    eager    transformers with output_attentions=True
    sdpa     the plain forward pass with torch's fused attention and no statistics: the floor

Each measurement has a process of its own. Extra memory is the peak resident size during the run less that just before it
(the model loaded). No road computes vocabulary logits. Statistics of the roads are compared: they must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LENGTHS = (1024, 2048, 4096)
ROADS = ("sdpa", "interp", "eager", "bridge")
LAYERS, HEADS, WIDTH = 12, 12, 768


def build_model(tokens: int):
    """GPT-2-small's shape, random weights, positions up to ``tokens``. Weights are spread wider than GPT-2's

    initialisation so that attention is not uniform and a wrong statistic shows."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_positions=tokens, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, initializer_range=0.08)
    return GPT2LMHeadModel(config).eval()


def dense_statistics(pattern):
    """Means over queries of P[i, i-1], P[i, 0] and the entropy, from a dense map [B, H, T, T] -> [H, 3]."""
    import torch

    previous = pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)
    first = pattern[..., 0].mean(dim=-1)
    entropy = torch.special.entr(pattern).sum(dim=-1).mean(dim=-1)
    return torch.stack([previous, first, entropy], dim=-1)[0]


def prepare(road: str, tokens: int) -> Callable[[], object]:
    """The work to measure as a function of nothing; whatever is loaded is loaded here."""
    import torch

    model = build_model(tokens)
    ids = torch.randint(0, 50257, (1, tokens), generator=torch.Generator().manual_seed(1))
    if road == "sdpa":
        model.set_attn_implementation("sdpa")
        return lambda: model.transformer(input_ids=ids, use_cache=False).last_hidden_state.mean() * 0
    if road == "eager":
        model.set_attn_implementation("eager")

        def eager():
            output = model.transformer(input_ids=ids, use_cache=False, output_attentions=True)
            return torch.stack([dense_statistics(pattern) for pattern in output.attentions])

        return eager
    if road == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers("gpt2", hf_model=model, tokenizer=_any_tokenizer(), n_ctx=tokens)

        def hooked():
            found = {}

            def hook(pattern, hook):
                found[hook.name] = dense_statistics(pattern)

            names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(LAYERS)]
            bridge.run_with_hooks(
                ids, return_type=None, stop_at_layer=LAYERS, fwd_hooks=[(name, hook) for name in names]
            )
            return torch.stack([found[name] for name in names])

        return hooked
    from interp import Entropy, KeyMass, OffsetMass, load

    loaded = load(model)
    first = torch.zeros(tokens, 1)
    first[0] = 1.0

    def probed():
        probes = [OffsetMass((1,), reduce="mean"), KeyMass(first, reduce="mean"), Entropy(reduce="mean")]
        capture = loaded.capture(ids, probes)
        columns = [capture.stacked("offset_mass")[:, 0, :, 0], capture.stacked("key_mass")[:, 0, :, 0]]
        return torch.stack([*columns, capture.stacked("entropy")[:, 0]], dim=-1)

    return probed


def _any_tokenizer():
    """A tokenizer for the bridge's constructor, which reloads it from its folder; the runs are given token ids."""
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    special = "<|endoftext|>"
    vocabulary = {f"t{i}": i for i in range(50256)} | {special: 50256}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=special)),
        bos_token=special,
        eos_token=special,
        pad_token=special,
        unk_token=special,
    )
    folder = tempfile.mkdtemp(prefix="tokenizer-")
    atexit.register(shutil.rmtree, folder)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def measure(road: str, tokens: int, threads: int) -> None:
    """Measure in this process and print one JSON line."""
    import torch

    torch.set_num_threads(threads)
    with torch.no_grad():
        work = prepare(road, tokens)
        before = _reset_peak()
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        extra = _peak() - before
    values = [] if road == "sdpa" else torch.as_tensor(result).double().flatten().tolist()
    print(json.dumps({"road": road, "tokens": tokens, "seconds": seconds, "extra_mb": extra / 1e3, "values": values}))


def _reset_peak() -> int:
    """Forget the peak resident size so far (Linux); the resident size now, in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def run_all(lengths: list[int], roads: list[str], repeats: int, threads: int) -> list[dict]:
    rows = []
    for tokens in lengths:
        reference: list[float] | None = None
        runs: dict[str, list[dict]] = {road: [] for road in roads}
        # Roads take turns, so that a slow minute of the machine falls on all of them.
        for _ in range(repeats):
            for road in roads:
                command = [sys.executable, __file__, "--one", road, str(tokens), "--threads", str(threads)]
                environment = os.environ | {"HF_HUB_OFFLINE": "1"}
                done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
                if done.returncode:
                    raise SystemExit(f"{road} at {tokens} tokens failed:\n{done.stderr[-3000:]}")
                runs[road].append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(f"{tokens} {road} {runs[road][-1]['seconds']:.2f} s", file=sys.stderr)
        for road in roads:
            values = runs[road][0]["values"]
            if values:
                reference = reference or values
                worst = max(abs(a - b) for a, b in zip(values, reference, strict=True))
                if worst > 1e-4:
                    raise SystemExit(f"{road} at {tokens} tokens differs from the others by {worst:.2g}")
            rows.append(
                {
                    "tokens": tokens,
                    "road": road,
                    "seconds": round(statistics.median(run["seconds"] for run in runs[road]), 2),
                    "extra_mb": round(statistics.median(run["extra_mb"] for run in runs[road])),
                }
            )
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| tokens | road | seconds | times the floor | extra peak memory |", "|---|---|---|---|---|"]
    floor = {row["tokens"]: row["seconds"] for row in rows if row["road"] == "sdpa"}
    for row in rows:
        ratio = f"{row['seconds'] / floor[row['tokens']]:.1f}" if row["tokens"] in floor else "-"
        lines.append(f"| {row['tokens']:,} | {row['road']} | {row['seconds']:.1f} | {ratio} | {row['extra_mb']:,} MB |")
    return "\n".join(lines)


def machine(threads: int) -> dict[str, str]:
    from importlib.metadata import version

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = {name: version(name) for name in ("torch", "transformers", "transformer-lens")}
    return {"cpu": cpu, "threads": str(threads), "python": platform.python_version(), **packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--one", nargs=2, metavar=("ROAD", "TOKENS"), help="measure one road in this process")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--roads", nargs="+", choices=ROADS, default=list(ROADS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for scan_against_peers.json and .md")
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one[0], int(arguments.one[1]), arguments.threads)
        return
    rows = run_all(arguments.lengths, arguments.roads, arguments.repeats, arguments.threads)
    facts = machine(arguments.threads)
    print(table(rows))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"machine": facts, "repeats": arguments.repeats, "rows": rows}, indent=2)
        (arguments.out / "scan_against_peers.json").write_text(content + "\n")
        told = ", ".join(f"{key} {value}" for key, value in facts.items())
        (arguments.out / "scan_against_peers.md").write_text(
            f"{table(rows)}\n\nMedian of {arguments.repeats}; {told}.\n"
        )


if __name__ == "__main__":
    main()
