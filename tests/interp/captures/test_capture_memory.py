"""The memory of a capture is what docs/captures.md says: its statistics, nothing else that grows with the text beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import interp
from interp.captures.capture import Capture
from interp_kernels import Probe
from tests.interp.tiny import ARCHITECTURES, token_ids

LAYERS, HEADS, KV_HEADS, WIDTH, MODEL_WIDTH = 4, 8, 2, 8, 32
T = 2048
SCRATCH = 2 << 20
"""Bytes that do not grow with the text: the tiles of the kernels, the tokens whose norms are computed at once."""
PAGE = Path(__file__).resolve().parents[3] / "docs" / "captures.md"


class Alive(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still held, now and at most; those given are left out."""

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.given = {x.untyped_storage()._cdata for x in given}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @property
    def now(self) -> int:
        self.made = {key: (ref, size) for key, (ref, size) in self.made.items() if not ref.expired()}
        return sum(size for _, size in self.made.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.given:
                storage = x.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    own = ARCHITECTURES["llama"].build(
        num_hidden_layers=LAYERS,
        max_position_embeddings=T,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
    )
    return interp.load(own)


def measured(model: interp.HookedModel, probes: list[Probe], **options: Any) -> tuple[Capture, int, int]:
    """The capture of T tokens, the most bytes that were alive in it, and those that are afterwards."""
    ids = token_ids((1, T))
    with Alive([ids, *model.model.parameters(), *model.model.buffers()]) as alive:
        capture = model.capture(ids, probes, **options)
        capture.nbytes  # noqa: B018 - an operation, so that what has gone is seen to be gone
    return capture, alive.peak, alive.now


@pytest.fixture(scope="module")
def bare_peak(model: interp.HookedModel) -> int:
    """Of a run through the same attention without a statistic."""
    return measured(model, [])[1]


PER_TOKEN = 9
"""ids and keep."""


@pytest.mark.parametrize(
    ("probe", "numbers"),
    [
        (interp.Entropy(), 4 * T),
        (interp.Peak(), (4 + 8) * T),
        (interp.TopK(3), (4 + 8) * 3 * T),
        (interp.OffsetMass((0, 1, 2)), 4 * 3 * T),
        (interp.DistanceHistogram((0, 1, 8, 64, math.inf)), 4 * 4 * T),
        (interp.Received(), 4 * T),
        (interp.Pooled(100), 4 * 21 * 21),
        (interp.Entropy(reduce="mean"), 4),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Probe) else "",
)
def test_bytes_of_a_probe(probe: Probe, numbers: int, model: interp.HookedModel):
    capture = model.capture(token_ids((1, T)), [probe], layers=[0, 3])
    assert capture.nbytes == 2 * HEADS * numbers + PER_TOKEN * T


def test_bytes_of_outputs_contributions_and_norms(model: interp.HookedModel):
    ids = token_ids((2, 50))
    tokens, one = LAYERS * 100, PER_TOKEN * 100
    assert model.capture(ids, (), outputs=True).nbytes == tokens * HEADS * WIDTH * 4 + one
    assert model.capture(ids, (), contributions=True).nbytes == tokens * HEADS * MODEL_WIDTH * 4 + one
    assert model.capture(ids, (), contributions="norm").nbytes == tokens * HEADS * 4 + one
    assert model.capture(ids, (), value_norms=True).nbytes == tokens * KV_HEADS * 4 + one
    assert model.capture(ids, (), value_norms="written").nbytes == tokens * (KV_HEADS + HEADS) * 4 + one


def test_a_capture_holds_on_to_its_statistics_only(model: interp.HookedModel):
    probes: list[Probe] = [interp.Entropy(), interp.Peak(), interp.OffsetMass((1,)), interp.Received()]
    capture, _, after = measured(model, probes, value_norms="written", contributions="norm")
    assert len(capture.stats) == 8
    assert after == capture.nbytes


@pytest.mark.parametrize(
    ("probes", "options"),
    [
        ([interp.Entropy(), interp.Peak(), interp.OffsetMass((0, 1, 2, 3))], {}),
        ([interp.Received(), interp.Entropy(reduce="mean")], {}),
        ([interp.Entropy(), interp.Peak()], {"heads": ["L1H3", "L2H0"]}),
        ([interp.Entropy()], {"outputs": True, "value_norms": True}),
        ([], {"contributions": "norm", "value_norms": "written"}),
    ],
    ids=["rows", "columns", "heads", "outputs", "norms"],
)
def test_the_peak_is_that_of_the_model_and_the_statistics(
    probes: list[Probe], options: dict[str, Any], model: interp.HookedModel, bare_peak: int
):
    capture, peak, _ = measured(model, probes, **options)
    assert capture.nbytes <= peak <= bare_peak + capture.nbytes + SCRATCH


def test_holding_on_to_queries_keys_and_values_would_be_seen(model: interp.HookedModel):
    ids = token_ids((1, T))
    with Alive([ids, *model.model.parameters(), *model.model.buffers()]) as alive:
        lazy = model.maps(ids)
        assert len(lazy) == LAYERS
        assert alive.now > SCRATCH


def test_the_numbers_of_the_page():
    # | what | bytes for each layer, head and token | 32 layers x 32 heads x 100,000 tokens |
    rows = re.findall(
        r"^\| .*? \| (?:\d.*? = )?([\d.]+) +\| ([\d,.]+) (kB|MB|GB) \|$", PAGE.read_text(), flags=re.MULTILINE
    )
    assert len(rows) >= 12
    for each, total, unit in rows:
        expected = float(each) * 32 * 32 * 100_000
        shown = float(total.replace(",", "")) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
        assert shown == pytest.approx(expected, rel=2e-3), (each, total)
