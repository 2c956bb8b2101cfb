"""Too large a capture says what it needs, what is free and what would fit: before the run, or when an allocation fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import interp
from interp.captures.memory import LayerSize, free_memory, is_out_of_memory, needs_of
from interp.errors import InputError, RunError
from interp.inputs.batch import Batch
from interp.sizes import readable
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, WIDTHS, token_ids

IDS = token_ids((2, 40))
CPU = torch.device("cpu")
BEYOND_ANY_MACHINE = 10**15  # bytes: no address space holds them


@contextmanager
def greedy(module: nn.Module) -> Iterator[None]:
    """After ``module`` ran, an allocation that cannot succeed."""
    handle = module.register_forward_hook(lambda *_: [torch.empty(BEYOND_ANY_MACHINE, dtype=torch.uint8), None][1])
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("probe", "size"),
    [
        (interp.Entropy(), 4 * 2 * HEADS * 40),
        (interp.Peak(), (4 + 8) * 2 * HEADS * 40),
        (interp.TopK(5), (4 + 8) * 2 * HEADS * 40 * 5),
        (interp.OffsetMass((0, 1, 2)), 4 * 2 * HEADS * 40 * 3),
        (interp.KeyMass(torch.ones(40, 7)), 4 * 2 * HEADS * 40 * 7),
        (interp.Received(), 4 * 2 * HEADS * 40),
        (interp.Pooled(16), 4 * 2 * HEADS * 3 * 3),
        (interp.Entropy(reduce="mean"), 4 * 2 * HEADS),
        (interp.DistanceHistogram((0, 4, 8)), 4 * 2 * HEADS * 40 * 2),
    ],
)
def test_the_arithmetic_is_what_a_capture_holds(own_model, probe: interp.Probe, size: int):
    needs = needs_of([probe], [LayerSize(HEADS, 40, 40)] * LAYERS, Batch(IDS, None), torch.float32, CPU)
    assert needs.total == LAYERS * size
    stats = interp.load(own_model("llama")).capture(IDS, [probe]).stats
    assert sum(x.nbytes for layers in stats.values() for x in layers.values()) == needs.total


@pytest.mark.parametrize(("free", "positions"), [(0.5, 1), (2, 5)])
def test_results_of_a_tower_that_cannot_fit_are_refused(monkeypatch: pytest.MonkeyPatch, free: float, positions: int):
    """An image has one position at least, which is known before the run, and 5 as its first layer tells."""
    model = interp.load(transformers.ViTModel(transformers.ViTConfig(**WIDTHS, image_size=16, patch_size=8)).eval())
    of_one = (4 + 8) * 1000 * LAYERS * HEADS * 2
    monkeypatch.setattr("interp.captures.memory.free_memory", lambda device: int(free * of_one))
    size = readable(of_one * positions)
    with pytest.raises(InputError, match=rf"results need {size} \(top_k {size}; 2 layers, 2 inputs\), and cpu has"):
        model.capture(torch.zeros(2, 3, 16, 16), [interp.TopK(1000)])


def test_ranks_beyond_any_memory_are_refused_in_a_tower_too():
    model = interp.load(transformers.ViTModel(transformers.ViTConfig(**WIDTHS, image_size=16, patch_size=8)).eval())
    with pytest.raises(InputError, match=r"results need 192,000\.0 GB \(top_k"):
        model.capture(torch.zeros(2, 3, 16, 16), [interp.TopK(10**12)])


def test_results_that_cannot_fit_are_refused_before_the_run(own_model):
    model = own_model("llama")
    ran: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError) as raised:
        interp.load(model).capture(IDS, ["entropy", interp.KeyMass(torch.ones(40, 1).expand(40, 10**12))])
    handle.remove()
    assert not ran
    found = re.fullmatch(
        r"the results need ([\d,.]+) GB \(key_mass [\d,.]+ GB, entropy 3 kB; 2 layers, 2 x 40 tokens\), and cpu has "
        r"([\d,.]+) (GB|MB) free; what would fit: fewer layers .*; averages .*; a shorter input .*",
        str(raised.value),
    )
    assert found is not None, str(raised.value)
    assert float(found[1].replace(",", "")) == pytest.approx(LAYERS * 2 * HEADS * 40 * 4 * 10**12 / 1e9)


def test_a_probe_of_absurd_size_is_refused(own_model):
    with pytest.raises(InputError, match=r"the results need [\d,.]+ \w+ \(top_k"):
        interp.load(own_model("llama")).capture(IDS, [interp.TopK(10**13)])


def test_averages_that_would_fit_are_named():
    needs = needs_of([interp.Entropy()], [LayerSize(32, 10**9, 10**9)] * 100, Batch(IDS, None), torch.float32, CPU)
    with pytest.raises(InputError, match=r"the results need 25,600\.0 GB .*reduce='mean' on each probe \(26 kB\)"):
        needs.check()


def test_so_many_layers_as_fit_are_named():
    free = free_memory(CPU)
    assert free is not None
    tokens = free // (4 * 2 * 3)  # a third of what is free for each layer, so that a busy machine still has two
    needs = needs_of([interp.Entropy()], [LayerSize(1, tokens, tokens)] * 9, Batch(IDS, None), torch.float32, CPU)
    with pytest.raises(InputError, match=r"at most [1234] of the 9 layers at once \(layers=\)"):
        needs.check()


@pytest.mark.parametrize("what", ["capture", "maps"])
def test_an_allocation_that_fails_in_the_run_says_what_was_needed(what: str):
    model = ARCHITECTURES["gemma2"].build()
    hooked = interp.load(model)
    expected = hooked.capture(IDS).stacked("entropy")
    with greedy(model.model.layers[0].mlp), pytest.raises(RunError) as raised:
        getattr(hooked, what)(IDS)
    message = str(raised.value)
    assert message.startswith(
        f"the run went out of memory on cpu (an allocation of {BEYOND_ANY_MACHINE} bytes failed): the results"
    )
    kept = "peak 8 kB, entropy 3 kB" if what == "capture" else "maps 44 kB"
    assert (
        f"the results need {'10 kB' if what == 'capture' else '44 kB'} ({kept}; 2 layers, 2 x 40 tokens) of the"
        in message
    )
    assert "what would fit: fewer layers" in message
    assert is_out_of_memory(raised.value.__cause__)  # pyright: ignore[reportArgumentType]
    assert model.config._attn_implementation == "eager"
    assert torch.equal(hooked.capture(IDS).stacked("entropy"), expected)


def test_other_errors_in_the_run_are_left_as_they_are():
    model = ARCHITECTURES["llama"].build()
    model.model.layers[0].mlp.register_forward_hook(lambda *_: torch.ones(2, 3) @ torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        interp.load(model).capture(IDS)
    assert not isinstance(raised.value, RunError)


def test_a_limit_on_the_address_space_counts():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = free_memory(CPU)
    assert before is not None
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        free = free_memory(CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert free is not None
    assert free <= 64 << 20 < before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_too_small_says_so():
    own: Any = ARCHITECTURES["llama"].build()
    model = interp.load(own.to("cuda"))
    hook = own.model.layers[0].mlp.register_forward_hook(
        lambda *_: [torch.empty(10**13, dtype=torch.uint8, device="cuda"), None][1]
    )
    with pytest.raises(RunError, match=r"the run went out of memory on cuda:0"):
        model.capture(IDS)
    hook.remove()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_are_part_of_what_a_capture_needs(name: str, own_model, monkeypatch: pytest.MonkeyPatch):
    model = interp.load(own_model(name))
    held = model.capture(IDS, [], logits=True).logits
    assert held is not None
    monkeypatch.setattr("interp.captures.memory.free_memory", lambda device: held.nbytes - 1)
    said = rf"the results need {re.escape(readable(held.nbytes))} \(logits {re.escape(readable(held.nbytes))}; "
    with pytest.raises(InputError, match=said):
        model.capture(IDS, [], logits=True)
    assert model.capture(IDS, []).logits is None
    monkeypatch.setattr("interp.captures.memory.free_memory", lambda device: held.nbytes)
    assert model.capture(IDS, [], logits=True).logits is not None
