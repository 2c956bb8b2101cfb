"""In float64 every backend agrees with the oracle on the whole grid of shapes, masks, features and probes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given

from tests.kernels import oracle
from tests.kernels.cases import BACKENDS, Case, cases, randomised
from tests.kernels.rounding import check_peak_index


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
                check_peak_index(actual[name], golden, bound=1e-9)
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
