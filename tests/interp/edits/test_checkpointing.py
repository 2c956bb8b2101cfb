"""Gradient checkpointing: what the backward pass runs again is edited as it was."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp import edits
from tests.interp.tiny import ARCHITECTURES, token_ids
from tests.interp.zoo.hybrids import HYBRIDS

IDS = token_ids((1, 10))

pytestmark = pytest.mark.filterwarnings(
    # Of torch, on reentrant checkpoints of inputs that ask for no gradient.
    "ignore:None of the inputs have requires_grad:UserWarning"
)


def llama() -> Any:
    return ARCHITECTURES["llama"].build()


def zamba() -> Any:
    """Two layers of attention, of one module that they share."""
    return next(entry for entry in HYBRIDS if entry.model.startswith("Zamba2")).build()


def checkpoint(model: Any, reentrant: bool = False) -> None:
    """Under the name that the installed version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("where", ["inside", "outside", "in another context"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("build", [llama, zamba])
def test_gradients_are_those_of_the_edited_run_wherever_backward_is_called(build: Any, reentrant: bool, where: str):
    model = build()
    hooked = interp.load(model)
    first, second = hooked.layers
    edit = edits.uniform(layers=[first])
    with hooked.edited(edit):
        model(input_ids=IDS).logits.square().mean().backward()
    expected = gradients(model)
    model.train()
    checkpoint(model, reentrant)
    model.enable_input_require_grads()
    with hooked.edited(edit):
        loss = model(input_ids=IDS, use_cache=False).logits.square().mean()
        if where == "inside":
            loss.backward()
    if where != "inside":
        with nullcontext() if where == "outside" else hooked.edited(edits.ablate(layers=[second])):
            loss.backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_the_model_checkpoints_as_before_when_the_context_has_ended():
    model = llama()
    hooked = interp.load(model)
    checkpoint(model)
    own = [vars(module).get("_gradient_checkpointing_func") for module in model.modules()]
    with hooked.edited(edits.ablate("L0H0")):
        model(input_ids=IDS)
    assert [vars(module).get("_gradient_checkpointing_func") for module in model.modules()] == own
    assert any(own)
