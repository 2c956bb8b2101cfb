"""Maps of a hooked model know their tokens: on either side, whatever the padding, through every narrowing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.views.region import region
from interp.views.token_map import TokenMap
from interp_kernels import AttentionMap
from tests.interp.dense import eager_maps
from tests.interp.tiny import ARCHITECTURES, right_padded, tiny_t5, token_ids
from tests.interp.words import text_of
from tests.kernels.test_memory import Allocations

WORDS = ["w5", "w9", "w4", "w7", "w8"]


def axis_texts(figure: Any) -> tuple[list[str], list[str]]:
    """What is written at the rows and at the columns."""
    return list(figure.layout.yaxis.ticktext), list(figure.layout.xaxis.ticktext)


def test_maps_of_a_model_know_the_tokens_of_their_text(own_model, tokenizer):
    lazy = interp.load(own_model("llama"), tokenizer=tokenizer).maps(" ".join(WORDS))[1]
    assert isinstance(lazy, TokenMap)
    assert isinstance(lazy, AttentionMap)
    assert repr(lazy).startswith("TokenMap(B=1, Hq=4, Tq=6, Tk=6")
    assert list(lazy.tokens().queries) == ["<s>", *WORDS]
    assert lazy.tokens().keys == lazy.tokens().queries
    escaped = ["&lt;s&gt;", *WORDS]
    assert axis_texts(lazy.plot(2)) == (escaped, escaped)
    assert axis_texts(lazy.plot(2, rows=(2, 4), cols=(0, 1))) == (escaped[2:4], escaped[:1])


def test_token_ids_without_a_tokenizer_are_shown_as_they_are(own_model):
    lazy = interp.load(own_model("llama")).maps([7, 8, 9])[0]
    assert list(lazy.tokens().keys) == ["7", "8", "9"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_no_token_and_is_left_out_of_what_is_shown(side: str, own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    texts = [" ".join(WORDS), " ".join(WORDS[:2])]
    lazy = model.maps(model.batch(texts, padding=side))[0]
    short = ["<s>", *WORDS[:2]]
    missing: list[str | None] = [None] * 3
    assert list(lazy.tokens(1).keys) == (short + missing if side == "right" else missing + short)
    assert list(lazy.tokens(0).keys) == ["<s>", *WORDS]
    first = 0 if side == "right" else 3
    assert lazy.extent(1) == ((first, first + 3), (first, first + 3))
    found = lazy.region(1, batch=1)
    assert (found.rows, found.cols) == ((first, first + 3), (first, first + 3))
    assert axis_texts(lazy.plot(1, batch=1))[0] == ["&lt;s&gt;", *WORDS[:2]]
    # Asked for by name, padded rows are there: hidden, and named.
    everything = lazy.region(1, batch=1, rows=(0, 6), cols=(0, 6))
    assert np.isnan(everything.values).all(axis=1).tolist() == [token is None for token in lazy.tokens(1).queries]
    assert axis_texts(lazy.plot(1, batch=1, rows=(0, 6), cols=(0, 6)))[0].count("(padding)") == 3
    # And it has the numbers that it has alone.
    alone = model.maps(texts[1])[0].region(1)
    np.testing.assert_allclose(found.values, alone.values, atol=1e-5)


def test_padded_queries_count_in_no_square(own_model, eager_model):
    """Of an encoder they see the tokens; the mean of a square must not hold them."""
    lists, ids, keep = right_padded((21, 40))
    p = eager_maps(eager_model("bert"), ids, keep)[1][0, 2].numpy()
    lazy = interp.load(own_model("bert")).maps(lists)[1]
    found = lazy.region(2, cells=3)
    assert (found.rows, found.cols, found.block) == ((0, 24), (0, 24), 8)
    expected = [[p[r : min(r + 8, 21), c : min(c + 8, 21)].mean() for c in (0, 8, 16)] for r in (0, 8, 16)]
    np.testing.assert_allclose(found.values, expected, atol=3e-5)
    made = interp.views.Pyramid.build(lazy, 2)
    np.testing.assert_allclose(made.region(cells=3).values, found.values, rtol=1e-5)
    # Of squares that are asked for outside, nothing is seen.
    assert np.isnan(region(lazy, 2, rows=(24, 40), cells=3).values).all()


def test_cross_attention_has_the_decoders_tokens_down_and_the_encoders_across(tokenizer):
    model = interp.load(tiny_t5(), tokenizer=tokenizer)
    batch = model.batch([" ".join(WORDS), "w3 w6"], decoder=["w7 w8", "w9"])
    maps = model.maps(batch)
    assert list(maps["encoder.0"].tokens(1).queries) == ["<s>", "w3", "w6", None, None, None]
    assert list(maps["decoder.1"].tokens(1).keys) == ["<s>", "w9", None]
    cross = maps["cross.0"]
    assert cross.shape[2:] == (3, 6)
    assert list(cross.tokens(1).queries) == ["<s>", "w9", None]
    assert list(cross.tokens(1).keys) == ["<s>", "w3", "w6", None, None, None]
    rows, cols = axis_texts(cross.plot(0, batch=1))
    assert rows == ["&lt;s&gt;", "w9"]
    assert cols == ["&lt;s&gt;", "w3", "w6"]
    assert cross.region(0, batch=1).first_query == 0


def test_narrowing_keeps_the_tokens(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    lazy = model.maps([" ".join(WORDS), " ".join(WORDS[:2])])[0]
    one = lazy.head(1, 3)
    assert isinstance(one, TokenMap)
    assert list(one.tokens().queries) == ["<s>", *WORDS[:2], None, None, None]
    assert list(lazy.head(-2, 0).tokens().queries) == ["<s>", *WORDS]
    some = lazy.of_rows(slice(1, 4)).of_rows(slice(1, -1))
    assert list(some.tokens(0).queries) == ["w9"]
    assert list(some.tokens(0).keys) == ["<s>", *WORDS]
    assert some.region(2).map_shape == (1, 6)
    gradient = torch.ones(*lazy.shape[:3], lazy.operands.v.shape[-1])
    assert list(lazy.weighted_by(gradient).tokens(0).keys) == ["<s>", *WORDS]
    torch.testing.assert_close(one.dense(), lazy.dense()[1:, 3:])


def test_a_model_that_reads_no_tokens_has_positions(own_model):
    lazy = interp.load(own_model("llama")).maps([7, 8, 9])[0]
    bare = TokenMap.of(lazy, Batch(None, None), "vision.0", None)
    assert (bare.tokens().queries, bare.tokens().keys) == ((), ())
    assert bare.plot(0).layout.xaxis.ticktext is None
    plain = TokenMap(lazy.operands, lazy.lse)
    assert plain.tokens().keys == ()
    assert plain.counted() is None
    assert plain.head(0, 1).of_rows(slice(0, 2)).region(0).map_shape == (2, 3)


def test_tokens_that_are_not_what_is_attended_to_are_not_shown(own_model, tokenizer):
    """Where a model attends over more or fewer positions than it reads ids, a token by number would be another's."""
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    lazy = model.maps([7, 8, 9])[0]
    other = TokenMap.of(lazy, model.batch([7, 8]), 0, tokenizer)
    assert other.tokens().queries == ()


def test_tokens_are_made_when_they_are_asked_for(own_model, monkeypatch):
    from interp.views import map_origin

    asked = []
    made = map_origin.token_row
    monkeypatch.setattr(map_origin, "token_row", lambda *given, **named: asked.append(1) or made(*given, **named))
    model = interp.load(own_model("llama"))
    lazy = model.maps(Batch(token_ids((2, 12)), torch.ones(2, 12, dtype=torch.bool)))[1]
    lazy.head(0, 1).region(0)
    assert not asked
    assert len(lazy.head(1, 1).tokens().queries) == 12
    assert len(lazy.tokens(0).queries) == 12
    assert len(asked) == 2


def test_a_figure_of_it_is_that_of_its_region_and_tokens(own_model, tokenizer):
    from interp.plots.attention_map import map_figure

    lazy = interp.load(own_model("llama"), tokenizer=tokenizer).maps(text_of(token_ids((60,))))[1]
    arguments: dict[str, Any] = {"rows": (10, 50), "cols": (0, 30), "op": "max", "weighting": "no_sink", "cells": 16}
    figure = lazy.plot(1, **arguments, title="a head", colours=(0, 0.1), dark=True)
    same = map_figure(lazy.region(1, **arguments), lazy.tokens(), title="a head", colours=(0, 0.1), dark=True)
    assert json.loads(figure.to_json()) == json.loads(same.to_json())


def test_a_sequence_or_head_that_does_not_exist(own_model):
    lazy = interp.load(own_model("llama")).maps([7, 8, 9])[0]
    for ask in (lazy.tokens, lazy.counted, lazy.extent):
        with pytest.raises(InputError, match="batch: expected a whole number from 0 to 0, got 1"):
            ask(1)
    with pytest.raises(InputError, match="head: expected a whole number from 0 to 3, got 4"):
        lazy.plot(4)


def test_a_figure_of_a_long_text_takes_a_small_part_of_what_its_map_would():
    tokens = 16_384
    model = interp.load(ARCHITECTURES["llama"].build(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1))
    with Allocations() as seen:
        figure: Any = model.maps(token_ids((1, tokens)), beyond_context=True)[0].plot(1)
    assert figure.data[0].z.shape == (128, 128)
    assert figure.layout.title.text == "L0H1"
    # Of one head; the model's own run, O(T) of all heads, is among what was allocated.
    assert 0 < seen.peak < 4 * tokens**2 / 20
    assert len(json.dumps(figure.to_plotly_json(), default=lambda x: x.tolist())) < 1_000_000
