"""A trained model generates by induction: the row that produces a token looks at its earlier copy's successor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import interp

SPAN, SHOWN, NEW = 40, 5, 12
INDUCTION_HEAD = (2, 5)


@pytest.fixture(scope="module")
def demo() -> interp.HookedModel:
    return interp.load("demo")


def repeated(seed: int) -> Tensor:
    """The start token, then random ordinary tokens that all differ, then the first of them again."""
    drawn = 20 + torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:SPAN]
    return torch.cat([torch.tensor([0]), drawn, drawn[:SHOWN]])


def test_an_induction_head_looks_at_the_token_that_comes_next(demo):
    layer, head = INDUCTION_HEAD
    prompts = torch.stack([repeated(seed) for seed in range(4)])
    generation = demo.generate(prompts, NEW, ["peak"])
    assert torch.equal(generation.new_ids, prompts[:, 1 + SHOWN : 1 + SHOWN + NEW])
    # The query of new token n repeats column SHOWN + n; the column after it holds what the model writes.
    expected = torch.arange(NEW) + SHOWN + 1
    assert bool((generation.stacked("peak_index")[layer][:, head] == expected).float().mean() > 0.9)
    assert float(generation.stacked("peak")[layer][:, head].median()) > 0.5


def test_masses_follow_the_text(demo):
    """What is read in the prompt and what in the answer, by weights that grow with it: together, the whole row."""

    def probes(step: interp.Step) -> list[Any]:
        is_new = torch.arange(step.keys) >= step.prompt
        return [interp.KeyMass(torch.stack([~is_new, is_new], dim=1).float(), name="prompt_and_answer")]

    generation = demo.generate("The ferryman of Port Halow said", 8, probes)
    for layer, mass in generation.stacked("prompt_and_answer").items():
        assert mass.shape == (1, demo.shape.heads, 8, 2), layer
        torch.testing.assert_close(mass.sum(dim=-1), torch.ones(1, demo.shape.heads, 8))
        assert bool((mass[:, :, 0, 1] == 0).all())
        assert bool((mass[:, :, 1:, 1] > 0).all())


def test_strings_to_stop_at(demo):
    free = demo.generate("The ferryman of Port Halow said", 20).text
    assert isinstance(free, str)
    word = free.split()[1]
    stopped = demo.generate("The ferryman of Port Halow said", 20, stop_strings=[word]).text
    assert free.startswith(stopped)
    assert word in stopped
    assert len(stopped) < len(free)


def test_what_is_kept_grows_with_the_tokens_and_not_with_their_square(demo):
    """Twice the new tokens take twice the bytes of statistics, and no step keeps as much as a row of keys."""

    def kept(new: int) -> int:
        generation = demo.generate(repeated(0), new, ["entropy", "peak"], prefill_probes=None)
        values = [value for step in generation.steps for each in step.stats.values() for value in each.values()]
        return sum(value.untyped_storage().nbytes() for value in values)

    assert kept(40) == 2 * kept(20) == 40 * demo.shape.layers * demo.shape.heads * (4 + 4 + 8)


def test_the_cache_is_the_librarys_dynamic_one(demo, monkeypatch):
    made: list[Any] = []
    init = DynamicCache.__init__

    def remembered(self: DynamicCache, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DynamicCache, "__init__", remembered)
    demo.generate(repeated(0), 3)
    assert len(made) == 1
    assert made[0].get_seq_length() == len(repeated(0)) + 2
