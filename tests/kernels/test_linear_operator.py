"""One head's map as scipy's LinearOperator: its products from both sides, and the singular values that come of them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import svds

import interp_kernels as ik
from tests.kernels.test_map import close, featured, normal


def test_singular_values_of_a_head_come_from_the_linear_operator() -> None:
    case = featured()
    golden = case.golden()
    operator = case.attend("cpu").map.to_linear_operator(1, 3)
    assert operator.shape == (40, 44)
    assert operator.dtype == np.float64
    u, s, vt = svds(operator, k=5, v0=np.ones(40))
    expected = np.linalg.svd(golden.p[1, 3], compute_uv=False)[:5]
    close(np.sort(s)[::-1], expected, rtol=1e-8)
    close(golden.p[1, 3] @ vt.T, u * s, atol=1e-8)


def test_singular_values_of_a_head_of_2048_tokens_need_no_map() -> None:
    q, k, v = (normal(1, 1, 2048, 16).float() for _ in range(3))
    lazy = ik.attend(2 * q, k.roll(1, dims=2), v).map
    _, s, _ = svds(lazy.to_linear_operator(0, 0), k=3, v0=np.ones(2048), tol=1e-4)
    expected = torch.linalg.svdvals(lazy.dense()[0, 0])[:3]
    close(np.sort(s)[::-1], expected, rtol=1e-3)


def test_the_linear_operator_multiplies_vectors_and_matrices_from_both_sides() -> None:
    case = featured()
    p = case.golden().p[0, 2]
    operator = case.attend("cpu").map.to_linear_operator(0, 2)
    x, w = normal(44, 3).numpy(), normal(40, 3).numpy()
    close(operator.matvec(x[:, 0]), p @ x[:, 0])
    close(operator.matvec(x[:, :1]), p @ x[:, :1])
    close(operator.matmat(x), p @ x)
    close(operator.rmatvec(w[:, 0]), p.T @ w[:, 0])
    close(operator.rmatmat(w), p.T @ w)
    close(operator @ x[::-1], p @ x[::-1])
    frozen = x[:, 0].copy()
    frozen.flags.writeable = False
    close(operator.matvec(frozen), p @ frozen)


def test_a_float32_map_gives_a_float32_operator() -> None:
    operator = featured().rounded(torch.bfloat16).attend("cpu").map.to_linear_operator(0, 0)
    assert operator.dtype == operator.matvec(np.ones(44)).dtype == np.float32


def test_a_complex_vector_is_multiplied_by_its_parts() -> None:
    case = featured()
    p = case.golden().p[0, 2]
    operator = case.attend("cpu").map.to_linear_operator(0, 2)
    x, w = (normal(n, 3).numpy() + 1j * normal(n, 3).numpy() for n in (44, 40))
    close(operator @ x[:, 0], p @ x[:, 0])
    close(operator @ x, p @ x)
    close(operator.rmatvec(w[:, 0]), p.T @ w[:, 0])
    close(operator.rmatmat(w), p.T @ w)
