"""What a probe brings: finite weights, names, and numbers as numpy and torch write them."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.integers import whole, whole_numbers

T = 6


def projections() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, T, 4, generator=generator) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize(("bad", "kind"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
@pytest.mark.parametrize(
    ("probe", "shape", "name"), [(ik.KeyMass, (T, 2), "KeyMass.weights"), (ik.Received, (1, T), "Received.weights")]
)
def test_weights_that_are_not_finite_are_refused(probe: Any, shape: tuple[int, ...], name: str, bad: float, kind: str):
    weights = torch.ones(shape)
    weights[0, 1] = bad
    expected = f"{name}: expected finite numbers, got {kind} in a tensor of shape {list(shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        ik.attend(*projections(), probes=[probe(weights)])


@pytest.mark.parametrize("name", ["", "  ", 5, b"x", ("a",)], ids=repr)
def test_a_name_is_a_string_that_is_not_empty(name: Any):
    expected = f"Entropy.name: expected a string that is not empty, or None for the default, got {name!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        ik.attend(*projections(), probes=[ik.Entropy(name=name)])


def test_a_distance_that_int64_does_not_hold_is_refused():
    with pytest.raises(ValueError, match=r"^OffsetMass\.offsets: expected integers from -2\^62 to 2\^62, got"):
        ik.attend(*projections(), probes=[ik.OffsetMass((1, 10**30))])


@pytest.mark.parametrize("of", [np.int64, np.uint8, torch.tensor], ids=["int64", "uint8", "tensor"])
def test_integers_of_numpy_and_torch_are_integers(of: Any):
    """Of every argument of a probe or a mask that is one, or several."""
    several = torch.tensor if of is torch.tensor else partial(np.array, dtype=of)
    probes = {
        "top": (ik.TopK(of(3)), ik.TopK(3)),
        "offsets": (ik.OffsetMass(several([1, 2])), ik.OffsetMass((1, 2))),  # pyright: ignore[reportArgumentType]
        "mixed": (ik.OffsetMass((of(1), 2)), ik.OffsetMass((1, 2))),
        "distance": (ik.Distance(window=of(2)), ik.Distance(window=2)),
        "edges": (ik.DistanceHistogram(several([0, 1, 4])), ik.DistanceHistogram((0, 1, 4))),  # pyright: ignore[reportArgumentType]
        "open": (ik.DistanceHistogram((of(0), of(2), math.inf)), ik.DistanceHistogram((0, 2, math.inf))),
        "pooled": (ik.Pooled(of(2)), ik.Pooled(2)),
    }
    for name, (given, plain) in probes.items():
        measured = [
            ik.attend(*projections(), mask=Mask.causal(window=window, offset=offset), probes=[probe]).stats[probe.label]
            for probe, window, offset in ((given, of(4), of(0)), (plain, 4, 0))
        ]
        assert torch.equal(*measured), name


@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.bool_(True), torch.tensor(True), torch.tensor(2.0), [2]])
def test_what_is_no_whole_number_is_none(value: Any):
    assert whole(value) is None


@pytest.mark.parametrize(
    "values", [5, "12", b"12", [1, True], [1, 2.0], np.array([1.0]), np.array([[1]]), torch.tensor([True]), {1: 2}]
)
def test_what_is_no_sequence_of_whole_numbers_is_none(values: Any):
    assert whole_numbers(values) is None


def test_whole_numbers_are_ints_however_they_are_written():
    for values in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), list(torch.tensor([1, 2]))):
        found = whole_numbers(values)
        assert repr(found) == "[1, 2]"


@pytest.mark.parametrize("given", ["yes", 1, math.nan, None])
def test_a_switch_is_on_or_off(given: Any):
    labels = torch.zeros(3, dtype=torch.int64)
    x = torch.zeros(1, 1, 3, 4)
    for probe, name in (
        (ik.LabelMatch(labels, labels, strict=given), "LabelMatch.strict"),
        (ik.Received(normalize=given), "Received.normalize"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: expected True or False, got {given!r}$"):
            ik.attend(x, x, x, probes=[probe])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("far", [1 << 40, 10**30])
def test_squares_and_distances_larger_than_everything_are_taken(backend: Any, far: int):
    x = torch.randn(1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    probes = [ik.Pooled(far), ik.Pooled(far, "max", name="largest"), ik.Distance(far)]
    found = ik.attend(x, x, x, probes=probes, backend=backend).stats
    expected = ik.attend(
        x, x, x, probes=[ik.Pooled(9), ik.Pooled(9, "max", name="largest"), ik.Distance()], backend=backend
    )
    assert all(torch.equal(found[name], value) for name, value in expected.stats.items())
