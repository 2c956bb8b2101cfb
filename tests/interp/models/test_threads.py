"""Threads share a model: captures at once, plain runs beside a capture, captures inside one another.

Threads are held at a layer by barriers and events in the model's own forward hooks, so that they overlap for certain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.models.attention import IMPLEMENTATION, Recording, hooked
from interp.models.hooking import _held, is_recording
from interp.models.layers import attention_layers
from tests.interp.tiny import ARCHITECTURES, BERT, GROUPED, randomised, right_padded, token_ids

WAIT = 30.0  # seconds, after which a test that hangs fails
PROBES = (interp.Entropy(), interp.Peak(), interp.Received())
NAMES = ("llama", "gemma2", "gpt_oss", "bert")  # SDPA, eager with a soft cap, eager with sinks, both ways


def build(name: str, kernel: str | None = None) -> PreTrainedModel:
    return (BERT if name == "bert" else ARCHITECTURES[name]).build(kernel=kernel)


def layer(model: PreTrainedModel, number: int) -> nn.Module:
    return next(m for n, m in model.named_modules() if n.endswith((f"layers.{number}", f"layer.{number}")))


def plain(model: PreTrainedModel, ids: Tensor, keep: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=keep.long(), use_cache=False)[0]


def recording_for(model: PreTrainedModel) -> Recording:
    return Recording(attention_layers(model, model.config), lambda call: (), lambda call, attended: None)


@contextmanager
def called(module: nn.Module, function: Callable[[], Any]) -> Iterator[None]:
    """``function`` is called after each run of ``module``."""
    handle = module.register_forward_hook(lambda *_: [function(), None][1])
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(autouse=True)
def _nothing_is_left_hooked() -> Iterator[None]:
    yield
    assert not is_recording()
    assert not _held


@pytest.mark.parametrize("name", NAMES)
def test_captures_of_one_model_at_once_give_what_each_gives_alone(name: str):
    model = build(name)
    hooked_model = interp.load(model)
    inputs = [token_ids((1, 20 + 3 * i), seed=i) for i in range(3)]
    alone = [hooked_model.capture(ids, PROBES) for ids in inputs]
    own = model.config._attn_implementation
    together = threading.Barrier(3, timeout=WAIT)
    with called(layer(model, 0), together.wait), ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            found = list(threads.map(lambda ids: hooked_model.capture(ids, PROBES), inputs, timeout=WAIT))
            for capture, expected in zip(found, alone, strict=True):
                for statistic in expected.stats:
                    assert torch.equal(capture.stacked(statistic), expected.stacked(statistic))
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("order", ["inside", "begun before", "ended after"])
@pytest.mark.parametrize("kernel", ["own", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plain_run_beside_a_capture_is_the_models_own(name: str, kernel: str, order: str):
    """Also one that meets the capture's beginning or its end between two layers."""
    model = build(name, None if kernel == "own" else kernel)
    recording, (_, ids, keep) = recording_for(model), right_padded((17, 12))
    expected = plain(model, ids, keep)
    between, go_on = threading.Event(), threading.Event()
    capture = hooked(model, recording)

    def stop() -> None:
        between.set()
        assert go_on.wait(WAIT)

    with ThreadPoolExecutor(1) as other, called(layer(model, 0), stop):
        if order != "begun before":
            capture.__enter__()
        run = other.submit(plain, model, ids, keep)
        assert between.wait(WAIT)
        if order == "begun before":
            capture.__enter__()
        elif order == "ended after":
            capture.__exit__(None, None, None)
        assert (model.config._attn_implementation == IMPLEMENTATION) == (order != "ended after")
        go_on.set()
        found = run.result(WAIT)
        if order != "ended after":
            capture.__exit__(None, None, None)
    assert torch.equal(found, expected)
    assert recording.seen == []


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_of_two_captures_gives_the_model_its_own_attention_back(first_out: int):
    model = build("llama", "eager")
    captures = [hooked(model, recording_for(model)) for _ in range(2)]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        threads = (one, two)
        for thread, capture in zip(threads, captures, strict=True):
            thread.submit(capture.__enter__).result(WAIT)
        for number in (first_out, 1 - first_out):
            assert model.config._attn_implementation == IMPLEMENTATION
            threads[number].submit(captures[number].__exit__, None, None, None).result(WAIT)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_in_one_thread_leaves_the_capture_of_another_whole(error: type[BaseException]):
    model = build("llama")
    hooked_model, ids = interp.load(model), token_ids((1, 20))
    expected = hooked_model.capture(ids).stacked("entropy")
    both, failed = threading.Barrier(2, timeout=WAIT), threading.Event()
    fails = threading.local()

    def meet() -> None:
        both.wait()
        if getattr(fails, "here", False):
            raise error
        assert failed.wait(WAIT)

    def fail() -> None:
        fails.here = True
        with pytest.raises(error):
            hooked_model.capture(ids)
        failed.set()

    with ThreadPoolExecutor(2) as threads, called(layer(model, 0), meet):
        capture, failure = threads.submit(hooked_model.capture, ids), threads.submit(fail)
        failure.result(WAIT)
        assert torch.equal(capture.result(WAIT).stacked("entropy"), expected)
    assert model.config._attn_implementation == "sdpa"


def test_many_threads_and_many_runs_end_as_they_began():
    """No barrier: whatever order the scheduler makes."""
    model = build("llama")
    hooked_model, (_, ids, keep) = interp.load(model), right_padded((9, 6))
    expected, entropy = plain(model, ids, keep), hooked_model.capture(ids).stacked("entropy")

    def work(number: int) -> bool:
        if number % 2:
            return torch.equal(plain(model, ids, keep), expected)
        return torch.equal(hooked_model.capture(ids).stacked("entropy"), entropy)

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(120), timeout=WAIT))
    assert model.config._attn_implementation == "sdpa"


def test_runs_of_one_thread_nest_and_each_reports_to_the_innermost():
    model = build("llama")
    ids, keep = token_ids((1, 9)), torch.ones(1, 9, dtype=torch.bool)
    outer, inner = recording_for(model), recording_for(model)
    with hooked(model, outer):
        with hooked(model, inner):
            plain(model, ids, keep)
        assert (outer.seen, inner.seen) == ([], [0, 1])
        assert model.config._attn_implementation == IMPLEMENTATION
        plain(model, ids, keep)
    assert (outer.seen, inner.seen) == ([0, 1], [0, 1])
    assert model.config._attn_implementation == "sdpa"


def test_an_implementation_set_while_the_model_is_hooked_stays():
    model = build("llama")
    ids = token_ids((1, 9))
    expected = interp.load(model).capture(ids).stacked("entropy")
    with hooked(model, recording_for(model)):
        model.set_attn_implementation("eager")
        assert torch.equal(interp.load(model).capture(ids).stacked("entropy"), expected)
    assert model.config._attn_implementation == "eager"


def llama(**changes: Any) -> transformers.LlamaConfig:
    arguments: dict[str, Any] = {**GROUPED, **changes}
    config = transformers.LlamaConfig(**arguments)
    config._attn_implementation = "sdpa"
    return config


def twins() -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two models with one configuration object."""
    config = llama()
    one, two = (randomised(transformers.LlamaForCausalLM(config).eval(), seed) for seed in (0, 1))
    assert one.config is two.config
    return one, two


def test_models_with_a_common_configuration_are_captured_at_once():
    models = [interp.load(model) for model in twins()]
    ids = token_ids((1, 15))
    alone = [model.capture(ids).stacked("entropy") for model in models]
    assert not torch.equal(*alone)
    together = threading.Barrier(2, timeout=WAIT)
    with (
        called(layer(models[0].model, 0), together.wait),
        called(layer(models[1].model, 0), together.wait),
        ThreadPoolExecutor(2) as threads,
    ):
        found = list(threads.map(lambda model: model.capture(ids).stacked("entropy"), models, timeout=WAIT))
    assert all(torch.equal(x, y) for x, y in zip(found, alone, strict=True))
    assert models[0].host.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("same_thread", [True, False])
def test_a_model_that_shares_its_configuration_with_a_captured_one_attends_as_before(same_thread: bool):
    one, two = twins()
    _, ids, keep = right_padded((12, 8))
    expected = plain(two, ids, keep)
    recording = recording_for(one)
    with hooked(one, recording), ThreadPoolExecutor(1) as other:
        found = plain(two, ids, keep) if same_thread else other.submit(plain, two, ids, keep).result(WAIT)
    assert recording.seen == []
    if same_thread:
        # Through our kernel: its mask was made before it is known whose turn it is. Padded rows are anything.
        torch.testing.assert_close(found[keep], expected[keep], rtol=0, atol=1e-4)
    else:
        assert torch.equal(found, expected)


def test_a_training_model_that_shares_it_is_refused_in_the_same_thread():
    config = llama(attention_dropout=0.5)
    one, two = transformers.LlamaForCausalLM(config).eval(), transformers.LlamaForCausalLM(config).train()
    with (
        hooked(one, recording_for(one)),
        pytest.raises(InputError, match=r"attention dropout 0\.5 is on; call model\.eval"),
    ):
        two(token_ids((1, 5)))


def test_a_hook_left_open_in_another_thread_does_not_reach_this_one():
    model = build("llama")
    ids = token_ids((1, 9))
    recording = recording_for(model)
    capture = hooked(model, recording)
    with ThreadPoolExecutor(1) as other:
        other.submit(capture.__enter__).result(WAIT)
        assert interp.load(model).capture(ids).stacked("entropy").shape[0] == 2
        assert recording.seen == []
        other.submit(capture.__exit__, None, None, None).result(WAIT)
