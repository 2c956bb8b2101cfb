"""Plain torch adds in a fixed order: no operation that on a GPU adds to indices as its threads happen to come by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import interp_kernels as ik
from interp_kernels.backends import tiled
from interp_kernels.backends.tiled.mapping import MapTiles
from interp_kernels.gradient import Wanted, gradients
from tests.kernels.test_map import featured

UNORDERED = ("scatter_add", "scatter_reduce", "index_add", "index_reduce", "put_", "bincount", "histc", "cumsum")
"""https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html names them. index_put_ is one where
it accumulates."""


class Ordered(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[-1].split(".")[0]
        if name == "index_put_":
            assert not (args[3] if len(args) > 3 else False), "index_put_ that accumulates"
        else:
            assert not name.startswith(UNORDERED), name
        return func(*args, **(kwargs or {}))


def test_the_measurement_sees_what_has_no_order() -> None:
    with pytest.raises(AssertionError, match="scatter_add"), Ordered():
        torch.zeros(3).scatter_add_(0, torch.zeros(4, dtype=torch.int64), torch.ones(4))


ASKS: list[Callable[[MapTiles], object]] = [
    lambda m: m.cells(torch.tensor([0, 3, 3]), slice(0, 44)),
    lambda m: m.diagonal(1),
    lambda m: m.pool(8, "mean"),
    lambda m: m.pool(8, "max"),
    lambda m: m.pool(8, "mean", torch.ones(2, 4, 40).double(), torch.ones(2, 4, 44).double()),
    lambda m: m.topk(3),
    lambda m: m.matmul(torch.ones(2, 4, 44, 2).double()),
    lambda m: m.rmatmul(torch.ones(2, 4, 40, 2).double()),
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_lazy_map_in_plain_torch(ask: Callable[[MapTiles], object], is_weighted: bool) -> None:
    attended = featured().attend("cpu")
    gradient = torch.ones_like(attended.output) if is_weighted else None
    with Ordered():
        ask(MapTiles(attended.map.operands, attended.lse, gradient))


def test_a_pass_with_every_probe_and_its_gradients() -> None:
    attended = featured().attend("cpu")
    labels = torch.arange(44) % 5
    probes = (
        ik.Entropy(),
        ik.Peak(),
        ik.TopK(3),
        ik.KeyMass(torch.ones(44, 2)),
        ik.LabelMatch(labels[:40], labels),
        ik.OffsetMass((0, 1)),
        ik.Distance(),
        ik.DistanceHistogram((0, 1, 8)),
        ik.Received(normalize=True),
        ik.Pooled(8),
        ik.Pooled(8, "max", name="largest"),
    )
    ones = torch.ones_like(attended.output)
    with Ordered():
        tiled.run(attended.map.operands, probes)
        gradients(attended.map.operands, attended.output, attended.lse, ones, Wanted())
