"""Architectures with attention in code of their own: as they were after a run, in threads, with a cache, with ALiBi."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import interp
from interp.errors import RunError
from interp.models.adapters import ADAPTERS, adapter_of
from interp_kernels import Entropy
from tests.interp.tiny import COMMON, WIDTHS, randomised, token_ids
from tests.interp.zoo.own_code import OWN_CODE

IDS = token_ids((2, 19))
NAMES = [f"{entry.model} {entry.note}".strip() for entry in OWN_CODE]


def own_output(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        output = model(input_ids=ids)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize("entry", OWN_CODE, ids=NAMES)
def test_the_model_is_as_before(entry):
    model = entry.build()
    members = {name: dict(vars(module)) for name, module in model.named_modules()}
    before = own_output(model)
    interp.load(model).capture(IDS)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == members
    assert torch.equal(own_output(model), before)


def test_each_adapter_is_of_a_class_of_the_library_and_in_the_zoo():
    kinds = {type(module) for entry in OWN_CODE for module in entry.build().modules()}
    reached = {f"{k.__module__}.{k.__qualname__}".removeprefix("transformers.models.") for k in kinds if adapter_of(k)}
    assert reached == set(ADAPTERS)


def test_a_class_derived_from_one_with_an_adapter_has_none():
    class Other(transformers.models.gptj.modeling_gptj.GPTJAttention):
        pass

    assert adapter_of(Other) is None


def test_an_error_leaves_the_model_as_before():
    model = OWN_CODE[0].build()

    def stop(*_: object) -> None:
        raise KeyError("in the middle")

    handle = model.get_submodule("transformer.h.0").register_forward_hook(stop)
    with pytest.raises(KeyError, match="in the middle"):
        interp.load(model).capture(IDS)
    handle.remove()
    assert all("_attn" not in vars(module) for module in model.modules())


def beside_a_capture(model: PreTrainedModel) -> tuple[torch.Tensor | RunError, torch.Tensor | None]:
    """What another thread gets that runs the model in the middle of a capture, and the capture's logits."""
    inside, done = threading.Event(), threading.Event()
    got: list[torch.Tensor | RunError] = []

    def plain() -> None:
        inside.wait(20)
        try:
            got.append(own_output(model))
        except RunError as error:
            got.append(error)
        done.set()

    other = threading.Thread(target=plain)
    other.start()
    here = threading.get_ident()

    def wait(*_: object) -> None:
        if threading.get_ident() == here:
            inside.set()
            assert done.wait(20)

    handle = model.get_submodule("transformer.h.0").register_forward_hook(wait)
    capture = interp.load(model).capture(IDS, logits=True)
    handle.remove()
    other.join()
    return got[0], capture.logits


def test_plain_runs_in_another_thread_are_the_models_own():
    model = next(entry for entry in OWN_CODE if entry.model == "BloomForCausalLM").build()
    expected = own_output(model)
    plain, captured = beside_a_capture(model)
    assert isinstance(plain, torch.Tensor)
    assert torch.equal(plain, expected)
    torch.testing.assert_close(captured, expected, rtol=0, atol=1e-4)


def test_plain_runs_in_another_thread_are_refused_where_they_would_be_wrong():
    """Falcon reads from its configuration whether its attention is SDPA, and adds a mask of true and false if not."""
    model = falcon(multi_query=True)
    expected = own_output(model)
    plain, captured = beside_a_capture(model)
    assert isinstance(plain, RunError)
    assert "another thread records this model, and FalconAttention cannot tell its own attention" in str(plain)
    torch.testing.assert_close(captured, expected, rtol=0, atol=1e-4)
    assert torch.equal(own_output(model), expected)


@pytest.mark.parametrize("name", ["FalconForCausalLM", "BloomForCausalLM", "GPTNeoForCausalLM", "MptForCausalLM"])
def test_rows_of_generation_are_those_of_the_whole_text(name: str):
    model = interp.load(next(entry for entry in OWN_CODE if entry.model == name).build())
    made = model.generate(IDS[:1], 4, [Entropy()], min_new_tokens=4)
    whole = model.capture(made.ids[:, :-1], [Entropy()])
    for layer in model.layers:
        rows = torch.cat([step["entropy"][layer] for step in made.steps], dim=-1)
        torch.testing.assert_close(rows, whole["entropy"][layer][..., -rows.shape[-1] :], rtol=0, atol=1e-4)


def falcon(**changes: Any) -> PreTrainedModel:
    sizes: dict[str, Any] = {**WIDTHS, **COMMON, **changes}
    config = transformers.FalconConfig(**sizes, alibi=True, new_decoder_architecture=False)
    config._attn_implementation = "sdpa"
    return randomised(transformers.FalconForCausalLM(config).eval())


@pytest.mark.parametrize("multi_query", [True, False])
def test_falcon_with_alibi_is_its_own_fused_path(multi_query: bool):
    """Its eager path is no oracle: it adds ALiBi twice, in the mask and again to the scores."""
    model = falcon(multi_query=multi_query)
    expected = own_output(copy.deepcopy(model))
    capture = interp.load(model).capture(IDS, logits=True)
    assert capture.logits is not None
    torch.testing.assert_close(capture.logits, expected, rtol=0, atol=1e-4)
