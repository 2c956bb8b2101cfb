"""Every statistic of every step is the row of a full run over the final text, for each kind of cache, mask and position.

golden  the formulas on the maps that the model itself returns in float64, run without a cache on each final text alone
plain   the same in the dtype that is tested, with the model's eager attention: how far rounding alone leads from golden

A statistic may lie twice as far from golden as plain does anywhere in its layer, and 4 units in the last place of float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, LAYERS, token_ids
from tests.interp.zoo.own_code import OWN_CODE

NAMES = ("llama", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox", "gpt_oss", "qwen3")
LENGTHS = (21, 9, 14)
NEW = 12
COLUMNS = max(LENGTHS) + NEW
OFFSETS = (0, 1, 6, 7, 20)
EDGES = (0, 1, 4, 8, math.inf)
WEIGHTS = torch.rand(COLUMNS, 3, generator=torch.Generator().manual_seed(5))
PROMPTS = [row[:n].tolist() for row, n in zip(token_ids((3, max(LENGTHS)), seed=4), LENGTHS, strict=True)]


def probes(step: interp.Step) -> list[Any]:
    return [
        "entropy",
        "distance",
        "received",
        interp.Peak(),
        interp.TopK(3),
        interp.OffsetMass(OFFSETS),
        interp.DistanceHistogram(EDGES),
        interp.KeyMass(WEIGHTS[: step.keys]),
        interp.LabelMatch(step.ids[:, -1:] % 5, step.ids % 5, strict=True),
    ]


def histogram(p: Tensor) -> Tensor:
    i, j = dense.positions(p)
    apart = (i - j).abs()
    return torch.stack([(p * ((apart >= low) & (apart < high))).sum(-1) for low, high in pairwise(EDGES)], -1)


def by_formula(p: Tensor, ids: Tensor, padding: int) -> dict[str, Tensor]:
    """Statistics [1, H, L, ...] of the map of one text that stands ``padding`` columns to the right."""
    label = ids[None] % 5
    return {
        "entropy": dense.entropy(p),
        "distance": dense.distance(p),
        "received": p,
        "peak": dense.peak(p),
        "top_k": p.topk(3, dim=-1).values,
        "offset_mass": dense.offset_mass(p, OFFSETS),
        "distance_histogram": histogram(p),
        "key_mass": dense.key_mass(p, WEIGHTS[padding : padding + len(ids)]),
        "label_match": dense.label_match(p, label, label, strict=True),
    }


def assert_steps(generation: Any, golden_model, plain_model) -> None:
    """``generation`` against the texts that it ended with."""
    for number, (ids, keep) in enumerate(zip(generation.ids, generation.keep, strict=True)):
        padding = int((~keep[: generation.prompt]).sum())
        text = ids[keep]
        maps = [dense.eager_maps(m, text[None], torch.ones(1, len(text)).bool()) for m in (golden_model, plain_model)]
        for layer, (p, plain) in enumerate(zip(*maps, strict=True)):
            golden, rounded = (by_formula(each, text, padding) for each in (p, plain))
            for name, value in golden.items():
                scale = float(value.abs().max())
                bound = 2 * float((rounded[name] - value).abs().max()) + 4 * torch.finfo(torch.float32).eps * scale
                for got, row in steps_of(generation, name, layer, number, padding):
                    want = value[0, :, row]
                    if name == "received":
                        want = torch.nn.functional.pad(want[:, : row + 1], (padding, 0))
                    assert got.shape == want.shape
                    error = float((got.double() - want).abs().max())
                    assert error <= bound, f"{name} of layer {layer}, row {row}: {error:.3g} > {bound:.3g}"
            for name in ("peak", "top_k"):
                bound = 4 * float((rounded[name] - golden[name]).abs().max()) + 1e-6
                for at, row in steps_of(generation, f"{name}_index", layer, number, padding):
                    index = at.view(at.shape[0], -1)
                    want = golden[name][0, :, row].view_as(index)
                    named = p[0, :, row].gather(-1, (index - padding).clamp(min=0))
                    assert bool(((named - want).abs() <= bound)[want > 0].all())
                    assert bool((index[want > 0] >= padding).all())


def steps_of(generation: Any, name: str, layer: int, number: int, padding: int) -> Iterator[tuple[Tensor, int]]:
    """The value of one sequence in each step that it was there for, and its row in the text alone."""
    for n, step in enumerate(generation.steps):
        if bool(step.keep[number, 0]):
            value = step[name][layer][number]
            yield (value if name == "received" else value[:, 0]), generation.prompt + n - 1 - padding


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_the_row_of_a_full_run(name, own_model, eager_model):
    generation = interp.load(own_model(name)).generate(PROMPTS, NEW, probes)
    assert len(generation.steps) == NEW
    assert_steps(generation, eager_model(name), ARCHITECTURES[name].build(kernel="eager"))


def test_a_model_that_knows_no_cache_is_measured_in_its_last_row():
    """It reads the whole text at each step."""
    entry = next(each for each in OWN_CODE if each.model == "OpenAIGPTLMHeadModel")
    generation = interp.load(entry.build()).generate(PROMPTS, NEW, probes)
    assert generation.steps[-1]["entropy"][0].shape == (3, 4, 1)
    assert_steps(generation, entry.build("eager").double(), entry.build("eager"))


@pytest.mark.parametrize("name", ["mistral", "gpt_oss"])
def test_in_low_precision(name):
    """Steps of bfloat16 lie no farther from float64 on the same weights than a plain bfloat16 run."""
    build = ARCHITECTURES[name].build
    generation = interp.load(build().bfloat16()).generate(PROMPTS, NEW, probes)
    assert_steps(generation, build(kernel="eager").bfloat16().double(), build(kernel="eager").bfloat16())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_the_prefill_is_the_capture_of_the_prompt(name, own_model):
    model = interp.load(own_model(name))
    prompt = token_ids((2, 20))
    prefill: Any = model.generate(prompt, 2, ["entropy", "peak", "received"]).prefill
    capture = model.capture(prompt, ["entropy", "peak", "received"])
    assert list(prefill.stats) == list(capture.stats)
    for statistic, values in capture.stats.items():
        for layer in range(LAYERS):
            torch.testing.assert_close(prefill[statistic][layer], values[layer], rtol=0, atol=1e-6)


def test_the_window_is_shorter_than_the_text_and_indices_go_beyond_it():
    """Else the tests above could not tell positions from indices into the cache."""
    model = ARCHITECTURES["mistral"].build()
    generation = interp.load(model).generate(PROMPTS, NEW, ["peak", "received"], min_new_tokens=NEW)
    last: Any = generation.steps[-1]
    keys = generation.prompt + NEW - 1
    for layer in range(LAYERS):
        assert last.masks[layer].offset < 7
        assert last["received"][layer].shape[-1] == keys
        assert bool((last["received"][layer][..., : keys - 7] == 0).all())
        assert bool((last["peak_index"][layer] >= keys - 7).all())
