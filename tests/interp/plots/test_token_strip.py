"""Strips of tokens: what each mark says, and that hostile tokens stay text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from interp.plots.labels import token_label
from interp.plots.token_strip import PER_LINE, Strip, token_strip

HOSTILE = "<b>x</b>"


def test_tokens_are_shown_letter_for_letter():
    assert token_label("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert token_label(" a b\n") == "␣a b↵"
    assert token_label("  ") == "␣␣"
    assert token_label("x" * 20, 5) == "xxxx…"
    assert token_label("\x00") == "�"
    assert token_label("") == ""


def test_tokens_stand_in_reading_order_with_their_numbers():
    values = np.arange(PER_LINE + 2.0)
    values[3] = np.nan
    figure: Any = token_strip([Strip([HOSTILE] * len(values), values, "relevance", framed=PER_LINE + 1)])
    heat = figure.data[0]
    grid = np.asarray(heat.z)
    assert grid.shape == (2, PER_LINE)
    assert grid[1, 1] == PER_LINE + 1
    assert (heat.zmin, heat.zmax) == (0, PER_LINE + 1)
    assert heat.text[0][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert heat.customdata[1][1] == f"{PER_LINE + 1}: &lt;b&gt;x&lt;/b&gt;"
    assert heat.hoverongaps is False
    grey, frame = figure.layout.shapes
    assert (grey.x0, grey.x1, grey.y0) == (2.5, 3.5, -0.5)
    assert frame.x0 == pytest.approx(0.51)
    assert "<b>" not in json.dumps(heat.text.tolist())


def test_numbers_of_two_signs_have_a_scale_that_is_the_same_both_ways():
    heat: Any = token_strip([Strip(["a", "b"], np.array([-1.0, 3.0]), "product")]).data[0]
    assert (heat.zmin, heat.zmax) == (-3, 3)


def test_numbers_that_are_all_zero_are_drawn():
    assert token_strip([Strip(["a", "b"], np.zeros(2), "relevance")]).data[0].zmax == 1


def test_a_long_text_is_shown_in_spans_by_their_strongest_token():
    values = np.zeros(5000)
    values[4321] = -2.0
    figure: Any = token_strip([Strip([str(n) for n in range(5000)], values, "product", framed=4999)])
    heat = figure.data[0]
    assert np.asarray(heat.z).size < 700
    line, column = divmod(4321 // 9, PER_LINE)
    assert heat.z[line][column] == -2
    assert heat.text[line][column] == "4321"
    assert "strongest of tokens 4320 to 4328" in heat.customdata[line][column]
    assert "of each 9 tokens" in heat.colorbar.title.text


def test_two_strips_have_a_title_each():
    strips = [Strip(["a"], np.ones(1), "relevance"), Strip(["b"] * 30, np.ones(30), "relevance, decoder")]
    figure: Any = token_strip(strips)
    assert [note.text for note in figure.layout.annotations] == ["relevance", "relevance, decoder"]
    assert len(figure.data) == 2
