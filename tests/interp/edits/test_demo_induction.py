"""A causal finding: the demo model's induction heads are what predicts a repeated span."""

from __future__ import annotations

import pytest
import torch

import interp
from interp import edits

SPAN = 50
INDUCTION = ("L2H5", "L2H3", "L2H2", "L2H4")


@pytest.fixture(scope="module")
def demo() -> interp.HookedModel:
    return interp.load("demo")


@pytest.fixture(scope="module")
def ids(demo: interp.HookedModel) -> torch.Tensor:
    """Random tokens, none twice, and the same again: [8, 1 + 50 + 50]."""
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randperm(demo.shape.vocabulary - 2, generator=generator)[:SPAN] + 2 for _ in range(8)]
    span = torch.stack(drawn)
    return torch.cat([torch.full((8, 1), demo.model.config.bos_token_id), span, span], dim=1)


def losses(demo: interp.HookedModel, ids: torch.Tensor, *given: edits.Edit) -> tuple[float, float]:
    """Mean loss in nats on the first copy, and on the second but for its first token, which nothing foretells."""
    if given:
        with demo.edited(given):
            return losses(demo, ids)
    logits = demo.capture(ids, [], logits=True).logits
    assert logits is not None
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    return float(loss[:, :SPAN].mean()), float(loss[:, SPAN + 1 :].mean())


def edges(shift: int) -> list[tuple[int, int]]:
    """From each token of the second copy to the one that stands ``shift`` after its twin."""
    return [(SPAN + i, i + shift) for i in range(1, SPAN + 1)]


def test_without_its_induction_heads_the_model_does_not_predict_the_second_copy(demo: interp.HookedModel, ids) -> None:
    first, second = losses(demo, ids)
    assert first > 7
    assert second < 1
    without, lost = losses(demo, ids, edits.ablate(*INDUCTION))
    assert abs(without - first) < 0.5
    assert lost > 0.9 * first


@pytest.mark.parametrize(
    "heads", [("L2H0", "L2H1", "L3H0", "L3H1"), ("L2H0", "L3H2", "L3H3", "L3H5"), ("L1H0", "L1H1", "L2H0", "L3H5")]
)
def test_without_four_other_heads_it_still_does(demo: interp.HookedModel, ids, heads: tuple[str, ...]) -> None:
    assert losses(demo, ids, edits.ablate(*heads))[1] < 0.5


def test_it_is_their_look_at_the_token_after_the_twin_that_does_it(demo: interp.HookedModel, ids) -> None:
    first, second = losses(demo, ids)
    assert losses(demo, ids, edits.cut(pairs=edges(1), heads=INDUCTION))[1] > 0.9 * first
    for beside in (0, 2):
        assert losses(demo, ids, edits.cut(pairs=edges(beside), heads=INDUCTION))[1] < 1.5 * second
