"""A hooked model under torch.compile(fullgraph=True): one graph, the same logits, statistics and gradients.

torch's C++ compiler is left out: dynamo traces, and its graph runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import PreTrainedModel, masking_utils

import interp
from interp.errors import InputError
from interp.models.attention import Recording, hooked
from interp.models.layers import attention_layers
from interp.models.rules import mask_by_symbols
from tests.interp.tiny import ARCHITECTURES, BERT, right_padded, token_ids

PROBES = (interp.Entropy(), interp.Peak(), interp.OffsetMass((1,)), interp.Received())


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def build(name: str) -> PreTrainedModel:
    model = (BERT if name == "bert" else ARCHITECTURES[name]).build().double()
    # The library's eager experts loop over those that tokens chose, which no graph holds.
    model.config._experts_implementation = "batched_mm"
    return model


def capture(
    model: PreTrainedModel, run: Callable[..., Any], ids: Tensor, keep: Tensor
) -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
    """What ``run``, the hooked model or its compiled form, gives first, and the statistics of every layer."""
    stats: dict[int, dict[str, Tensor]] = {}
    recording = Recording(
        attention_layers(model, model.config),
        lambda call: PROBES,
        lambda call, attended: stats.update({call.layer.number: attended.stats}),
    )
    with hooked(model, recording):
        output = run(input_ids=ids, attention_mask=keep.long(), use_cache=False)[0]
    assert recording.seen == sorted(stats)
    return output, stats


def check(found: tuple[Tensor, dict], expected: tuple[Tensor, dict]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-11)
    assert found[1].keys() == expected[1].keys() == {0, 1}
    for layer, stats in expected[1].items():
        torch.testing.assert_close(found[1][layer], stats, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss", "bert"])
def test_a_compiled_model_gives_the_logits_and_statistics_of_the_eager_one(name: str) -> None:
    model = build(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _, ids, keep = right_padded((13, 9))
    with torch.no_grad():
        check(capture(model, compiled, ids, keep), capture(model, model, ids, keep))


def test_other_lengths_and_recordings_do_not_need_a_graph_each() -> None:
    model = build("llama")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for length in (5, 9, 9, 6, 11, 12, 17):
            ids = token_ids((2, length))
            keep = torch.ones_like(ids, dtype=torch.bool)
            check(capture(model, compiled, ids, keep), capture(model, model, ids, keep))
    assert counters["stats"]["unique_graphs"] == 2, "one for the first length, one for all others"


def test_gradients_flow_through_a_compiled_model() -> None:
    model = build("llama")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _, ids, keep = right_padded((7, 9))
    gradients = []
    for run in (model, compiled):
        output, stats = capture(model, run, ids, keep)
        gradients.append(torch.autograd.grad(output.sin().sum(), list(model.parameters())))
        assert not any(x.requires_grad for values in stats.values() for x in values.values())
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_capture_runs_a_model_that_compiled_itself() -> None:
    model = build("llama")
    expected = interp.load(model).capture(token_ids((1, 8)), probes=PROBES, logits=True)
    model.compile(fullgraph=True, backend="eager")
    found = interp.load(model).capture(token_ids((1, 8)), probes=PROBES, logits=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert found.logits is not None
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-11)
    for name in expected.stats:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)


def test_a_model_that_compiled_itself_generates_without_its_graph() -> None:
    """Measuring differs from step to step, and would be traced into a graph for each."""
    model = build("llama")
    expected = interp.load(model).generate(token_ids((2, 8)), 3, ["entropy"], min_new_tokens=3)
    model.compile(backend="eager")
    found = interp.load(model).generate(token_ids((2, 8)), 3, ["entropy"], min_new_tokens=3)
    assert torch.equal(found.ids, expected.ids)
    for step, alike in zip(found.steps, expected.steps, strict=True):
        torch.testing.assert_close(step["entropy"], alike["entropy"], rtol=1e-9, atol=1e-11)
    assert not counters["stats"], "nothing was traced"
    assert interp.load(model).capture(token_ids((1, 8)), [], logits=True).logits is not None
    assert counters["stats"]["unique_graphs"] > 0, "its graph is for captures as before"


RULES = {
    "causal": (masking_utils.causal_mask_function, lambda i, j: j <= i),
    "full": (masking_utils.bidirectional_mask_function, lambda i, j: i >= 0),
    "window": (masking_utils.sliding_window_causal_mask_function(3), lambda i, j: (j <= i) & (i - j < 3)),
    "window both ways": (
        masking_utils.sliding_window_bidirectional_mask_function(2),
        lambda i, j: (i - j).abs() <= 2,
    ),
    "windows": (
        masking_utils.and_masks(
            masking_utils.sliding_window_overlay(4), masking_utils.sliding_window_causal_mask_function(2)
        ),
        lambda i, j: (j <= i) & (i - j < 2),
    ),
}


@pytest.mark.parametrize(("function", "definition"), RULES.values(), ids=RULES)
def test_a_rule_run_on_symbols_is_the_mask_that_it_describes(function: Callable, definition: Callable) -> None:
    i, j = torch.arange(9)[:, None], torch.arange(9)[None]
    found = mask_by_symbols(function).allows(i, j, torch.zeros(1, 1, dtype=torch.int64))
    assert torch.equal(found.expand(9, 9), definition(i, j).expand(9, 9))


@pytest.mark.parametrize("function", [masking_utils.sliding_window_overlay(3), lambda batch, head, q, kv: True])
def test_another_rule_is_refused(function: Callable) -> None:
    with pytest.raises(
        InputError, match=r"^this model's attention mask is not made of causal, full and sliding-window"
    ):
        mask_by_symbols(function)
