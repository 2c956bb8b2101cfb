"""What a process sets around a call, and what must not reach into it: default type and device, a numba that does not compile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kernels as ik

T = 70
LABELS = torch.arange(T) % 5


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, h, T, 8, generator=random, dtype=torch.float64).to(dtype) for h in (4, 2, 2)]


PROBES = (
    ik.Entropy(),
    ik.Peak(),
    ik.TopK(3),
    ik.KeyMass(torch.ones(T, 2)),
    ik.LabelMatch(LABELS, LABELS, strict=True),
    ik.OffsetMass((0, 1)),
    ik.Distance(),
    ik.DistanceHistogram((0, 1, 4)),
    ik.Received(normalize=True),
    ik.Pooled(8),
    ik.Pooled(8, "max", name="pooled_max"),
)
ONES = torch.ones(T)
GRADIENT = torch.ones(2, 4, T, 8)


def results(tensors: list[Tensor], backend, softcap: float | None = None) -> list[Tensor]:
    """All that a call gives but gradients, and every method of its map, of one head's, and of the weighted one."""
    attended = ik.attend(*tensors, softcap=softcap, probes=PROBES, backend=backend)
    found = [attended.output, attended.lse, *attended.stats.values()]
    for lazy in (attended.map, attended.map.weighted_by(GRADIENT), attended.map.head(1, 3)):
        found += [lazy.rows([1, -1]), lazy.dense(), lazy.diagonal(1), *lazy.topk(3), lazy.pool(8), lazy.pool(8, "max")]
        found += [lazy.pool(8, row_factors=ONES), lazy.matmul(ONES[:, None]), lazy.rmatmul(ONES)]
        found += [lazy.count_visible(slice(None), slice(None), 8)]
    return found


def gradients(tensors: list[Tensor], backend, softcap: float | None) -> list[Tensor]:
    asking = [x.requires_grad_() for x in tensors]
    output = ik.attend(*asking, softcap=softcap, backend=backend).output
    return list(torch.autograd.grad(output, asking, GRADIENT.to(output.dtype)))


def check_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert all(torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(found, expected, strict=True))


@pytest.fixture
def default_type() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("default_type")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_type_that_torch_takes_by_default_changes_nothing(
    backend, default: torch.dtype, dtype: torch.dtype, softcap: float | None
) -> None:
    tensors = inputs(dtype)
    expected = [*results(tensors, backend, softcap), *gradients(inputs(dtype), backend, softcap)]
    torch.set_default_dtype(default)
    check_same([*results(tensors, backend, softcap), *gradients(inputs(dtype), backend, softcap)], expected)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_device_that_torch_takes_by_default_changes_nothing(
    backend, dtype: torch.dtype, softcap: float | None
) -> None:
    """The device "meta" holds no numbers: a tensor made there gives an error sooner or later."""
    tensors, ones = inputs(dtype), np.ones(T, np.float32)
    expected = results(tensors, backend, softcap)
    operator = ik.attend(*tensors, backend=backend).map.to_linear_operator(0, 1)
    product = operator @ ones
    with torch.device("meta"):
        found, found_product = results(tensors, backend, softcap), operator @ ones
    check_same(found, expected)
    assert np.array_equal(found_product, product)


CALL = """
import warnings, torch, interp_kernels as ik
from interp_kernels.backends import cpu, tiled
x = torch.randn(1, 2, 40, 8)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        result = ik.attend(x, x, x, probes=(ik.Entropy(),), backend="cpu")
    result.map.pool(8)
assert not cpu.is_compiled(result.map.operands)
assert torch.equal(result.output, tiled.run(result.map.operands, ())[0])
print(*(each.message for each in told), sep="\\n")
"""


def run_call(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_numba_is_told_not_to_compile_plain_torch_does_the_same() -> None:
    assert run_call(NUMBA_DISABLE_JIT="1") == ""


def test_a_numba_that_does_not_start_is_told_about_once_and_plain_torch_does_the_same(tmp_path: Path) -> None:
    """As after an update of numpy that the installed numba does not know."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text('raise ImportError("Numba needs NumPy 2.2 or less")\n')
    told = run_call(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert told.count("\n") == 0
    assert "Numba needs NumPy 2.2 or less" in told
    assert "numba is installed but cannot be imported" in told
