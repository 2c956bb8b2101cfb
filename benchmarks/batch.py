"""Batches beside the plain forward run, the dense way, two workers and a Ray cluster: tokens a second.

    python benchmarks/batch.py --out benchmarks/results

Two models at a context of 1,024: the demo, and a Llama of eight layers and eight heads of 64 with random weights. They read the
demo's prose, its sentences in orders of their own, in documents of 20,000 characters. Every worker has one thread.

    forward   transformers' own run (SDPA, no statistics, no logits), windows of the model's context, eight together
    scan set  ``run_batch`` with the five detectors that read the text in such windows: previous_token, current_token, copying,
              induction_text, broad; the model loaded and the shards written
    standard  ``run_batch`` with the detectors "standard": two of them read the text once more, in windows of 64
    dense     a loop over windows: output_attentions=True, and the five scores of every head from the maps
    one       the scan set as ``scan set``, on more documents: one worker, in its own process
    two       the same with two workers
    ray       the same with two workers on a Ray cluster of this machine, which is there before

Each measurement has a process of its own, in which a small piece is run first (imports, compiled code); the roads take turns.
``steady`` counts what was finished after twice as many units as there are workers: without starting them. CPU seconds are of all
threads and workers; where others use the machine too they say more than seconds. The dense scores and those of the scan set must
agree to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from interp.batch.folder import BatchFolder

SCAN_SET = ["previous_token", "current_token", "copying", "induction_text", "broad"]
DETECTORS = {"scan set": SCAN_SET, "standard": ["standard"]}
ROADS = ("forward", "scan set", "standard", "dense")
ENGINES = ("one", "two", "ray")
CHARACTERS = 20_000
CONTEXT = 1024
TOGETHER = 8
"""Windows of the plain run: 8,192 positions, as many as a batch takes together."""


def write_texts(folder: Path, count: int) -> None:
    """Documents from the sentences of the demo's prose, in random orders."""
    import interp

    prose = Path(interp.__file__).with_name("demo").joinpath("prose.txt").read_text(encoding="utf-8")
    sentences = re.findall(r"[^.?!]+[.?!]+[\"”’']*\s*", prose)
    for number in range(count):
        chance, text = random.Random(number), ""
        while len(text) < CHARACTERS:
            text += "".join(chance.sample(sentences, len(sentences)))
        (folder / f"text{number:03}.txt").write_text(text[:CHARACTERS], encoding="utf-8")


def write_model(folder: Path) -> None:
    """The larger model. Weights are spread wider than at the start of a training, so that attention is not uniform."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from interp.loading.load import DEMO_FOLDER

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_FOLDER).save_pretrained(folder)


def plan_of(model: str, work: Path, count: int, detectors: list[str], output: Path) -> Any:
    from interp.batch import make_plan

    texts = [{"files": [str(work / f"text{number:03}.txt") for number in range(count)], "name": "prose"}]
    return make_plan(
        models=[model], texts=texts, detectors=detectors, output=output, device="cpu", unit_characters=CHARACTERS
    )


def windows_of(model: str, work: Path, count: int) -> list[Any]:
    """Token ids of each window of each document, as a batch cuts them, [T]."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder_of(model))
    windows = []
    for number in range(count):
        text = (work / f"text{number:03}.txt").read_text(encoding="utf-8")
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        pieces = [piece for piece in ids.split(CONTEXT - 1) if piece.numel() >= (CONTEXT - 1) / 2]
        windows += [torch.cat([torch.tensor([tokenizer.bos_token_id]), piece]) for piece in pieces]
    return windows


def folder_of(model: str) -> str:
    from interp.loading.load import DEMO_FOLDER

    return str(DEMO_FOLDER) if model == "demo" else model


def forward(model: str, work: Path, count: int) -> Callable[[], dict[str, Any]]:
    import torch
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(folder_of(model), attn_implementation="sdpa").eval()
    windows = windows_of(model, work, count)

    def run() -> dict[str, Any]:
        by_length: dict[int, list[Any]] = {}
        for window in windows:
            by_length.setdefault(window.numel(), []).append(window)
        with torch.no_grad():
            for rows in by_length.values():
                for start in range(0, len(rows), TOGETHER):
                    plain(input_ids=torch.stack(rows[start : start + TOGETHER]), use_cache=False)
        return {"positions": sum(window.numel() for window in windows)}

    return run


def dense_scores(a: Any, ids: Any) -> Any:
    """The scores of the scan set from one layer's maps [H, T, T], [5, H]."""
    import torch

    places = torch.arange(len(ids))
    seen = places[:, None] >= places
    equal = (ids[:, None] == ids) & seen
    came_before = (equal & (places[:, None] > places)).any(1)
    follows = torch.zeros_like(equal)
    follows[:, 1:] = ids[:, None] == ids[:-1]
    next_equal = torch.zeros_like(equal)
    next_equal[:-1] = (ids[1:, None] == ids) & seen[:-1]
    has_next = next_equal.any(1)
    return torch.stack(
        [
            a.diagonal(-1, 1, 2).mean(1),
            a.diagonal(0, 1, 2).mean(1),
            (a * next_equal).sum(2)[:, has_next].mean(1),
            (a * (follows & seen)).sum(2)[:, came_before].mean(1),
            1 - (a.amax(2) / a.sum(2))[:, 9:].mean(1),
        ]
    )


def dense(model: str, work: Path, count: int) -> Callable[[], dict[str, Any]]:
    import torch
    from transformers import AutoModel

    eager = AutoModel.from_pretrained(folder_of(model), attn_implementation="eager").eval()
    windows = windows_of(model, work, count)

    def run() -> dict[str, Any]:
        found = []
        with torch.no_grad():
            for ids in windows:
                maps = eager(input_ids=ids[None], use_cache=False, output_attentions=True).attentions
                found.append(torch.stack([dense_scores(layer[0], ids) for layer in maps]))
        return {
            "positions": sum(window.numel() for window in windows),
            "scores": torch.stack(found).mean(0).permute(1, 0, 2).flatten().tolist(),
        }

    return run


def scores_of(output: Path) -> list[float]:
    """Of the scan set, over all documents: detector, layer, head."""
    from interp import open_store

    frame = open_store(output).to_frame("heads").set_index("detector")
    return [score for name in SCAN_SET for score in frame.loc[name].sort_values(["layer", "head"])["score"]]


class Steady:
    """What a run finishes after its first units: positions a second, and a CPU second."""

    def __init__(self, output: Path, workers: int) -> None:
        self.output, self.first = output, 2 * workers
        self._spent = 0.0
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while len(BatchFolder(self.output).finished()) < self.first:
            time.sleep(0.02)
        running = psutil.Process().children(recursive=True)
        self._spent = _cpu_seconds() + sum(sum(process.cpu_times()[:2]) for process in running)

    def end(self) -> dict[str, float]:
        self._thread.join()
        spent = _cpu_seconds() - self._spent
        done = []
        for folder in (self.output / "shards").iterdir():
            positions = sum(pq.read_table(folder / "inputs.parquet").column("positions").to_pylist())
            done.append(((folder / "shard.json").stat().st_mtime, positions))
        done.sort()
        counted = sum(positions for _, positions in done[self.first :])
        return {"steady": counted / (done[-1][0] - done[self.first - 1][0]), "steady_cpu": counted / spent}


def batch(road: str, model: str, work: Path, count: int, folder: Path) -> Callable[[], dict[str, Any]]:
    from interp import run_batch

    detectors = DETECTORS.get(road, SCAN_SET)
    options: dict[str, Any] = {"threads": 1, "workers": 1 if road not in ("two", "ray") else 2}
    if road == "ray":
        options["engine"] = "ray"
    # The same work in small: what is compiled, is.
    run_batch(plan_of(model, work, 1, detectors, folder / "warm"), threads=1, progress=False)

    def run() -> dict[str, Any]:
        watch = Steady(folder / "out", options["workers"])
        summary = run_batch(plan_of(model, work, count, detectors, folder / "out"), progress=False, **options)
        assert summary.is_complete, summary
        found = {"positions": summary.positions, "seconds": summary.seconds}
        if road == "scan set":
            found["scores"] = scores_of(folder / "out")
        if road in ENGINES:
            found |= watch.end()
        return found

    return run


def measure(road: str, model: str, work: Path, count: int) -> None:
    """Measure in this process and print one JSON line."""
    cluster = None
    if road == "ray":
        # Read when Ray is imported: it listens on this machine alone, and only to who has the token.
        os.environ |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        os.environ["RAY_ADDRESS"] = cluster.address
    import torch

    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if road in ("forward", "dense"):
                prepare = forward if road == "forward" else dense
                prepare(model, work, 1)()
                run = prepare(model, work, count)
            else:
                run = batch(road, model, work, count, Path(folder))
            spent, start = _cpu_seconds(), time.perf_counter()
            found = run()
            found.setdefault("seconds", time.perf_counter() - start)
            found["cpu"] = _cpu_seconds() - spent
            if road == "ray":
                # Its workers are no children of this process.
                found["cpu"] = found["steady_cpu"] = None
    finally:
        if cluster is not None:
            cluster.shutdown()
    print(json.dumps({"load": os.getloadavg()[0], **found}))


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_all(
    model: str, work: Path, roads: tuple[str, ...], count: int, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {road: [] for road in roads}
    for _ in range(repeats):
        for road in roads:
            command = [sys.executable, __file__, "--one", road, model, str(work), str(count)]
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(f"{road} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            runs[road].append(found)
            print(f"{Path(model).name} {road} {found['seconds']:.1f} s, load {found['load']:.1f}", file=sys.stderr)
    if "dense" in runs:
        pairs = zip(runs["dense"][0]["scores"], runs["scan set"][0]["scores"], strict=True)
        worst = max(abs(a - b) for a, b in pairs)
        if worst > 1e-4:
            raise SystemExit(f"the scores of the dense way differ by {worst:.2g}")
    return runs


def rates(runs: list[dict[str, Any]], by: str) -> list[float]:
    """Positions a second, or the rates that were measured as such."""
    return [run[by] if by.startswith("steady") else run["positions"] / run[by] for run in runs]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio(runs: dict[str, list[dict[str, Any]]], road: str, to: str, by: str) -> str:
    if any(run.get(by) is None for run in runs[road] + runs[to]):
        return ""
    return f"{statistics.median(rates(runs[road], by)) / statistics.median(rates(runs[to], by)):.2f}"


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    lines = [
        "| model | road | positions a CPU second | to forward | positions a second | to forward |",
        "|---|---|---|---|---|---|",
    ]
    for model, runs in found.items():
        for road in runs:
            cells = [f"| {model} | {road} "]
            for by in ("cpu", "seconds"):
                cells += [f"| {spread(rates(runs[road], by))} | {ratio(runs, road, 'forward', by)} "]
            lines.append("".join(cells) + "|")
    return "\n".join(lines)


def table_of_engines(runs: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| engine | steady, positions a second | to one | steady, positions a CPU second | to one | whole run, seconds |",
        "|---|---|---|---|---|---|",
    ]
    for road, of_road in runs.items():
        cells = [road, spread(rates(of_road, "steady")), ratio(runs, road, "one", "steady")]
        if of_road[0]["steady_cpu"] is None:
            cells += ["", ""]
        else:
            cells += [spread(rates(of_road, "steady_cpu")), ratio(runs, road, "one", "steady_cpu")]
        cells.append(spread([run["seconds"] for run in of_road]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--one", nargs=4, metavar=("ROAD", "MODEL", "WORK", "COUNT"), help="measure in this process")
    parser.add_argument(
        "--documents", type=int, default=1, help="for the larger model; the demo reads four times as many"
    )
    parser.add_argument("--engine-documents", type=int, default=14, help="of the second one, each a unit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for batch.md")
    arguments = parser.parse_args()
    if arguments.one:
        road, model, work, count = arguments.one
        measure(road, model, Path(work), int(count))
        return
    import ray
    import torch
    import transformers

    from interp.demo.machine import machine

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_texts(work, max(4 * arguments.documents, arguments.engine_documents))
        write_model(work / "random")
        models = (("demo", "demo", 4), ("random, 8 layers", str(work / "random"), 1))
        found = {
            name: run_all(model, work, ROADS, times * arguments.documents, arguments.repeats)
            for name, model, times in models
        }
        engines = run_all("demo", work, ENGINES, arguments.engine_documents, arguments.repeats)
    every = [run["load"] for runs in [*found.values(), engines] for road in runs.values() for run in road]
    told = (
        f"Medians of {arguments.repeats}, lowest and highest in brackets; one thread a worker. {machine()}, "
        f"python {platform.python_version()}, transformers {transformers.__version__}, ray {ray.__version__}. "
        f"Load, the measurements' own and that of others: {min(every):.1f} to {max(every):.1f} on {os.cpu_count()} cores."
    )
    content = f"{table(found)}\n\n{table_of_engines(engines)}\n\n{told}\n"
    print(content)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "batch.md").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
