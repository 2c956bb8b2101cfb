"""The kernels that score again with every row's normaliser known: rounding makes no probability larger than 1 of it."""

from __future__ import annotations

import torch

from tests.kernels.cases import Case
from tests.kernels.on_device import moved, needs_triton
from tests.kernels.test_adversarial import random_case

pytestmark = needs_triton

LESS = 500.0
"""What the kept maximum lacks. By rounding it is a few parts in 10^7 of the scores, which may be of any size."""


def test_a_key_that_scores_above_the_maximum_that_was_kept_has_probability_one() -> None:
    from interp_kernels.backends.triton.operands import prepared
    from interp_kernels.backends.triton.second import Rows, column_sums, histogram, pairs, squares
    from tests.kernels.on_device import DEVICE

    case: Case = random_case()
    rows = 200
    ops = moved(case.attend("cpu").map.operands, DEVICE)
    call = prepared(ops)
    scores = ops.q @ ops.k.mT
    least = scores.masked_fill(~torch.ones(rows, rows, dtype=torch.bool, device=DEVICE).tril(), torch.inf).amin(dim=-1)
    of_rows = Rows(call, least - LESS, torch.ones_like(least))
    ones = torch.ones(1, 1, 2, rows, device=DEVICE)
    seen = torch.arange(1, rows + 1, dtype=torch.float32, device=DEVICE)
    assert (column_sums(of_rows, ones)[0] == seen.flip(0)).all()
    assert (pairs(of_rows, (0,))[0] == 1).all()
    assert (histogram(of_rows, (0, rows))[..., 0] == seen).all()
    for size in (16, 100):
        # Squares right of the diagonal hold no visible key.
        for op in ("max", "mean"):
            found = squares(of_rows, size, op)
            assert torch.equal(found.tril(), torch.ones_like(found).tril())
