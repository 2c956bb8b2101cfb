"""What the lazy map refuses: every message names the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp_kernels as ik
from interp_kernels.map import DENSE_CELLS
from tests.kernels.test_map import featured


def test_dense_refuses_above_its_size_and_says_what_to_ask_instead() -> None:
    lazy = ik.attend(*(torch.zeros(1, 2, 8192, 1) for _ in range(3)), mask=ik.Mask.causal(window=1)).map
    with pytest.raises(ValueError, match="dense") as error:
        lazy.dense()
    assert str(error.value) == (
        "dense() would build 1 x 2 x 8192 x 8192 = 134,217,728 cells, more than 67,108,864; ask for rows, a tile, "
        "pool(block), topk(k) or a product instead, or narrow with head(batch, head)"
    )
    assert DENSE_CELLS == 8192 * 8192


BAD = [
    (lambda m: m.rows([0.5]), r"^index: expected an integer or a sequence of integers, got \[0.5\]$"),
    (
        lambda m: m.rows(torch.tensor([True])),
        r"^index: expected an integer or a sequence of integers, got torch.bool of shape \[1\]$",
    ),
    (lambda m: m.rows([0, 40]), r"^index: expected rows in \[-40, 40\), got \[0, 40\]$"),
    (lambda m: m.rows(-41), r"^index: expected rows in \[-40, 40\), got \[-41\]$"),
    (lambda m: m.tile(slice(0, 4, 2), slice(0, 4)), r"^rows: expected a slice of step 1, got slice\(0, 4, 2\)$"),
    (lambda m: m.tile(slice(0, 4), 3), r"^cols: expected a slice of step 1, got 3$"),
    (lambda m: m.visible(slice(0, 4), slice(0, 9, 3)), r"^cols: expected a slice of step 1, got slice\(0, 9, 3\)$"),
    (
        lambda m: m.count_visible(slice(0, 4), slice(0, 9), 0),
        r"^block: expected an integer of at least 1, or two of them, got 0$",
    ),
    (
        lambda m: m.count_visible(slice(0, 4), slice(0, 9), (2, True)),
        r"^block: expected an integer of at least 1, or two of them, got \(2, True\)$",
    ),
    (lambda m: m.of_rows(slice(0, 4, 2)), r"^rows: expected a slice of step 1, got slice\(0, 4, 2\)$"),
    (lambda m: m.of_rows(slice(40, 50)), r"^rows: expected at least one of the 40 queries, got none$"),
    (lambda m: m.diagonal(1.5), r"^d: expected an integer, got 1.5$"),
    (lambda m: m.pool(0), r"^block: expected an integer of at least 1, got 0$"),
    (lambda m: m.pool(True), r"^block: expected an integer of at least 1, got True$"),
    (lambda m: m.pool(4, op="sum"), r"^op: expected 'mean' or 'max', got 'sum'$"),
    (
        lambda m: m.pool(4, row_factors=torch.ones(44)),
        r"^row_factors: expected \[40\], \[2, 40\] or \[2, 4, 40\], got torch.float32 of shape \[44\]$",
    ),
    (
        lambda m: m.pool(4, col_factors=torch.tensor([-1.0, torch.nan]).repeat(22)),
        r"^col_factors: expected finite numbers of at least 0, got others in \[44\]$",
    ),
    (
        lambda m: m.count_visible(slice(0, 4), slice(0, 9), 2, counted_cols=torch.ones(9, dtype=torch.bool)),
        r"^counted_cols: expected a bool tensor of shape \[44\], got torch.bool of shape \[9\]$",
    ),
    (
        lambda m: m.count_visible(slice(0, 4), slice(0, 9), 2, counted_rows=torch.ones(40)),
        r"^counted_rows: expected a bool tensor of shape \[40\], got torch.float32 of shape \[40\]$",
    ),
    (lambda m: m.topk(0), r"^k: expected an integer of at least 1, got 0$"),
    (lambda m: m.topk(2.0), r"^k: expected an integer of at least 1, got 2.0$"),
    (
        lambda m: m.matmul(torch.ones(44)),
        r"^x: expected \[44, C\], \[2, 44, C\] or \[2, 4, 44, C\], got torch.float32 of shape \[44\]$",
    ),
    (
        lambda m: m.matmul(torch.ones(2, 40, 3)),
        r"^x: expected \[44, C\], \[2, 44, C\] or \[2, 4, 44, C\], got torch.float32 of shape \[2, 40, 3\]$",
    ),
    (lambda m: m.matmul(torch.ones(3, 44, 1)), r"^x: its leading shape \[3, 1\] does not fit B=2, Hq=4$"),
    (lambda m: m.matmul([1.0]), r"^x: expected \[44, C\], \[2, 44, C\] or \[2, 4, 44, C\], got \[1.0\]$"),
    (
        lambda m: m.rmatmul(torch.ones(44)),
        r"^w: expected \[40\], \[2, 40\], \[2, 4, 40\] or \[2, 4, 40, C\], got torch.float32 of shape \[44\]$",
    ),
    (lambda m: m.rmatmul(torch.ones(2, 3, 40)), r"^w: its leading shape \[2, 3\] does not fit B=2, Hq=4$"),
    (lambda m: m.rmatmul(1.0), r"^w: expected \[40\], \[2, 40\], \[2, 4, 40\] or \[2, 4, 40, C\], got 1.0$"),
    (lambda m: m.rmatmul(torch.ones(3, 4, 40, 2)), r"^w: its leading shape \[3, 4\] does not fit B=2, Hq=4$"),
    (
        lambda m: m.weighted_by(torch.ones(2, 4, 40, 20)),
        r"^output_gradient: expected a floating tensor \[2, 4, 40, 8\], got torch.float32 of shape \[2, 4, 40, 20\]$",
    ),
    (
        lambda m: m.weighted_by(torch.ones(2, 4, 40, 8, dtype=torch.int64)),
        r"^output_gradient: expected a floating tensor \[2, 4, 40, 8\], got torch.int64 of shape \[2, 4, 40, 8\]$",
    ),
    (lambda m: m.weighted_by(None), r"^output_gradient: expected a floating tensor \[2, 4, 40, 8\], got None$"),
    (
        lambda m: m.weighted_by(torch.ones(2, 4, 40, 8, device="meta")),
        r"^output_gradient: expected a tensor on cpu, got meta$",
    ),
    (
        lambda m: m.weighted_by(torch.ones(2, 4, 40, 8)).weighted_by(torch.ones(2, 4, 40, 8)),
        r"^output_gradient: this map is weighted already; weight the map that attend gave$",
    ),
    (
        lambda m: m.matmul(torch.ones(44, 2, dtype=torch.complex64)),
        r"^x: expected real numbers, got torch.complex64 of shape \[44, 2\] on cpu$",
    ),
    (
        lambda m: m.rmatmul(torch.ones(40, dtype=torch.complex64)),
        r"^w: expected real numbers, got torch.complex64 of shape \[40, 1\] on cpu$",
    ),
    (
        lambda m: m.pool(4, row_factors=torch.ones(40, device="meta")),
        r"^row_factors: expected real numbers, got torch.float32 of shape \[40\] on meta$",
    ),
    (lambda m: m.topk((1 << 48) + 1), r"^k: expected an integer from 1 to 281474976710656, got 281474976710657$"),
    (lambda m: m.tile(slice(0, 2.5), slice(None)), r"^rows: expected a slice of step 1, got slice\(0, 2.5, None\)$"),
    (lambda m: m.head(1.0, 0), r"^batch: expected an integer, got 1.0$"),
    (lambda m: m.head(2, 0), r"^batch: expected an index in \[-2, 2\), got 2$"),
    (lambda m: m.head(0, -5), r"^head: expected an index in \[-4, 4\), got -5$"),
    (lambda m: m.to_linear_operator(0, 4), r"^head: expected an index in \[-4, 4\), got 4$"),
]


@pytest.mark.parametrize(("ask", "message"), BAD)
def test_bad_arguments_are_named_with_what_was_expected_and_what_came(ask, message: str) -> None:
    with pytest.raises((ValueError, IndexError), match=message):
        ask(featured().attend("cpu").map)


@pytest.mark.parametrize("of", [np.int64, torch.tensor])
def test_integers_of_numpy_and_torch_are_integers(of) -> None:
    lazy = featured().attend("cpu").map
    assert torch.equal(lazy.rows(of(3)), lazy.rows(3))
    assert torch.equal(lazy.tile(slice(of(3), of(9)), slice(None)), lazy.tile(slice(3, 9), slice(None)))
    assert torch.equal(lazy.diagonal(of(2)), lazy.diagonal(2))
    assert torch.equal(lazy.pool(of(8)), lazy.pool(8))
    assert torch.equal(lazy.topk(of(2))[1], lazy.topk(2)[1])
    assert torch.equal(lazy.head(of(1), of(-1)).rows(0), lazy.head(1, -1).rows(0))
    everything = slice(None)
    assert torch.equal(lazy.count_visible(everything, everything, of(8)), lazy.count_visible(everything, everything, 8))


def test_rows_may_be_asked_for_in_any_form_and_none_are_none() -> None:
    lazy = featured().attend("cpu").map
    expected = lazy.rows([1, -1])
    for index in ((1, -1), np.array([1, -1]), torch.tensor([1, -1]), range(1, 40, 38), np.array([[1], [-1]])):
        assert torch.equal(lazy.rows(index), expected)  # pyright: ignore[reportArgumentType]
    assert lazy.rows([]).shape == (2, 4, 0, 44)
