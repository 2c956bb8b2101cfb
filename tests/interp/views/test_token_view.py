"""What a token view holds, what fits into one, and what is refused. The widget itself: test_token_view_in_browser.py."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp.views import TokenView, token_links, token_view
from interp.views.token_budget import LIMIT, Room
from interp.views.token_html import fragment, script
from interp.views.token_payload import as_json, quantised
from interp_kernels import AttentionMap, Mask, attend
from tests.interp.tiny import VOCABULARY, tiny_t5, token_ids
from tests.interp.views.hostile import HOSTILE
from tests.interp.words import text_of, words_tokenizer

Build = Callable[[str], PreTrainedModel]
T, HEADS = 60, 3


def drawn_map(tokens: int = T, heads: int = HEADS, mask: Mask | None = None) -> AttentionMap:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, heads, tokens, 4, generator=generator) for _ in range(3))
    return attend(q, k, v, mask=mask or Mask.causal()).map


def decoded(text: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.load("demo")


@pytest.fixture(scope="module")
def prose() -> str:
    return (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")[:2400]


@pytest.mark.parametrize("mask", [Mask.causal(), Mask.full(), Mask.causal(window=4)], ids=["causal", "full", "window"])
def test_the_payload_holds_the_links(mask: Mask) -> None:
    view = token_view(drawn_map(mask=mask), [f"t{n % 7}" for n in range(T)], start=20, size=15, top=4)
    payload = json.loads(json.dumps(view.payload))
    strings = payload["strings"]
    assert [strings[place] for place in payload["tokens"]] == [f"t{n % 7}" for n in range(20, 35)]
    assert len(set(strings)) == len(strings)
    assert (payload["start"], payload["length"], payload["top"]) == (20, T, 4)
    for head, (name, links) in zip(payload["heads"], view.links.items(), strict=True):
        assert head["name"] == name
        keys = decoded(head["keys"], "<i4", 15, 4)
        assert (keys == links.keys).all()
        assert (decoded(head["weights"], "<f4", 15, 4) == links.key_weights).all()
        places = decoded(head["key_strings"], "<i4", 15, 4)
        assert all(strings[p] == f"t{k % 7}" for p, k in zip(places[keys >= 0], keys[keys >= 0], strict=True))
        queries = decoded(head["queries"], "<u2", 15, 4).astype(int)
        assert (np.where(queries == 65535, -1, queries + 20) == links.queries).all()
        assert (decoded(head["query_weights"], "<f4", 15, 4) == links.query_weights).all()
        sums = decoded(head["sums"], "<f4", 5, 15)
        wanted = (links.before, links.within, links.after, links.first, links.received)
        assert all((sum_ == value).all() for sum_, value in zip(sums, wanted, strict=True))
        first, end = decoded(head["seen"], "<u2", 2, 15)
        inside = np.arange(15)
        assert ((inside >= first[:, None]) & (inside < end[:, None]) == links.visible).all()
        assert head["is_packed"] == mask.is_causal
        tile = np.zeros((15, 15))
        if head["is_packed"]:
            tile[np.tril_indices(15)] = decoded(head["tile"], "u1", 120)
        else:
            tile = decoded(head["tile"], "u1", 15, 15)
        error = np.abs(head["scale"] * (tile / 255) ** 2 - links.weights).max()
        assert error == pytest.approx(head["error"], rel=1e-6)
        assert error <= head["scale"] / 255


def test_rounding_keeps_small_weights_and_says_its_largest_error() -> None:
    weights = np.append(np.geomspace(1e-6, 0.8, 1000), 0.0)
    steps, scale, error = quantised(weights)
    back = scale * (steps / 255) ** 2
    assert scale == weights.max()
    assert steps[-1] == 0
    assert error == np.abs(back - weights).max()
    assert scale / 512 < error <= scale / 255
    # Near zero the steps are fine: half a step of the root beside the root itself.
    small = weights < 0.01
    assert (np.abs(np.sqrt(back) - np.sqrt(weights))[small] <= np.sqrt(scale) / 510 + 1e-12).all()
    assert quantised(np.zeros((2, 2)))[1:] == (0.0, 0.0)


def test_a_text_is_run_and_shown_as_its_maps_are(model: HookedModel, prose: str) -> None:
    view = interp.token_view(model, prose, ["L2H5", (1, 5)], start=100, size=50, top=3)
    assert list(view.links) == ["L2H5", "L1H5"]
    batch = model.batch(prose)
    lazy = model.maps(batch)[2]
    own = token_links(lazy, batch.token_rows[0], head=5, start=100, size=50, top=3)
    assert (view.links["L2H5"].weights == own.weights).all()
    assert (view.links["L2H5"].keys == own.keys).all()
    again = token_view(
        {2: lazy, 1: model.maps(batch)[1]},
        batch.token_rows[0],
        ["L2H5", "L1H5"],
        start=100,
        size=50,
        top=3,
        title="demo",
    )
    assert again.payload == view.payload
    of = len(batch.token_rows[0].tokens)
    assert view.payload["window"] == f"Tokens 100 to 149 of {of}"
    assert view.payload["notes"] == ["This page holds a part of the text; start=150 shows another."]
    assert f"L2H5, L1H5; tokens 100 to 149 of {of}" in repr(view)


def test_without_a_choice_all_heads_are_shown_over_as_much_as_fits(model: HookedModel, prose: str) -> None:
    view = token_view(model, prose)
    assert len(view.links) == 24
    assert 64 <= len(view.payload["tokens"]) < 256
    assert 600_000 < len(view.html().encode()) < LIMIT
    few = token_view(model, prose, "L0H1")
    assert len(few.payload["tokens"]) == 256
    whole = token_view(model, "A short text.")
    assert len(whole.payload["tokens"]) == whole.payload["length"]
    assert whole.payload["notes"] == []


def test_heads_that_do_not_fit_are_left_out_and_that_is_said(model: HookedModel, prose: str) -> None:
    view = token_view(model, prose, size=256)
    shown = len(view.links)
    assert 5 <= shown < 24
    assert list(view.links)[:3] == ["L0H0", "L0H1", "L0H2"]
    assert f"It has room for the first {shown} of 24 heads" in view.payload["notes"][1]


def test_what_does_not_fit_is_refused_before_the_run_with_what_would(
    model: HookedModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [(layer, head) for layer in range(4) for head in range(6)]
    with monkeypatch.context() as patched:
        patched.setattr(HookedModel, "maps", lambda *_, **__: pytest.fail("the model was run"))
        with pytest.raises(
            InputError, match=r"24 heads over 256 tokens .* fit with size=256 and size=\d+ fits"
        ) as refused:
            token_view(model, prose, heads, size=256)
    fit = re.search(r"(\d+) heads fit with size=256 and size=(\d+) fits", str(refused.value))
    assert fit is not None
    most, size = map(int, fit.groups())
    assert len(token_view(model, prose, heads, size=size).links) == 24
    with pytest.raises(InputError, match="24 heads over"):
        token_view(model, prose, heads, size=size + 1)
    assert len(token_view(model, prose, heads[:most], size=256).links) == most
    with pytest.raises(InputError, match=f"{most + 1} heads over 256"):
        token_view(model, prose, heads[: most + 1], size=256)


@pytest.mark.parametrize("tokens", ["hostile", "all different", "all long", "all special"])
@pytest.mark.parametrize(("heads", "size", "top"), [(1, 5, 1), (HEADS, 40, 8), (HEADS, 200, 64)])
@pytest.mark.parametrize("mask", [Mask.causal(), Mask.full()], ids=["causal", "full"])
def test_no_page_is_larger_than_was_foreseen(tokens: str, heads: int, size: int, top: int, mask: Mask) -> None:
    count = 300
    texts = {
        "hostile": [HOSTILE[n % len(HOSTILE)] for n in range(count)],
        "all different": [f"{n}" for n in range(count)],
        "all long": [f"{n}{chr(0x1F600)}" * 40 for n in range(count)],
        "all special": [f"<{n}>" for n in range(count)],
    }[tokens]
    special = np.full(count, tokens == "all special")
    lazy = drawn_map(count, heads, mask)
    names = [f"head {n}" for n in range(heads)]
    room = Room(texts, special, 90, top, names, mask.is_causal, ("<title>",))
    view = token_view(lazy, texts, start=90, size=size, top=top, title="<title>")
    written = len(view.html().encode())
    bound = room.bound(len(view.links), size)
    assert written <= bound
    # And not by so much that heads would be left out for nothing.
    assert bound < 1.05 * written + 45_000


@pytest.fixture(scope="module")
def long_map() -> AttentionMap:
    return drawn_map(30_000, 1)


def test_a_page_of_a_long_text_is_as_small_as_that_of_a_short_one(long_map: AttentionMap) -> None:
    tokens = [f"t{n % 5000}" for n in range(30_000)]
    view = token_view(long_map, tokens, start=29_000, size=256)
    links = view.links["head 0"]
    outside = links.keys < 29_000
    assert outside.mean() > 0.9
    assert np.allclose(links.before + links.within, 1, atol=1e-4)
    assert len(view.html().encode()) < 200_000
    assert view.payload["window"] == "Tokens 29,000 to 29,255 of 30,000"


def test_a_page_and_a_piece_for_a_notebook_are_whole_and_fetch_nothing(tmp_path: Path) -> None:
    view = token_view(drawn_map(), ["x"] * T)
    assert view.html().startswith("<!doctype html>")
    assert view._repr_html_() == fragment(view.payload, view.links)
    assert view._repr_html_() in view.html()
    assert "<html" not in view._repr_html_()
    assert not re.search(r"https?://|@import|url\(|src=|<link", view.html())
    target = view.save(tmp_path / "view.html")
    assert target.read_text(encoding="utf-8") == view.html()
    with pytest.raises(InputError, match="is there already; give another, or overwrite=True"):
        view.save(target)
    view.save(target, overwrite=True)
    with pytest.raises(InputError, match="expected a file in a folder that is there"):
        view.save(tmp_path / "nowhere" / "view.html")
    with pytest.raises(InputError, match="expected a file in a folder that is there"):
        view.save(tmp_path)


def test_where_no_script_runs_the_text_and_the_strongest_links_are_read() -> None:
    view = token_view(drawn_map(heads=2), [f" w{n}" for n in range(T)])
    static = re.sub(r"<(script|style)>.*?</\1>", "", view._repr_html_(), flags=re.DOTALL)
    assert "w0 w1 w2" in static
    rows = re.findall(r"<tr><td>head (\d)</td><td>(\d+): +w\2</td><td>(\d+): +w\3</td><td>([\d.]+)</td></tr>", static)
    assert [row[0] for row in rows] == ["0"] * 6 + ["1"] * 6
    for head, query, key, weight in rows:
        links = view.links[f"head {head}"]
        assert key not in (query, "0")
        assert float(weight) == pytest.approx(links.weights[int(query), int(key)], abs=5e-4)
    strongest = view.links["head 0"].weights.copy()
    strongest[:, 0] = 0
    np.fill_diagonal(strongest, 0)
    assert float(rows[0][3]) == pytest.approx(strongest.max(), abs=5e-4)


def test_hostile_tokens_leave_the_script_and_the_page_whole() -> None:
    view = token_view(drawn_map(len(HOSTILE)), HOSTILE, title=HOSTILE[0])
    html = view.html()
    html.encode()
    assert html.count("<script") == html.count("</script") == 1
    assert html.count("<!--") == html.count("<img") == 0
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00\x1b]", html)
    literal = re.search(r"const payload = (.*);\n", html)
    assert literal is not None
    assert json.loads(literal[1]) == view.payload
    assert all(len(text) < 100 for text in view.payload["strings"])


def test_the_script_can_stand_inside_of_a_page_and_makes_no_html() -> None:
    assert "</script" not in script()
    assert "<!--" not in script()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|fetch\(", script())


def test_json_in_a_script_is_read_back_equal() -> None:
    content = {"texts": list(HOSTILE), "numbers": [1, 2.5, None, True]}
    text = as_json(content)
    assert json.loads(text) == content
    assert "<" not in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json([float("nan")])


def test_padding_moves_nothing(own_model: Build) -> None:
    tokenizer = words_tokenizer()
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    texts = [text_of(token_ids((n,), seed=n).tolist()) for n in (20, 35)]
    alone = token_view(model, texts[0], "L1H2")
    for padding in ("left", "right"):
        beside = token_view(model, model.batch(texts, padding=padding), "L1H2")
        assert beside.payload["strings"] == alone.payload["strings"]
        assert beside.payload["special"] == alone.payload["special"] != []
        assert beside.payload["length"] == 21
        np.testing.assert_allclose(beside.links["L1H2"].weights, alone.links["L1H2"].weights, atol=1e-5)
    second = token_view(model, texts, "L1H2", batch=1)
    assert second.payload["length"] == 36


def test_encoders_look_both_ways_and_an_encoder_decoders_sides_are_told_apart(own_model: Build) -> None:
    bert = interp.load(own_model("bert"))
    view = token_view(bert, token_ids((1, 20)), start=5, size=10)
    assert (view.links["L0H0"].after > 0).all()
    t5 = interp.load(tiny_t5())
    batch = t5.batch(token_ids((1, 12)), decoder=token_ids((1, 9), seed=2))
    assert {name.split(".")[0] for name in token_view(t5, batch).links} == {"encoder"}
    decoder = token_view(t5, batch, ["decoder.L1H0"])
    assert decoder.payload["length"] == 9
    assert decoder.payload["heads"][0]["is_packed"]
    for heads in (["cross.L0H1"], ["encoder.L0H0", "decoder.L0H0"]):
        with pytest.raises(InputError, match="heads: expected heads of one stack of layers"):
            token_view(t5, batch, heads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "L9H0"}, "head 'L9H0': layer 9 does not exist"),
        ({"heads": []}, "heads: expected at least one head"),
        ({"start": 500}, r"start: expected a token from 0 to \d+, got 500"),
        ({"size": 0}, "size: expected a number from 1 to 1,024, got 0"),
        ({"top": 0}, "top: expected a number from 1 to 64, got 0"),
        ({"batch": 1}, "batch: expected a sequence from 0 to 0, got 1"),
        ({"weighting": "norms"}, "weighting: there is no 'norms'"),
        ({"inputs": ""}, "the text is empty"),
    ],
)
def test_what_does_not_fit_a_model_is_refused_by_name(
    model: HookedModel, options: dict[str, Any], message: str
) -> None:
    given = {"inputs": "A text of a few tokens.", **options}
    with pytest.raises(InputError, match=message):
        token_view(model, given.pop("inputs"), **given)


def test_what_does_not_fit_maps_is_refused_by_name() -> None:
    lazy = drawn_map()
    tokens = ["x"] * T
    assert list(token_view(lazy, tokens, [2, 0]).links) == ["head 2", "head 0"]
    with pytest.raises(InputError, match="head: expected a number from 0 to 2, got 3"):
        token_view(lazy, tokens, [3])
    with pytest.raises(InputError, match="source: expected a model, a map or maps by layer, got no map"):
        token_view({}, tokens)
    with pytest.raises(InputError, match="heads: their maps are of different texts"):
        token_view({0: lazy, 1: drawn_map(20)}, tokens)
    with pytest.raises(InputError, match="source: expected a model, a map or maps by layer, got 'demo'"):
        token_view("demo", "A text.")  # pyright: ignore[reportArgumentType]


def test_ids_without_a_tokenizer_are_shown_as_ids(own_model: Build) -> None:
    ids = token_ids((1, 10))
    view = token_view(interp.load(own_model("gpt2")), ids)
    assert [view.payload["strings"][place] for place in view.payload["tokens"]] == [str(int(i)) for i in ids[0]]
    assert int(ids.max()) < VOCABULARY


def test_views_are_kept_as_they_were_made(model: HookedModel) -> None:
    first, again = (token_view(model, "The same text.", "L1H1") for _ in range(2))
    assert isinstance(first, TokenView)
    assert first.html() == again.html()


def test_edits_in_force_and_texts_beyond_the_context_are_said(model: HookedModel, prose: str) -> None:
    plain = token_view(model, "The cat sat on the mat.", "L1H1")
    with model.edited([interp.edits.ablate("L0H0"), interp.edits.uniform("L1H1")]):
        edited = token_view(model, "The cat sat on the mat.", "L1H1")
    assert plain.payload["notes"] == []
    assert re.match(r"The model is edited: .*L0H0", edited.payload["notes"][0])
    row = edited.links["L1H1"].weights[4]
    np.testing.assert_allclose(row[:5], 0.2, atol=1e-6)
    beyond = token_view(model, prose * 2, "L1H1", beyond_context=True)
    assert "The text is longer than the context that the model was made for, 1,024 tokens." in beyond.payload["notes"]
