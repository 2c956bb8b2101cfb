"""Positions that a run does not reach change nothing; what is no position is refused."""

from __future__ import annotations

import pytest
import torch

import interp
from interp import edits
from interp.errors import InputError
from tests.interp.tiny import token_ids

IDS = token_ids((1, 10))


@pytest.mark.parametrize(
    "edit", [edits.cut(keys=-20), edits.cut(queries=-12), edits.recalibrate(keys=[-11, -15], factor=0.1)], ids=repr
)
def test_a_position_before_the_input_changes_nothing(edit: edits.Edit, own_model):
    model = interp.load(own_model("llama"))
    plain = model.capture(IDS, [], logits=True).logits
    with model.edited(edit):
        edited = model.capture(IDS, [], logits=True).logits
    torch.testing.assert_close(edited, plain, rtol=0, atol=1e-4)


def test_a_slice_that_begins_before_the_input_begins_with_it(own_model):
    model = interp.load(own_model("llama"))
    found = []
    for keys in (slice(-20, 3), slice(0, 3)):
        with model.edited(edits.cut(keys=keys)):
            found.append(model.capture(IDS, [], logits=True).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("step", [0, -1])
def test_steps_below_one_are_refused(step: int):
    with pytest.raises(InputError, match="expected a slice of whole numbers with a step of at least 1"):
        edits.cut(keys=slice(None, None, step))


def test_many_pairs_in_two_cuts_need_no_table_of_all_pairs_of_classes(own_model):
    """Classes of keys that hold no key are never laid out."""
    model = interp.load(own_model("llama"))
    ids = token_ids((1, 120))
    first = edits.cut(pairs=[(100, key) for key in range(60)])
    both = [first, edits.cut(pairs=[(query, query - 60) for query in range(60, 119)])]
    with model.edited(both):
        p = model.maps(ids, layers=[0])[0].dense()
    assert bool((p[:, :, 100, :60] == 0).all())
    assert all(bool((p[:, :, query, query - 60] == 0).all()) for query in range(60, 119))
    assert bool((p[:, :, 60, 1:61] > 0).all())
