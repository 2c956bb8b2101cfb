"""The tidy table of a capture, row by row, and how a capture shows itself in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
import transformers
from pandas.api.types import is_integer_dtype

import interp
from interp.captures import frame as capture_frame
from interp.captures.capture import Capture
from interp.errors import InputError
from interp.inputs.batch import Batch
from tests.interp.tiny import ARCHITECTURES, COMMON, HEADS, LAYERS, randomised, right_padded, token_ids

LENGTHS = (7, 5)
EDGES = (0, 2, 5)


@pytest.fixture(scope="module")
def capture(own_model, tokenizer) -> Capture:
    _, ids, keep = right_padded(LENGTHS)
    probes = [
        interp.Entropy(),
        interp.Peak(),
        interp.Received(),
        interp.OffsetMass((0, 3)),
        interp.DistanceHistogram(EDGES, reduce="mean"),
        interp.Pooled(4),
    ]
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    return model.capture(Batch(ids, keep), probes, value_norms=True)


def test_one_row_for_each_query(capture: Capture):
    frame = capture.to_frame("entropy")
    assert list(frame.columns) == ["layer", "head", "kv_head", "batch", "query", "token", "value"]
    assert len(frame) == LAYERS * HEADS * sum(LENGTHS)
    assert all(is_integer_dtype(frame[column]) for column in ("layer", "head", "kv_head", "batch", "query"))
    for row in frame.itertuples():
        assert row.value == float(capture["entropy"][row.layer][row.batch, row.head, row.query])
        assert row.token == capture.tokens[row.batch][row.query]
        assert row.kv_head == row.head // 2


def test_one_row_for_each_key(capture: Capture):
    frame = capture.to_frame("received")
    assert list(frame.columns) == ["layer", "head", "kv_head", "batch", "key", "key_token", "value"]
    assert len(frame) == LAYERS * HEADS * sum(LENGTHS)
    for row in frame.itertuples():
        assert row.value == float(capture["received"][row.layer][row.batch, row.head, row.key])
        assert row.key_token == capture.tokens[row.batch][row.key]


def test_one_row_for_each_column(capture: Capture):
    frame = capture.to_frame("offset_mass")
    assert len(frame) == LAYERS * HEADS * sum(LENGTHS) * 2
    assert sorted(set(frame["column"])) == [0, 3]
    for row in frame.itertuples():
        expected = capture["offset_mass"][row.layer][row.batch, row.head, row.query, (0, 3).index(row.column)]
        assert row.value == float(expected)


def test_averages_have_no_query(capture: Capture):
    frame = capture.to_frame("distance_histogram")
    assert list(frame.columns) == ["layer", "head", "kv_head", "batch", "column", "value"]
    assert len(frame) == LAYERS * HEADS * 2 * 2
    assert sorted(set(frame["column"])) == [0, 2], "left edges"


def test_squares_of_the_map(capture: Capture):
    frame = capture.to_frame("pooled")
    assert list(frame.columns) == ["layer", "head", "kv_head", "batch", "query_block", "key_block", "value"]
    row = frame.iloc[-1]
    assert row["value"] == float(capture["pooled"][1][1, 3, 1, 1])


def test_values_have_kv_heads_only(capture: Capture):
    frame = capture.to_frame("value_norm")
    assert list(frame.columns) == ["layer", "kv_head", "batch", "key", "key_token", "value"]
    assert set(frame["kv_head"]) == {0, 1}


def test_all_statistics_in_one_table(capture: Capture):
    frame = capture.to_frame()
    assert list(frame.columns) == list(capture_frame.COLUMNS)
    assert list(frame["statistic"].unique()) == list(capture.stats)
    for name in capture.stats:
        rows = frame[frame["statistic"] == name].dropna(axis=1, how="all").drop(columns="statistic")
        alone = capture.to_frame(name)
        assert list(rows.columns) == list(alone.columns)
        for column in alone:
            assert rows[column].tolist() == alone[column].tolist(), (name, column)


def test_chosen_heads_keep_their_numbers():
    model = interp.load(ARCHITECTURES["llama"].build(num_attention_heads=16, num_key_value_heads=4, head_dim=8))
    found = model.capture(token_ids((1, 5)), ["entropy"], heads=["L1H6", "L1H13"], value_norms=True)
    assert set(zip(found.to_frame("entropy")["head"], found.to_frame("entropy")["kv_head"], strict=True)) == {
        (6, 1),
        (13, 3),
    }
    assert set(found.to_frame("value_norm")["kv_head"]) == {1, 3}


def test_both_sides_of_an_encoder_decoder():
    config = transformers.T5Config(
        **COMMON, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    model = interp.load(randomised(transformers.T5ForConditionalGeneration(config).eval()))
    _, ids, keep = right_padded((8, 5))
    _, decoder_ids, decoder_keep = right_padded((3, 4), seed=1)
    inputs = {"input_ids": ids, "attention_mask": keep, "decoder_input_ids": decoder_ids}
    found = model.capture(
        inputs | {"decoder_attention_mask": decoder_keep.long()}, ["entropy", "received"], value_norms=True
    )
    counts = {"encoder": (13, 13), "decoder": (7, 7), "cross": (7, 13)}
    for stack, (queries, keys) in counts.items():
        layer = f"{stack}.0"
        entropy, received = found.to_frame("entropy"), found.to_frame("received")
        assert (entropy["layer"] == layer).sum() == 4 * queries
        assert (received["layer"] == layer).sum() == 4 * keys
        row = entropy[(entropy["layer"] == layer) & (entropy["batch"] == 1)].iloc[2]
        assert row["token"] == str(int((ids if stack == "encoder" else decoder_ids)[1, 2]))
    assert found.queries("cross.0").tokens == found.queries("decoder.0").tokens
    assert found.keys("cross.0").tokens == found.tokens
    for stack, kept in (("encoder", keep), ("decoder", decoder_keep), ("cross", keep)):
        assert torch.equal(found["value_norm"][f"{stack}.0"].isnan(), ~kept[:, None].expand(-1, 4, -1)), stack


def test_bfloat16_values_are_shown():
    model = interp.load(ARCHITECTURES["llama"].build().bfloat16())
    found = model.capture(token_ids((1, 3)), (), outputs=True)
    frame = found.to_frame()
    assert len(frame) == LAYERS * HEADS * 3 * 8
    assert frame["value"].iloc[-1] == float(found["output"][1][0, 3, 2, 7])


def test_a_table_that_is_too_long_is_refused(capture: Capture, monkeypatch: pytest.MonkeyPatch):
    rows = LAYERS * 2 * HEADS * 7
    monkeypatch.setattr(capture_frame, "MOST_ROWS", rows)
    assert isinstance(capture.to_frame("entropy"), pd.DataFrame)
    monkeypatch.setattr(capture_frame, "MOST_ROWS", rows - 1)
    with pytest.raises(
        InputError, match=rf"^the table would have {rows} rows \(entropy: {rows}\), at most .* to_frame\(name\)"
    ):
        capture.to_frame("entropy")


def test_no_statistics_and_unknown_ones(own_model, capture: Capture):
    with pytest.raises(InputError, match=r"no statistics, so there is nothing to tabulate"):
        interp.load(own_model("llama")).capture(token_ids((1, 3)), ()).to_frame()
    with pytest.raises(InputError, match=r"no statistic 'entrpy'; did you mean 'entropy'\?"):
        capture.to_frame("entrpy")


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_notebook_shows_what_was_captured(capture: Capture):
    shown = Tags(capture._repr_html_())
    for part in (
        "2 x 7 tokens",
        "layers 0 to 1",
        "4 heads on 2 KV heads",
        "entropy",
        "batch 2, head 4, query 7; float32",
    ):
        assert part in shown.text
    assert "OffsetMass(offsets=(0, 3))" in shown.text
    assert "Entropy() 2 batch 2, head 4, query 7; float32 448 bytes" in shown.text, "of both layers, 4 bytes a number"
    assert torch.__version__ in shown.text
    assert len(capture._repr_html_()) < 5000, "no tensors"


def test_what_a_notebook_shows_is_escaped(own_model):
    model = own_model("llama")
    plain = interp.load(model)
    named = interp.HookedModel(plain.host, None, "<script>alert(1)</script>")
    shown = named.capture(token_ids((1, 3)), [interp.Entropy(name="<img src=x>")])
    assert not Tags(shown._repr_html_()).names & {"script", "img"}
    assert "<img src=x>" in Tags(shown._repr_html_()).text
