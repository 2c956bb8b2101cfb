"""Dossiers against their definitions on dense maps, and against interp.scan where the same thing is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import interp
from interp.dossiers import METRICS, HeadDossiers
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.conftest import Build
from tests.interp.dense import eager_maps
from tests.interp.dossiers import dense_dossiers as dense
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, LAYERS, token_ids, who_sees_whom
from tests.interp.words import BOS, text_of

LENGTH = 24
SIZES = (24, 17, 24, 9, 17)
EDGES = [0, 1, 2, 4, 8, 16, 32]
ERROR = 1e-5
"""The library's eager softmax is in float32 also in a model of float64: a weight is wrong by up to 2^-23 of itself, and after the
first layer, whose queries and keys are some ten units long, the scores of the second by some ten times that."""


def passages(seed: int = 0) -> list[list[int]]:
    """With repeats inside, so that induction and copying are defined; they begin with a token of their own, as a BOS."""
    drawn = [token_ids((size,), seed + n).tolist() for n, size in enumerate(SIZES)]
    return [[BOS, *ids[: len(ids) // 2], *ids[: len(ids) - len(ids) // 2 - 1]] for ids in drawn]


def double(name: str) -> HookedModel:
    return interp.load((BERT if name == "bert" else ARCHITECTURES[name]).build().double())


def measured(model: HookedModel, corpus: list[list[int]], **options: object) -> HeadDossiers:
    return interp.head_dossiers(model, corpus, length=LENGTH, progress=False, **options)  # pyright: ignore[reportArgumentType]


def dense_maps(eager_model: Build, name: str, corpus: list[list[int]]) -> list[list[torch.Tensor]]:
    """[layer][passage] -> A [H, T, T]."""
    found: list[list[torch.Tensor]] = [[] for _ in range(LAYERS)]
    for ids in corpus:
        row = torch.tensor(ids)[None]
        for layer, maps in enumerate(eager_maps(eager_model(name), row, torch.ones_like(row, dtype=torch.bool))):
            found[layer].append(maps[0])
    return found


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "gpt2"])
def test_metrics_are_their_definitions_on_the_dense_map(name: str, eager_model: Build) -> None:
    """With grouped queries, sliding windows, a soft cap and sink logits."""
    corpus = passages()
    table = measured(double(name), corpus).to_frame().set_index(["metric", "layer", "head"]).sort_index()
    maps = dense_maps(eager_model, name, corpus)
    assert set(table.index.get_level_values("metric")) == set(dense.METRICS)
    for metric, oracle in dense.METRICS.items():
        for layer in range(LAYERS):
            each = [oracle(a, ids) for a, ids in zip(maps[layer], corpus, strict=True)]
            values = torch.stack([value for value in each if value is not None]).numpy()
            rows = table.loc[(metric, layer)]
            scale = max(1.0, float(np.abs(values).max()))
            np.testing.assert_allclose(rows["value"], values.mean(0), atol=ERROR * scale, err_msg=f"{metric} {layer}")
            error = values.std(0, ddof=1) / math.sqrt(len(values))
            np.testing.assert_allclose(rows["stderr"], error, atol=ERROR * scale, err_msg=f"{metric} {layer}")
            assert (rows["passages"] == len(values)).all()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_chance_is_the_definition_on_the_uniform_map(name: str) -> None:
    corpus = passages()
    table = measured(double(name), corpus).to_frame().set_index(["metric", "layer", "head"]).sort_index()
    for metric, oracle in dense.METRICS.items():
        for layer in range(LAYERS):
            chance = table.loc[(metric, layer)]["chance"]
            if metric == "strongest":
                assert chance.isna().all()
                continue
            values = []
            for ids in corpus:
                keep = torch.ones(1, len(ids), dtype=torch.bool)
                visible = who_sees_whom(ARCHITECTURES[name], layer, keep)[0].double()
                values.append(oracle((visible / visible.sum(-1, keepdim=True))[None], ids))
            expected = torch.stack([value for value in values if value is not None]).mean()
            np.testing.assert_allclose(chance, float(expected), rtol=1e-6)  # measured in float32


def test_encoders_have_the_metrics_that_do_not_look_back(eager_model: Build) -> None:
    corpus = passages()
    table = measured(double("bert"), corpus).to_frame().set_index(["metric", "layer", "head"]).sort_index()
    assert set(table.index.get_level_values("metric")) == {m.name for m in METRICS if not m.is_causal}
    maps = dense_maps(eager_model, "bert", corpus)
    for layer in range(LAYERS):
        values = torch.stack([dense.distance(a, ids) for a, ids in zip(maps[layer], corpus, strict=True)]).mean(0)
        np.testing.assert_allclose(table.loc[("distance", layer)]["value"], values, atol=ERROR * LENGTH)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_distances_are_the_dense_map_by_bins(name: str, eager_model: Build) -> None:
    corpus = passages()
    dossiers = measured(double(name), corpus)
    maps = dense_maps(eager_model, name, corpus)
    for layer in range(LAYERS):
        expected = torch.stack([dense.mass_by_distance(a, EDGES) for a in maps[layer]]).mean(0)
        for head in range(HEADS):
            rows = dossiers.head(layer, head).distance
            assert [*rows["low"], rows["high"].iloc[-1]] == EDGES
            np.testing.assert_allclose(rows["mass"], expected[head], atol=ERROR)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_sums_by_token_are_those_of_the_dense_map(name: str, eager_model: Build) -> None:
    corpus = passages()
    dossiers = measured(double(name), corpus)
    maps = dense_maps(eager_model, name, corpus)
    times = {token: sum(ids[1:].count(token) for ids in corpus) for ids in corpus for token in ids[1:]}
    for layer in range(LAYERS):
        sides = dict(zip(("query", "key"), dense.by_token(maps[layer], corpus), strict=True))
        for side, expected in sides.items():
            for head in range(HEADS):
                rows = dossiers.head(layer, head).leading(side)  # pyright: ignore[reportArgumentType]
                order = sorted(expected, key=lambda token: -expected[token][head])
                ranked = [expected[token][head] for token in order[: len(rows)]]
                assert len(rows) == 20
                np.testing.assert_allclose(rows["weight"], ranked, atol=10 * ERROR)  # up to ten of a token are added
                assert rows["count"].tolist() == [times[token] for token in rows["id"]]
                total = sum(value[head] for value in expected.values())
                np.testing.assert_allclose(rows["share"], np.array(ranked) / total, atol=10 * ERROR)
                assert (rows["error"] == 0).all()


def test_lift_is_over_what_uniform_attention_gives_the_token() -> None:
    corpus = passages()
    uniform_given: dict[int, float] = {}
    for ids in corpus:
        for i in range(1, len(ids)):
            uniform_given[ids[i]] = uniform_given.get(ids[i], 0.0) + i / (i + 1)
    rows = measured(double("llama"), corpus).head(0, 1).leading("query")
    for row in rows.to_dict("records"):
        assert row["lift"] == pytest.approx(row["weight"] / uniform_given[row["id"]], rel=1e-5)


def test_lists_by_lift_hold_tokens_that_stand_often_enough() -> None:
    rows = measured(double("llama"), passages()).head(1, 0).leading("key", "lift")
    assert len(rows)
    assert (rows["count"] >= 5).all()
    assert rows["lift"].is_monotonic_decreasing


def test_numbers_agree_with_scan(own_model: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    """On one text in the same windows, those of 64 positions that the sink's detector reads. The means are those of float32."""
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(token_ids((400,), seed=3))
    names = ["previous_token", "current_token", "first_token_sink", "induction_text", "copying"]
    scores = interp.scan(model, names, text=text, window=64, progress=False)
    dossiers = interp.head_dossiers(model, [text], length=64, progress=False)
    for name in names:
        expected = scores.of(name).sort_values(["layer", "head"])
        found = dossiers.of(name).sort_values(["layer", "head"])
        assert (expected["samples"].to_numpy() == found["passages"].to_numpy()).all()
        for ours, theirs in (("value", "score"), ("stderr", "stderr"), ("chance", "chance")):
            np.testing.assert_allclose(found[ours], expected[theirs], rtol=0, atol=1e-6, err_msg=f"{name} {ours}")


def test_a_passage_has_the_numbers_that_it_has_alone() -> None:
    """Batches have no padding, and passages of one batch do not see each other."""
    corpus, model = passages(), double("mistral")
    together = measured(model, corpus).to_frame()
    alone = [measured(model, [ids]).to_frame()["value"].to_numpy() for ids in corpus]
    np.testing.assert_allclose(together["value"], np.nanmean(alone, axis=0), rtol=1e-12, atol=1e-14)


def test_texts_are_cut_at_the_context_with_special_tokens_around_each_piece(
    own_model: Build, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    words = token_ids((600,), seed=5).tolist()
    found = list(interp.dossiers.passages_of(model, [text_of(words), "  ", text_of(words[:3])], 256))
    assert [(each.text, each.start, len(each)) for each in found] == [(0, 0, 256), (0, 255, 256), (2, 0, 4)]
    assert all(each.ids[0] == BOS for each in found)
    assert [i for each in found[:2] for i in each.ids[1:].tolist()] == words[:510]


def test_a_last_piece_of_half_the_length_counts(own_model: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    for words, expected in ((255 + 128, 2), (255 + 127, 1)):
        text = text_of(token_ids((words,), seed=5))
        assert len(list(interp.dossiers.passages_of(model, [text], 256))) == expected


def test_a_corpus_may_be_a_generator_and_is_read_once(own_model: Build, tokenizer: PreTrainedTokenizerFast) -> None:
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    given = [text_of(token_ids((40,), seed=n)) for n in range(5)]
    read: list[int] = []

    def corpus():
        for n, text in enumerate(given):
            read.append(n)
            yield text

    found = interp.head_dossiers(model, corpus(), progress=False)
    assert read == [0, 1, 2, 3, 4]
    assert found.settings["inputs"] == {"passages": 5, "tokens": 5 * 41}


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("one text", r"passages: expected an iterable of texts, got 'one text'; one text is \[text\]"),
        ([], "passages: the corpus has none; give at least one text of two tokens"),
        ([[5]], "passages: the corpus has none"),
        ([[5, 61]], "passages: text 0 has token ids outside of the model's vocabulary of 61"),
        ([[5, 6], 7], "passages: text 1 is neither a text nor a sequence of token ids: 7"),
        (["words"], "this model has no tokenizer"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(corpus: object, message: str, own_model: Build) -> None:
    with pytest.raises(InputError, match=message):
        interp.head_dossiers(interp.load(own_model("llama")), corpus, progress=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 257}, "the input has 257 tokens, .* is made for 256"),
        ({"length": 1}, "length: expected a whole number of at least 2"),
        ({"by": "inductoin_text"}, "by: unknown metric 'inductoin_text'; did you mean 'induction_text'?"),
        ({"strongest": 0}, "strongest: expected a whole number of at least 1, got 0"),
        ({"pool": 14}, "pool: 14 passages cannot give 3 out of each fifth; give at least 15"),
        ({"least": 1.0}, "least: expected a weight of at least 0 and below 1, got 1.0"),
        ({"seed": -1}, r"seed: expected an integer from 0 to 2\*\*32 - 1, got -1"),
        ({"token_rows": 3}, "token_rows: expected a whole number of at least 16, got 3"),
        ({"folder": 3}, "folder: expected a path, or None to keep nothing, got 3"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str, own_model: Build) -> None:
    with pytest.raises(InputError, match=message):
        interp.head_dossiers(interp.load(own_model("llama")), [[5, 6, 7]], progress=False, **options)
