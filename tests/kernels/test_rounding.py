"""In float32, bfloat16 and float16 no result errs more than twice as much as plain attention does, plus 4 ulp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

import interp_kernels as ik
from tests.kernels import oracle
from tests.kernels.cases import BACKENDS, Case, cases, randomised
from tests.kernels.rounding import bounds, check_index, excess, plain_map

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check(case: Case, backends: tuple[str, ...] = BACKENDS) -> None:
    every = (ik.Peak(name="every_peak"), ik.TopK(4, name="every_top"))
    case = replace(case, probes=(*case.probes, *every))
    golden = case.golden()
    indices = {p.label: oracle.measure(p, golden)[f"{p.label}_index"] for p in every}
    allowed = bounds(case, golden)
    for backend in backends:
        got = case.attend(backend)
        actual = {"output": got.output, "lse": got.lse, **got.stats}
        assert {name for name in actual if not name.endswith("_index")} == set(allowed)
        assert got.output.dtype == case.v.dtype
        for name, (value, bound) in allowed.items():
            error = excess(actual[name], value)
            assert error <= bound, f"{name} of {backend} errs by {error:.3g}, allowed {bound:.3g}"
            assert name == "output" or actual[name].dtype == torch.float32
        for name, index in indices.items():
            check_index(got.stats[f"{name}_index"], index, golden, allowed[name][1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@randomised(25)
@given(case=cases())
def test_results_err_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype, case: Case) -> None:
    check(case.rounded(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@randomised(5)
@given(case=cases(long=True))
def test_results_over_many_tiles_err_at_most_twice_as_much(dtype: torch.dtype, case: Case) -> None:
    check(case.rounded(dtype))


@randomised(25)
@given(case=cases(probes=False))
def test_the_lazy_map_errs_at_most_twice_as_much_as_scores_less_their_log_sum_exp(case: Case) -> None:
    case = case.rounded(torch.float32)
    golden = case.golden()
    assert excess(case.attend("cpu").map.dense(), golden.p) <= map_bound(case, golden)


def map_bound(case: Case, golden: oracle.Map) -> float:
    """The lazy map holds the log-sum-exp in float32 and nothing else of a row, so plain is exp(s - lse) here.

    The scores are computed again, in other tiles than those that the log-sum-exp came from: any evaluation meets any other.
    """
    keys = golden.p.shape[-1]
    evaluated = [plain_map(case, golden, evaluation) for evaluation in range(4)]
    plain = 0.0
    for of_lse in evaluated:
        lse = np.where(np.isinf(of_lse.lse), np.float32(0), of_lse.lse)[..., None]
        for again in evaluated:
            plain = max(plain, float(np.abs(np.exp(again.scores[..., :keys] - lse) - golden.p).max()))
    return float(2 * plain + 4 * np.spacing(np.float32(golden.p.max())))
