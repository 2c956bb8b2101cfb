"""Columns that draw attention, found by their definition on dense maps, and recalibrated head by head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp import edits
from interp.errors import InputError
from tests.interp.edits import dense_edits
from tests.interp.edits.cases import Case, T, case
from tests.interp.edits.test_maps import assert_close


def sinks(of: Case, p: Tensor, *, threshold: float, min_queries: int, keep_first: bool) -> Tensor:
    """alpha_k by a loop over the cells, [B, H, T]."""
    b, h, t, _ = p.shape
    found = torch.zeros(b, h, t, dtype=torch.bool)
    for n in range(b):
        for head in range(h):
            first = keep_first
            for k in range(t):
                rows = [i for i in range(k, t) if of.keep[n, i]]
                if not of.keep[n, k] or len(rows) - 1 < min_queries:
                    continue
                if sum(float(p[n, head, i, k]) for i in rows) / len(rows) > threshold:
                    found[n, head, k] = not first
                    first = False
    return found


@pytest.mark.parametrize("settings", [{}, {"threshold": 0.2, "min_queries": 5, "keep_first": False}])
def test_hidden_sinks_are_the_columns_with_a_large_mean(settings: dict) -> None:
    of = case("llama")
    run, _ = of.dense()
    found = edits.hidden_sinks(of.hooked, of.inputs, **settings)
    for layer, p in run.maps.items():
        expected = sinks(of, p, **({"threshold": 0.1, "min_queries": 1, "keep_first": True} | settings))
        assert torch.equal(found[layer], expected)
        assert expected.any()
        assert not expected.all(dim=-1).any()


def test_hidden_sinks_of_some_layers_are_recalibrated_head_by_head() -> None:
    of = case("gpt_oss")
    found = edits.hidden_sinks(of.hooked, of.inputs, layers=[1])
    assert found.keys() == {1}
    flagged = found[1]
    assert len({tuple(row) for row in flagged.flatten(0, 1).tolist()}) == 8  # each head of each sequence has its own
    for heads, given in (
        ((0, 1, 2, 3), edits.recalibrate(keys=found)),
        ((1, 3), edits.recalibrate(keys=found, heads=["L1H1", "L1H3"])),
    ):
        change = dense_edits.recalibrate(flagged[:, list(heads), None, :].expand(-1, -1, T, -1), 0.4)
        _, expected = of.dense(changes=[({1: heads}, change)])
        with of.hooked.edited(given):
            assert_close(of.hooked(of.inputs)[0], expected, of.keep)


def test_settings_out_of_range_are_refused() -> None:
    of = case("llama")
    with pytest.raises(InputError, match="hidden_sinks: threshold: expected a number from 0 to 1, got 2"):
        edits.hidden_sinks(of.hooked, of.inputs, threshold=2)
    with pytest.raises(InputError, match="hidden_sinks: expected a whole number from 0 on for min_queries, got -1"):
        edits.hidden_sinks(of.hooked, of.inputs, min_queries=-1)
