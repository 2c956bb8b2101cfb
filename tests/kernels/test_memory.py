"""At T = 8,192 nothing of the size of the map is ever allocated: every tensor that torch makes is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.backends import cpu, tiled
from interp_kernels.tiles import TILE_CELLS

T, HEADS, WIDTH = 8192, 1, 16

MAP_BYTES = 4 * HEADS * T * T  # 256 MiB
TILE_BYTES = 4 * TILE_CELLS  # 4 MiB, a tile of scores in float32; an index of its cells is twice that
LARGEST, MOST = 3 * TILE_BYTES, 15 * TILE_BYTES
"""Of one tensor, and of all that are alive at once: a tile's scores, the scratch of its arithmetic, O(T) results."""


class Allocations(TorchDispatchMode):
    """The largest storage that an operation returned, and the most bytes that were alive at once, inputs left out."""

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self.given = {x.untyped_storage().data_ptr() for x in inputs}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.largest = self.peak = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self._note(x.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() in self.given:
            return
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, T, WIDTH, generator=random) for _ in range(3))
    keep = torch.ones(1, T, dtype=torch.bool)
    keep[:, :9] = False
    return {"q": q, "k": k, "v": v, "mask": Mask.causal() & Mask.from_padding(keep)}


def probes() -> tuple[ik.Probe, ...]:
    labels = torch.arange(T) % 50
    return (
        ik.Entropy(reduce="mean"),
        ik.Peak(),
        ik.KeyMass(torch.ones(T, 4)),
        ik.LabelMatch(labels, labels, strict=True),
        ik.OffsetMass((0, 1)),
        ik.Distance(),
        ik.Distance(100, name="clipped"),
        ik.Received(normalize=True),
        ik.TopK(4),
        ik.DistanceHistogram((0, 1, 100, math.inf)),
        ik.Pooled(256),
        ik.Pooled(256, "max", name="largest"),
    )


def class_bias() -> ik.ClassBias:
    values = torch.zeros(T, 3)
    values[T // 2 :, 1] = -math.inf
    return ik.ClassBias(values, torch.arange(T) % 3)


def test_the_measurement_sees_a_map() -> None:
    with Allocations() as seen:
        a = torch.ones(1000, 10) @ torch.ones(10, 1000)
        a.softmax(dim=-1).sum()
    assert seen.largest == 4_000_000
    assert seen.peak == 8_000_004


@pytest.mark.parametrize(("backend", "tile"), [("cpu", TILE_BYTES // 2), ("tiled", TILE_BYTES)])
def test_attend_with_every_probe_never_builds_the_map(call: dict[str, Any], backend: str, tile: int) -> None:
    features: dict[str, Any] = {"alibi": torch.ones(HEADS), "bias": torch.zeros(HEADS, 2 * T - 1)}
    features |= {"class_bias": class_bias(), "sinks": torch.zeros(1, HEADS, T)}
    checked = ik.attend(**call, **features, probes=probes(), backend="cpu").map.operands
    with Allocations(call["q"], call["k"], call["v"]) as seen:
        {"cpu": cpu, "tiled": tiled}[backend].run(checked, probes())
    assert tile <= seen.largest <= LARGEST < MAP_BYTES / 20
    assert seen.peak <= MOST < MAP_BYTES / 4


@pytest.mark.parametrize("backend", ["cpu", "tiled"])
def test_cut_edges_and_a_sink_for_each_row_never_build_the_map(call: dict[str, Any], backend: str) -> None:
    given = call | {"mask": Mask.causal(), "class_bias": class_bias(), "sinks": torch.zeros(1, HEADS, T)}
    asked = (ik.Entropy(), ik.Received(normalize=True))
    with Allocations(call["q"], call["k"], call["v"]) as seen:
        attended = ik.attend(**given, probes=asked, backend="cpu")
        if backend == "tiled":
            tiled.run(attended.map.operands, asked)
        attended.map.rmatmul(torch.ones(T))
    assert 0 < seen.largest <= LARGEST
    assert seen.peak <= MOST


@pytest.fixture(scope="module")
def lazy(call: dict[str, Any]) -> ik.AttentionMap:
    return ik.attend(**call, backend="cpu").map


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.rows([0, T - 1, 5]),
        lambda m: m.tile(slice(100, 164), slice(None)),
        lambda m: m.diagonal(3),
        lambda m: m.pool(256),
        lambda m: m.pool(256, op="max"),
        lambda m: m.pool(256, row_factors=torch.ones(T), col_factors=torch.ones(T)),
        lambda m: m.count_visible(slice(None), slice(None), 256),
        lambda m: m.count_visible(slice(None), slice(None), (1, T)),
        lambda m: m.of_rows(slice(64, T)).pool(256),
        lambda m: m.topk(4),
        lambda m: m.matmul(torch.ones(T, 4)),
        lambda m: m.rmatmul(torch.ones(T)),
        lambda m: m.head(0, 0).rmatmul(torch.ones(T)),
        lambda m: m.weighted_by(torch.ones(1, HEADS, T, WIDTH)).rmatmul(torch.ones(T)),
    ],
    ids=[
        *(
            "rows",
            "tile",
            "diagonal",
            "pool mean",
            "pool max",
            "pool with factors",
            "visible",
            "visible by row",
            "of rows",
        ),
        *("topk", "matmul", "rmatmul", "one head", "weighted"),
    ],
)
def test_the_lazy_map_never_builds_the_map(lazy: ik.AttentionMap, ask: Callable[[ik.AttentionMap], object]) -> None:
    with Allocations(lazy.operands.q, lazy.operands.k, lazy.operands.v, lazy.lse) as seen:
        ask(lazy)
    assert 0 < seen.largest <= LARGEST
    assert seen.peak <= MOST


def storages(value: object) -> dict[int, int]:
    """Address and bytes of every tensor that a dataclass holds, at any depth."""
    if isinstance(value, torch.Tensor):
        return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()}
    if not is_dataclass(value):
        return {}
    return {at: size for field in fields(value) for at, size in storages(getattr(value, field.name)).items()}


def test_the_lazy_map_holds_its_inputs_and_one_number_a_row(lazy: ik.AttentionMap) -> None:
    inputs = 3 * 4 * HEADS * T * WIDTH
    padding = T
    assert sum(storages(lazy).values()) == inputs + padding + 4 * HEADS * T
    assert sum(storages(lazy.head(0, 0)).values()) == sum(storages(lazy).values())
