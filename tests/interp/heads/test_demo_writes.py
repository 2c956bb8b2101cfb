"""The demo model's induction heads write the token that they look at: attribution, circuits, and a check by ablation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.heads import logit_attribution, maps_score, ov_copying
from interp.models.hooked import HookedModel

INDUCTION = [(2, 2), (2, 3), (2, 4), (2, 5)]
OTHERS = [(layer, head) for layer in range(4) for head in range(6) if (layer, head) not in INDUCTION]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("demo")


@pytest.fixture(scope="module")
def span(model: HookedModel) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.stack([torch.randperm(model.shape.vocabulary - 2, generator=generator)[:50] + 2 for _ in range(8)])


@pytest.fixture(scope="module")
def ids(model: HookedModel, span: Tensor) -> Tensor:
    return torch.cat([torch.full((8, 1), model.model.config.bos_token_id), span, span], dim=1)


def test_four_heads_write_the_right_next_token_and_no_other_does(model: HookedModel, span: Tensor, ids: Tensor):
    right, wrong = span[:, 1:], span[:, 1:].roll(7, dims=1)
    mean = logit_attribution(model, ids, right, slice(51, -1), against=wrong).mean()
    assert min(mean[place] for place in INDUCTION) > 1.2
    assert max(abs(mean[place]) for place in OTHERS) < 0.05


def test_on_the_first_copy_they_do_not(model: HookedModel, span: Tensor, ids: Tensor):
    right, wrong = span[:, 1:], span[:, 1:].roll(7, dims=1)
    mean = logit_attribution(model, ids, right, slice(1, 50), against=wrong).mean()
    assert np.abs(mean).max() < 0.1


def test_what_they_write_reaches_the_logit_through_the_mlps_too(model: HookedModel, span: Tensor, ids: Tensor):
    """Direct parts are not effects: ablated, the heads take more from the logit than they write into it."""
    right = span[:, 1:]
    whole = logit_attribution(model, ids, right, slice(51, -1))
    with model.edited(interp.edits.ablate(*(f"L{layer}H{head}" for layer, head in INDUCTION))):
        without = logit_attribution(model, ids, right, slice(51, -1))
    direct = sum(float(whole.mean()[place]) for place in INDUCTION)
    assert whole.logits.mean() - without.logits.mean() > 2 * direct


def test_their_weights_copy(model: HookedModel):
    found = ov_copying(model)
    own = {place: found.own_rank[place] for place in INDUCTION}
    assert max(own.values()) < 0.17
    assert min(found.scores[place] for place in INDUCTION) > 0.6
    assert min(found.own_rank[place] for place in OTHERS) > 0.3


def test_a_high_score_alone_is_no_copying(model: HookedModel):
    """L0H4 has the largest score of all, and leaves a token's own logit in the middle of the others."""
    found = ov_copying(model)
    assert found.scores[0, 4] == np.nanmax(found.scores)
    assert found.own_rank[0, 4] > 0.4


def test_maps_finds_them_for_the_relation_to_itself(model: HookedModel):
    found = maps_score(model, [(token, token) for token in range(300, 1000)])
    order = np.argsort(-found.scores, axis=None)[:4]
    assert {(int(at) // 6, int(at) % 6) for at in order} == set(INDUCTION)
    assert min(found.scores[place] for place in INDUCTION) > 10 * found.chance
