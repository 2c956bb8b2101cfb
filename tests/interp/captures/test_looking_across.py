"""Cross attention of a language model that writes by itself: from its text, padding left out, to what is no text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp import edits
from tests.interp.zoo.multimodal import MULTIMODAL

PATCHES, PADDING = 5, 3
"""Of an image of 2 x 2 patches with one more for all of it; columns before the second text."""
CROSS = ["cross.1", "cross.3"]
IMAGE = torch.randn(2, 1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[59, 5, 6, 7, 8, 9, 10], [2, 2, 2, 59, 7, 8, 9]])
KEEP = torch.tensor([[1] * 7, [0] * PADDING + [1] * 4])


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load(next(each for each in MULTIMODAL if each.model.startswith("Mllama")).build())


def inputs(rows: slice, columns: slice) -> dict[str, Tensor]:
    ids = IDS[rows, columns]
    return {
        "input_ids": ids,
        "attention_mask": KEEP[rows, columns],
        "pixel_values": IMAGE[rows],
        "aspect_ratio_ids": torch.ones(len(ids), 1, dtype=torch.int64),
        "aspect_ratio_mask": torch.ones(len(ids), 1, 1, dtype=torch.int64),
        "cross_attention_mask": torch.ones(*ids.shape, 1, 1, dtype=torch.int64),
    }


BATCH = inputs(slice(None), slice(None))


def test_padded_queries_do_not_count(model: interp.HookedModel) -> None:
    probes: list[Any] = ["entropy", interp.Received(), interp.Entropy(reduce="mean", name="mean")]
    both = model.capture(BATCH, probes, value_norms=True)
    alone = model.capture(inputs(slice(1, 2), slice(PADDING, None)), probes)
    for layer in CROSS:
        assert both["entropy"][layer][1, :, :PADDING].isnan().all()
        torch.testing.assert_close(
            both["entropy"][layer][1, :, PADDING:], alone["entropy"][layer][0], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(both["mean"][layer][1], alone["mean"][layer][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both["received"][layer][1], alone["received"][layer][0], rtol=1e-4, atol=1e-5)
        assert both["value_norm"][layer].shape == (2, 2, PATCHES)
        assert both["value_norm"][layer].isfinite().all()


def test_its_queries_are_the_text_and_its_keys_are_none(model: interp.HookedModel) -> None:
    capture = model.capture(BATCH, ["received", "entropy"])
    for layer in CROSS:
        assert capture.queries(layer).tokens == [
            [str(i) for i in row[keep.bool()].tolist()] for row, keep in zip(IDS, KEEP, strict=True)
        ]
        assert capture.keys(layer).tokens == []
    frame = capture.to_frame("received")
    assert frame[frame["layer"] == "cross.1"]["key_token"].isna().all()
    frame = capture.to_frame("entropy")
    assert set(frame[(frame["layer"] == "cross.1") & (frame["batch"] == 1)]["token"]) == {"59", "7", "8", "9"}
    lazy = model.maps(BATCH, ["cross.1"])["cross.1"].tokens(1)
    assert (lazy.queries, lazy.keys) == ([None] * PADDING + ["59", "7", "8", "9"], ())


def test_means_leave_padding_out(model: interp.HookedModel) -> None:
    """The reference is the second text, which is the same with padding and without."""
    heads = ["cross.L1H0", "cross.L3H2"]
    logits = []
    for rows, columns in ((slice(1, 2), slice(None)), (slice(1, 2), slice(PADDING, None))):
        reference = model.capture(inputs(rows, columns), [], heads=heads, outputs=True)
        with model.edited(edits.mean_ablate(*heads, reference=reference)):
            logits.append(model.capture(BATCH, [], logits=True).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_each_step_of_a_generation_looks_at_the_image(model: interp.HookedModel) -> None:
    generation = model.generate(BATCH, 3, ["entropy", "received"], min_new_tokens=3)
    longer = {**BATCH, "input_ids": generation.ids, "attention_mask": generation.keep.long()}
    longer["cross_attention_mask"] = torch.ones(*generation.ids.shape, 1, 1, dtype=torch.int64)
    full = model.capture(longer, ["entropy"])
    for number, step in enumerate(generation.steps):
        for layer in CROSS:
            expected = full["entropy"][layer][:, :, generation.prompt + number - 1]
            torch.testing.assert_close(step["entropy"][layer][:, :, 0], expected, rtol=1e-4, atol=1e-5)
            assert step["received"][layer].shape[2] == PATCHES
            assert step.keys(layer).tokens == []


def test_a_language_model_that_is_called_a_tower_writes_all_steps() -> None:
    """Idefics3's layers are "text.0" and so on."""
    entry = next(each for each in MULTIMODAL if each.model.startswith("Idefics3"))
    given = {name: value[:1] for name, value in entry.inputs().items()}
    model = interp.load(entry.build())
    asked: list[str] = []

    def probes(step: interp.Step) -> list[str]:
        asked.append(step.stack)
        return ["entropy"]

    generation = model.generate(given, 4, ["entropy"], min_new_tokens=4)
    assert [step.layers for step in generation.steps] == [("text.0", "text.1")] * 4
    assert generation.stacked("entropy")["text.1"].shape[2] == 4
    full = model.capture({**given, "input_ids": generation.ids, "attention_mask": generation.keep.long()}, ["entropy"])
    rows = full["entropy"]["text.1"][:, :, generation.prompt - 1 : -1]
    torch.testing.assert_close(generation.stacked("entropy")["text.1"], rows, rtol=1e-4, atol=1e-5)
    model.generate(given, 2, probes, min_new_tokens=2)
    assert set(asked) == {"text"}
