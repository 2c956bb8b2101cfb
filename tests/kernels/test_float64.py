"""In float64 every backend agrees with the oracle on the whole grid of shapes, masks, features and probes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

import interp_kernels as ik
from interp_kernels.backends import tiled
from tests.kernels import oracle
from tests.kernels.cases import BACKENDS, Case, cases, randomised
from tests.kernels.rounding import check_index


def check(case: Case) -> None:
    golden = case.golden()
    expected = {"output": oracle.output(golden, case.v.numpy()), "lse": golden.lse}
    for probe in case.probes:
        expected |= oracle.measure(probe, golden)
    for backend in BACKENDS:
        got = case.attend(backend)
        actual = {"output": got.output, "lse": got.lse, **got.stats}
        assert list(actual) == list(expected)
        for name, value in expected.items():
            assert actual[name].dtype == (torch.int64 if value.dtype == np.int64 else torch.float64), name
            if value.dtype == np.int64:
                check_index(actual[name], value, golden, bound=1e-9)
                continue
            message = f"{name} of {backend}"
            np.testing.assert_allclose(actual[name].numpy(), value, rtol=1e-9, atol=1e-12, err_msg=message)


@randomised(250)
@given(case=cases())
def test_every_result_agrees_with_the_oracle(case: Case) -> None:
    check(case)


@randomised(25)
@given(case=cases(long=True))
def test_every_result_agrees_with_the_oracle_over_many_tiles(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("cells", [1, 700, 1700, 2500, 5000, 10_000, 1 << 20])
def test_results_do_not_depend_on_the_size_of_a_tile(cells: int) -> None:
    """Blocks of single heads, of two of three KV heads, of whole sequences, and of all of them."""
    q, k, v = torch.randn(3, 3, 6, 20, 8, generator=torch.Generator().manual_seed(0)).double()
    k, v, weights = k[:, ::2], v[:, ::2], torch.arange(3 * 6 * 20.0).reshape(3, 6, 20, 1)
    probes = (
        ik.Entropy(),
        ik.Peak(),
        ik.TopK(3),
        ik.KeyMass(weights),
        ik.OffsetMass((1, 7)),
        ik.Distance(),
        ik.DistanceHistogram((0, 2, 9)),
        ik.Received(normalize=True),
        ik.Pooled(7),
        ik.Pooled(6, "max", name="largest"),
    )
    whole = ik.attend(q, k, v, probes=probes, backend="reference")
    output, lse, stats = tiled.run(whole.map.operands, probes, tile_cells=cells)
    torch.testing.assert_close(output, whole.output)
    torch.testing.assert_close(lse, whole.lse)
    for name, value in stats.items():
        torch.testing.assert_close(value, whole.stats[name])
