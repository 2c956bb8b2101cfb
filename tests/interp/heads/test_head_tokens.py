"""The tokens that a head promotes, against its logit attributions one by one; and what it and attributions look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import interp
from interp.errors import InputError
from interp.heads import HeadTokens, head_tokens, logit_attribution
from tests.interp.tiny import VOCABULARY, token_ids
from tests.interp.words import text_of

IDS = token_ids((1, 12), seed=5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_each_effect_is_the_attribution_to_that_token(name: str, own_model):
    model = interp.load(own_model(name))
    found = head_tokens(model, IDS, "L1H2", 7, k=VOCABULARY)
    rows = found.table[found.table["sign"] == "promoted"]
    assert sorted(rows["id"]) == list(range(VOCABULARY))
    assert list(rows["attribution"]) == sorted(rows["attribution"], reverse=True)
    for token in (0, 17, 60):
        expected = logit_attribution(model, IDS, token, 7).heads[0, 1, 2]
        assert float(rows.loc[rows["id"] == token, "attribution"].iloc[0]) == pytest.approx(expected, abs=1e-5)
    assert float(rows["above_mean"].mean()) == pytest.approx(0, abs=1e-6)
    assert found.is_capped == (name == "gemma2")


def test_it_is_kept_and_drawn(own_model, tokenizer, tmp_path):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    found = head_tokens(model, text_of(IDS[0]), "1.3", k=4)
    assert (found.head, found.position) == ("L1H3", 12)
    assert HeadTokens.load(found.save(tmp_path / "kept")).table.equals(found.table)
    bars = found.plot().data[0]
    assert len(bars.x) == 8
    assert list(bars.x) == sorted(bars.x, reverse=True)
    assert "promoted: " in found.summary()


def test_markup_in_tokens_is_shown_letter_for_letter(own_model, monkeypatch):
    model = interp.load(own_model("llama"))
    monkeypatch.setattr(type(model), "token_strings", lambda self, ids: ["<b>&x"] * len(ids))
    found = head_tokens(model, IDS, "L0H0", k=2)
    figure = found.plot()
    assert set(figure.layout.yaxis.ticktext) == {"&lt;b&gt;&amp;x"}
    assert "<b>" not in figure.layout.title.text
    attribution = logit_attribution(model, IDS, 5, against=6)
    for drawn in (attribution.plot(), attribution.plot_parts()):
        assert "<b>" not in drawn.layout.title.text
    assert "<b>" not in attribution._repr_html_().replace("<b>LogitAttribution</b>", "")


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (IDS, {"head": "L9H0"}, "^head 'L9H0': layer 9 does not exist"),
        (IDS, {"head": "L0H9"}, "^head 'L0H9' does not exist"),
        (IDS, {"head": "L0H0", "k": 0}, f"^k: expected a whole number from 1 to {VOCABULARY}, got 0"),
        (IDS, {"head": "L0H0", "position": [1, 2]}, "^position: expected a whole number"),
        (IDS, {"head": "L0H0", "position": 12}, "^position: there is no position 12"),
        (token_ids((2, 5)), {"head": "L0H0"}, "^inputs: expected one sequence, got 2"),
    ],
)
def test_bad_input(ids: Any, options: dict[str, Any], message: str, own_model):
    with pytest.raises(InputError, match=message):
        head_tokens(interp.load(own_model("llama")), ids, **options)


def test_grey_is_where_there_is_no_head(own_model):
    found = logit_attribution(interp.load(own_model("llama")), IDS, 5)
    found.heads[:, 0, 3] = np.nan
    assert np.isnan(found.plot().data[0].z[0, 3])
    assert len(found.to_frame()) == found.heads[0].size - 1 + len(found.parts)
    assert all(name != "L0H3" for name, _ in found.strongest(7))
