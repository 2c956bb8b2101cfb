"""Logits through the hooked attention are the model's own: no further from float64 than its own fused path is, twice over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.inputs.batch import Batch
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, NAMES, right_padded

LENGTHS = {"unpadded": (150, 150), "right-padded": (41, 150, 87)}


def own_logits(model: PreTrainedModel, ids: Tensor, keep: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=keep.long(), use_cache=False).logits[keep].double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_at_most_twice_that_of_the_models_own_path(name: str, padding: str, dtype: torch.dtype, eager_model):
    _, ids, keep = right_padded(LENGTHS[padding], seed=1)
    model = ARCHITECTURES[name].build().to(dtype)
    exact_model = eager_model(name)
    if dtype == torch.bfloat16:  # the weights as rounded, so that only the computation differs
        exact_model = ARCHITECTURES[name].build(kernel="eager").to(dtype).double()
    exact = torch.cat([output.logits[0] for output in dense.alone(exact_model, ids, keep)])
    own = (own_logits(model, ids, keep) - exact).abs().max()

    hooked = interp.load(model).capture(Batch(ids, keep), logits=True).logits
    assert hooked is not None
    assert hooked.shape[:2] == ids.shape
    assert hooked.dtype == dtype
    error = (hooked[keep].double() - exact).abs().max()

    ulp = torch.finfo(dtype).eps * exact.abs().max()
    assert error <= 2 * own + 4 * ulp, f"error {error:.3g}, of the model's own path {own:.3g}, ulp {ulp:.3g}"


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_different_lengths_do_not_see_each_others_padding(name: str, own_model):
    lists, _, _ = right_padded((23, 60), seed=2)
    model = interp.load(own_model(name))
    together = model.capture(lists, logits=True).logits
    for number, ids in enumerate(lists):
        alone = model.capture(ids, logits=True).logits
        assert together is not None
        assert alone is not None
        difference = (together[number, : len(ids)] - alone[0]).abs().max()
        assert difference <= 1e-5 * alone.abs().max()
