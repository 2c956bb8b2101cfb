"""What runs on a GPU gives what it gives on the CPU: captures of every architecture, generation, edits, gradients, analyses.

Values on the CPU have tests of their own, against dense maps in float64. Here both are float32: the CPU's are right to 3e-5 of
their scale (tests/interp/models/test_statistics.py), and the device's may be off as much again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import interp
from interp import edits
from interp.models.hooked import HookedModel
from tests.conftest import IS_PRETENDED
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, NAMES, right_padded, tiny_t5, token_ids
from tests.kernels.on_device import moved

pytestmark = [
    pytest.mark.gpu,
    # Overflow in the interpreter's numpy, where a GPU says nothing.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]

TOLERANCE = 1e-4
"""Of the largest value of its kind: twice 3e-5, and what an analysis adds by its own sums."""

MODELS = ("gemma2", "gpt_oss", "gpt2") if IS_PRETENDED else NAMES
"""Soft caps and windows, sinks, and heads that share no keys stand for the others where each takes long."""

T = 40
IDS = token_ids((2, T), seed=3)
TEXT = "The old man went down to the river. The old man sat by the river and the old dog sat by the old man."
OTHER = "A ship came into the harbour. The ship came from the north and went to the south."
WEIGHTS = torch.rand(T, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(-1, 4, (2, T), generator=torch.Generator().manual_seed(2))
PROBES = (
    interp.Entropy(),
    interp.Peak(),
    interp.TopK(4),
    interp.KeyMass(WEIGHTS),
    interp.LabelMatch(LABELS, LABELS, strict=True),
    interp.OffsetMass((0, 1, 7)),
    interp.Distance(),
    interp.DistanceHistogram((0, 1, 2, 8, math.inf)),
    interp.Received(normalize=True),
    interp.Pooled(8),
    interp.Entropy(name="mean_entropy", reduce="mean"),
)


def numbers(x: Any, where: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every floating array in a result, by its place. What is ranked (keys, tokens, order) may differ where values tie."""
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        if np.issubdtype(x.dtype, np.floating):
            yield where, x.astype(np.float64)
    elif isinstance(x, float):
        yield where, np.array(x)
    elif isinstance(x, pd.DataFrame):
        for name in x.select_dtypes(np.floating).columns:
            yield f"{where}.{name}", x[name].to_numpy(np.float64)
    elif isinstance(x, Mapping):
        for key, value in x.items():
            if key not in ("settings", "facts"):
                yield from numbers(value, f"{where}.{key}")
    elif isinstance(x, list | tuple):
        for n, value in enumerate(x):
            yield from numbers(value, f"{where}[{n}]")
    elif is_dataclass(x):
        yield from numbers({f.name: getattr(x, f.name) for f in fields(x)}, where)


def check_same(on_gpu: Any, on_cpu: Any) -> None:
    """Of the same shapes, and as near as ``TOLERANCE`` says."""
    got, expected = dict(numbers(on_gpu)), dict(numbers(on_cpu))
    assert expected, f"{type(on_cpu)} holds no numbers"
    assert got.keys() == expected.keys()
    for where, value in expected.items():
        scale = np.nanmax(np.abs(value[np.isfinite(value)]), initial=0.0)
        np.testing.assert_allclose(got[where], value, rtol=0, atol=TOLERANCE * max(scale, 1e-3), err_msg=where)


@pytest.fixture(scope="session")
def pair() -> Callable[[str], tuple[HookedModel, HookedModel]]:
    """A tiny model on the GPU and on the CPU."""
    made: dict[str, tuple[HookedModel, HookedModel]] = {}

    def build(name: str) -> tuple[HookedModel, HookedModel]:
        if name not in made:
            own: Any = tiny_t5() if name == "t5" else (BERT if name == "bert" else ARCHITECTURES[name]).build()
            made[name] = interp.load(copy.deepcopy(own).to("cuda")), interp.load(own)
        return made[name]

    return build


@pytest.fixture(scope="session")
def demos() -> tuple[HookedModel, HookedModel]:
    return interp.load("demo", device="cuda", dtype="float32"), interp.load("demo", device="cpu")


@pytest.mark.parametrize("name", [*MODELS, "bert"])
def test_captures(name: str, pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    on_gpu, on_cpu = pair(name)
    lists, _, _ = right_padded((T, 23), seed=3)
    got, expected = (
        model.capture(lists, moved(PROBES, model.device), logits=name != "bert") for model in (on_gpu, on_cpu)
    )
    assert on_gpu.device.type == "cuda"
    assert "triton" in got.facts["backend"]
    for statistic in expected.stats:
        for layer, value in got[statistic].items():
            assert value.device.type == "cuda"
            assert value.dtype == expected[statistic][layer].dtype
    check_same(got.stats, expected.stats)
    check_same(got.logits, expected.logits) if name != "bert" else None


def test_captures_of_an_encoder_decoder(pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :11]}
    check_same(*(model.capture(inputs, ["entropy", "received"], logits=True) for model in pair("t5")))


def test_captures_of_chosen_heads_and_what_stands_beside(pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    beside = {"outputs": True, "contributions": True, "value_norms": "written"}
    for heads in (["L0H1", "L1H3"], None):
        check_same(*(model.capture(IDS, ["entropy"], heads=heads, **beside).stats for model in pair("llama")))
    check_same(*(model.capture(IDS, [], contributions="norm", value_norms=True).stats for model in pair("gpt2")))


def test_lazy_maps(pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    def read(model: HookedModel) -> dict[str, Any]:
        lazy = model.maps(IDS)[1]
        w = torch.rand(T, generator=torch.Generator().manual_seed(4))
        parts = {"rows": lazy.rows([0, -1]), "tile": lazy.tile(slice(3, 20), slice(0, 9)), "diagonal": lazy.diagonal(2)}
        parts |= {"pool": lazy.pool(8), "largest": lazy.pool(5, "max"), "top": lazy.topk(3)[0], "dense": lazy.dense()}
        parts |= {
            "product": lazy.matmul(WEIGHTS),
            "received": lazy.rmatmul(w),
            "some": lazy.of_rows(slice(30, T)).dense(),
        }
        weighted = lazy.weighted_by(torch.ones((2, HEADS, T, lazy.operands.v.shape[-1]), device=model.device))
        return parts | {"weighted": weighted.pool(8), "of weighted": weighted.rmatmul(w)}

    check_same(*map(read, pair("gpt_oss")))


@pytest.mark.parametrize("name", MODELS)
def test_generation(name: str, pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    prompts = [row[:n].tolist() for row, n in zip(token_ids((2, 15), seed=2), (15, 9), strict=True)]
    statistics = ["entropy", "peak", interp.OffsetMass((0, 3)), "received"]
    got, expected = (model.generate(prompts, 6, statistics, min_new_tokens=6) for model in pair(name))
    assert torch.equal(got.ids.cpu(), expected.ids)
    check_same([step.stats for step in got.steps], [step.stats for step in expected.steps])


def test_sampled_tokens_are_the_librarys_on_the_device(pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    model, _ = pair("llama")
    ids = IDS[:, :12].to(model.device)
    torch.manual_seed(3)
    settings = {"do_sample": True, "temperature": 8.0, "top_k": 20}
    expected = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, **settings)
    assert torch.equal(model.generate(ids, 6, seed=3, **settings).ids, expected)


EDITS: dict[str, Callable[[HookedModel], edits.Edit]] = {
    "ablate": lambda model: edits.ablate("L0H1", "L1H2"),
    "scale": lambda model: edits.scale("L0H1", factor=0.3),
    "uniform": lambda model: edits.uniform("L0H1", "L1H0"),
    "cut": lambda model: edits.cut(queries=slice(10, 20), keys=[2, 5], heads=["L0H1", "L1H3"]),
    "cut after the softmax": lambda model: edits.cut(keys=[2, 5], heads=["L1H3"], renormalize=False),
    "cut pairs": lambda model: edits.cut(pairs=[(9, 2), (12, 3)], layers=[1]),
    "recalibrate": lambda model: edits.recalibrate(keys=[0, 9], heads=["L0H2", "L1H0"]),
    "mean ablate": lambda model: edits.mean_ablate("L0H1", reference=model.capture(IDS, [], outputs=True)),
    "patch": lambda model: edits.patch(
        "L0H1", source=model.capture(token_ids((2, T), seed=8), [], outputs=True), positions=[5, 6]
    ),
    "resample": lambda model: edits.resample("L0H1", source=model.capture(IDS.flip(0), [], outputs=True)),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits(name: str, pair: Callable[[str], tuple[HookedModel, HookedModel]]):
    def run(model: HookedModel) -> list[Any]:
        with model.edited([EDITS[name](model)]):
            capture = model.capture(IDS, ["entropy", "received"], logits=True)
            generation = model.generate(IDS, 3, ["entropy"], min_new_tokens=3)
        return [capture.stats, capture.logits, [step.stats for step in generation.steps]]

    check_same(*map(run, pair("llama")))


ANALYSES: dict[str, Callable[[HookedModel], Any]] = {
    "attention_flow": lambda m: interp.flow.attention_flow(m, TEXT[:40]),
    "contributions": lambda m: m.capture(TEXT, [], contributions="norm").stats,
    "divergences": lambda m: interp.heads.divergences(m, TEXT, layers=[0, 1], clusters=None),
    "faithfulness": lambda m: interp.flow.faithfulness(m, [TEXT[:30], OTHER[:24]], ["rollout", "relevance"]),
    "head_dossiers": lambda m: interp.head_dossiers(m, [TEXT, OTHER], length=24, progress=False).metrics,
    "head_tokens": lambda m: interp.heads.head_tokens(m, TEXT, "L1H2"),
    "importance": lambda m: interp.causal.importance(m, TEXT),
    "input_gradients": lambda m: interp.flow.input_gradients(m, TEXT),
    "lag_curve": lambda m: interp.heads.lag_curve(m, samples=2, span=20),
    "logit_attribution": lambda m: interp.heads.logit_attribution(m, TEXT),
    "lookback": lambda m: interp.heads.lookback(m, TEXT, max_new_tokens=5),
    "maps_score": lambda m: interp.heads.maps_score(m, [(260, 270), (281, 292)]),
    "norm_attention": lambda m: interp.flow.norm_attention(m, TEXT),
    "ov_copying": lambda m: interp.heads.ov_copying(m, sample=50),
    "relevance": lambda m: interp.flow.relevance(m, TEXT),
    "replay": lambda m: interp.heads.replay(m, trials(m)[0], ["L1H2", "L2H0"]),
    "retrieval": lambda m: interp.heads.retrieval(m, lengths=[96], depths=[50], needles=1, progress=False),
    "rollout": lambda m: interp.flow.rollout(m, TEXT),
    "routes": lambda m: interp.flow.routes(m, TEXT),
    "scan": lambda m: interp.scan(m, text=TEXT, samples=2, window=20, progress=False).to_frame()[["score", "chance"]],
    "sinks": lambda m: interp.heads.sinks(m, TEXT, min_queries=4),
    "surface": lambda m: interp.heads.surface(m, TEXT).table,
    "token_losses": lambda m: interp.causal.token_losses(m, TEXT),
    "verify": lambda m: interp.causal.verify(
        m, ["L2H1", "L3H0"], interp.causal.induction_task(m, span=12, samples=3), controls=2
    ),
    "view of a head": lambda m: interp.views.head_profile(m.maps(TEXT)[1], 2),
    "view of a map": lambda m: interp.views.region(m.maps(TEXT)[1], head=2),
    "view of tokens": lambda m: interp.token_view(m, TEXT, ["L1H2"]).links,
}


LONG = {"faithfulness", "maps_score", "ov_copying"}
"""They run hundreds of sequences, which Triton's interpreter takes one by one."""


def trials(model: HookedModel) -> Any:
    return interp.heads.needle_trials(model, lengths=[96], depths=[50], needles=1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.hardware if name in LONG else ()) for name in ANALYSES]
)
def test_analyses(name: str, demos: tuple[HookedModel, HookedModel]):
    check_same(*map(ANALYSES[name], demos))
