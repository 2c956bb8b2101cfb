"""Patterns by their formula on dense maps and patterns, and beside TransformerLens' own scores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.errors import InputError
from interp.heads import Pattern, Tokens
from interp.heads.registry import chosen
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, LAYERS, right_padded, token_ids, who_sees_whom
from tests.interp.words import text_of

LENGTHS = (33, 20)
EVEN = 2


def is_even(tokens: Tokens) -> Tensor:
    return tokens.ids % EVEN == 0


KINDS: dict[str, dict[str, Any]] = {
    "offsets": {"offsets": (0, 2, 5)},
    "labels": {"labels": lambda tokens: (tokens.ids % 5, tokens.ids % 5)},
    "strict labels": {"labels": lambda tokens: (tokens.ids % 5, (tokens.ids + 1) % 5), "strict": True},
    "keys": {"keys": is_even},
    "where": {"where": lambda i, j, tokens: ((i - j) % 3 == 0) & is_even(tokens)[j]},
}


def cells(kind: str, ids: list[int], causal: bool) -> Tensor:
    """D [T, T] by its definition, cell by cell."""
    d = torch.zeros(len(ids), len(ids), dtype=torch.float64)
    for i, j in itertools.product(range(len(ids)), repeat=2):
        if causal and j > i:
            continue
        d[i, j] = {
            "offsets": i - j in (0, 2, 5),
            "labels": ids[i] % 5 == ids[j] % 5,
            "strict labels": j < i and ids[i] % 5 == (ids[j] + 1) % 5,
            "keys": ids[j] % EVEN == 0,
            "where": (i - j) % 3 == 0 and ids[j] % EVEN == 0,
        }[kind]
    return d


def score(a: Tensor, d: Tensor, by: str, bos: bool, current: bool) -> Tensor:
    """[H] from maps [H, T, T]."""
    counts = torch.ones_like(d)
    if bos:
        counts[:, 0] = 0
    if current:
        counts.fill_diagonal_(0)
    if by == "mul":
        return (a * counts * d).sum((-1, -2)) / (a * counts).sum((-1, -2))
    return 1 - ((a - d).abs() * counts).mean((-1, -2)) * len(d)


OPTIONS = [
    {"score_by": by, "exclude_bos": bos, "exclude_current_token": current}
    for by, bos, current in itertools.product(("mul", "abs"), (False, True), (False, True))
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "bert"])
def test_scores_are_those_of_the_dense_maps(name: str, kind: str, own_model, eager_model):
    rows, ids, keep = right_padded(LENGTHS, seed=6)
    model = interp.load(own_model(name))
    maps = dense.eager_maps(eager_model(name), ids, keep)
    causal = name != "bert"
    turn = list(KINDS).index(kind)
    for options in (OPTIONS[turn % 4], OPTIONS[7 - turn % 4]):
        found = Pattern("tried", **KINDS[kind], **options).scores(model, rows)
        expected, levels = [], []
        for b, row in enumerate(rows):
            d, n = cells(kind, row, causal), len(row)
            rules = options["score_by"], options["exclude_bos"], options["exclude_current_token"]
            expected.append(torch.stack([score(p[b, :, :n, :n], d, *rules) for p in maps]))
            levels.append([])
            for layer in range(LAYERS):
                alone = torch.ones(1, n, dtype=torch.bool)
                seen = who_sees_whom(ARCHITECTURES[name], layer, alone) if causal else torch.ones(1, n, n).bool()
                uniform = (seen / seen.sum(-1, keepdim=True)).double()
                levels[-1].append(float(score(uniform, d, *rules)[0]))
        np.testing.assert_allclose(found.grid("tried"), torch.stack(expected).mean(0), atol=2e-5)
        chance = np.mean(levels, axis=0)[:, None]
        np.testing.assert_allclose(found.grid("tried", "chance") - chance, 0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing(kind: str, own_model):
    model = interp.load(own_model("llama"))
    rows, _, _ = right_padded(LENGTHS, seed=6)
    for options in (OPTIONS[3], OPTIONS[5]):
        pattern = Pattern("tried", **KINDS[kind], **options)
        right, left = pattern.scores(model, rows), pattern.scores(model, model.batch(rows, padding="left"))
        np.testing.assert_allclose(left.grid("tried"), right.grid("tried"), atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_both_roads_agree(kind: str, own_model, monkeypatch: pytest.MonkeyPatch):
    """By probes and, cell by cell, over small tiles of the lazy map."""
    import interp.heads.pattern_roads as roads

    monkeypatch.setattr(roads, "TILE_CELLS", 1)  # tiles of the smallest side, 16
    model = interp.load(own_model("gemma2"))
    ids = token_ids((37,), seed=8).tolist()
    given = torch.as_tensor(cells(kind, ids, causal=True))
    for options in (OPTIONS[0], OPTIONS[3], OPTIONS[6]):
        one = Pattern("tried", **KINDS[kind], **options).scores(model, ids)
        other = Pattern("tried", dense=given, **options).scores(model, ids)
        np.testing.assert_allclose(one.grid("tried"), other.grid("tried"), atol=2e-6)
        np.testing.assert_allclose(one.grid("tried", "chance"), other.grid("tried", "chance"), atol=2e-6)


def test_a_dense_pattern_of_any_numbers(own_model, eager_model):
    ids = token_ids((25,), seed=8)
    given = torch.rand(25, 25, generator=torch.Generator().manual_seed(0)).tril()
    maps = dense.eager_maps(eager_model("llama"), ids[None], torch.ones(1, 25, dtype=torch.bool))
    for options in OPTIONS:
        found = Pattern("tried", dense=given.numpy(), **options).scores(interp.load(own_model("llama")), ids)
        expected = torch.stack([score(p[0], given.double(), *options.values()) for p in maps])
        np.testing.assert_allclose(found.grid("tried"), expected, atol=2e-6)


@pytest.mark.parametrize("head", ["previous_token_head", "duplicate_token_head", "induction_head"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_transformer_lens_gives_the_same(head: str, options: dict, own_model, eager_model):
    detector = pytest.importorskip("transformer_lens.head_detector")
    ids = (token_ids((1, 40), seed=2) % 12) + 3
    maps = dense.eager_maps(eager_model("llama"), ids, torch.ones_like(ids, dtype=torch.bool))
    given = getattr(detector, f"get_{head}_detection_pattern")(ids).double()
    rules = {"error_measure": options["score_by"], **{key: options[key] for key in options if key != "score_by"}}
    found = Pattern.named(head, **options).scores(interp.load(own_model("llama")), ids).grid(head)
    for layer, p in enumerate(maps):
        theirs = [
            detector.compute_head_attention_similarity_score(a.clone(), detection_pattern=given, **rules) for a in p[0]
        ]
        # Theirs is rounded to 3 decimals for "abs".
        np.testing.assert_allclose(found[layer], theirs, atol=1e-5 if options["score_by"] == "mul" else 5.1e-4)


def test_a_scan_takes_a_pattern(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(token_ids((120,), seed=9))
    to_even = Pattern("to_even", keys=is_even, threshold=0.6)
    scores = interp.scan(
        model, ["previous_token", to_even, Pattern.named("previous_token_head")], text=text, window=60, progress=False
    )
    assert scores.detectors == ["previous_token", "to_even", "previous_token_head"]
    # TransformerLens divides by T queries, the detector by the T - 1 that have a previous token.
    ours, theirs = scores.grid("previous_token"), scores.grid("previous_token_head")
    np.testing.assert_allclose(theirs * 60 / 59, ours, atol=1e-6)
    assert set(scores.of("to_even")["samples"]) == {2}
    assert set(scores.of("to_even")["threshold"]) == {0.6}
    assert len(scores.plot("to_even").data) == 2
    with pytest.raises(InputError, match="detector 'to_even' cannot be run: it needs a text"):
        interp.scan(model, to_even, progress=False)


def test_strings_of_tokens_can_be_asked(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    by_text = Pattern("p", keys=lambda tokens: torch.tensor([s.strip() == "w5" for s in tokens.strings]))
    by_id = Pattern("p", keys=lambda tokens: tokens.ids == 5)
    text = "w4 w5 w6 w5 w7"
    np.testing.assert_array_equal(by_text.scores(model, text).grid("p"), by_id.scores(model, text).grid("p"))


def test_a_sequence_without_the_pattern_has_no_score(own_model):
    model = interp.load(own_model("llama"))
    for score_by in ("mul", "abs"):
        pattern = Pattern.named("duplicate_token_head", score_by=score_by)
        scores = pattern.scores(model, [[5, 6, 5, 7], [5, 6, 7, 8]])
        assert set(scores.frame["samples"]) == {1}
        with pytest.raises(InputError, match="pattern 'duplicate_token_head': the inputs hold no pair of tokens"):
            pattern.scores(model, [5, 6, 7, 8])
    everywhere = Pattern("all", where=lambda i, j, tokens: torch.tensor(True), exclude_bos=True)
    with pytest.raises(InputError, match="pattern 'all': the inputs hold no pair of tokens"):
        everywhere.scores(model, [5])  # one token, and its column is left out
    assert Pattern("self", offsets=(0,)).scores(model, [5]).grid("self").tolist() == [[1.0] * 4] * LAYERS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected one of offsets, labels, keys, where and dense, got none"),
        ({"offsets": (1,), "keys": is_even}, "got offsets and keys"),
        ({"offsets": ()}, r"offsets: expected different whole numbers such as \(1, 2\), got \(\)"),
        ({"offsets": (1.5,)}, "offsets: expected different whole numbers"),
        ({"keys": 5}, "keys: expected a function, got 5"),
        ({"dense": torch.ones(3, 4)}, r"dense: expected \[T, T\] with T up to 2,048, got \[3, 4\]"),
        ({"dense": torch.zeros(2049, 2049)}, r"got \[2049, 2049\]; longer patterns as where="),
        ({"dense": [[float("nan")]]}, "dense: it holds NaN or infinity"),
        ({"dense": "D"}, "dense: expected numbers"),
        ({"offsets": (1,), "score_by": "max"}, "score_by: expected 'mul' or 'abs', got 'max'"),
        ({"offsets": (1,), "threshold": 1.5}, "threshold: expected a number from -1 to 1, got 1.5"),
    ],
)
def test_what_is_no_pattern_is_refused(given: dict, message: str):
    with pytest.raises(InputError, match=f"pattern 'p': .*{message}"):
        Pattern("p", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"offsets": (-1,)}, "offset -1 lies ahead of the query"),
        ({"dense": torch.eye(5)}, "dense: it is for inputs of 5 tokens, got one of 4"),
        ({"dense": torch.ones(4, 4)}, "dense: it has cells above the diagonal"),
        ({"keys": lambda tokens: tokens.ids}, r"keys: expected bool \[4\], one a token, got torch.int64 \[4\]"),
        ({"keys": lambda tokens: is_even(tokens)[:2]}, r"keys: expected bool \[4\], one a token, got torch.bool \[2\]"),
        ({"labels": lambda tokens: tokens.ids}, "labels: expected two tensors"),
        ({"labels": lambda tokens: (tokens.ids, tokens.ids.float())}, r"labels: expected integers \[4\]"),
        ({"where": lambda i, j, tokens: i * j}, r"where: expected a bool tensor \[4, 4\] for i"),
        ({"where": lambda i, j, tokens: tokens.ids[:3] > 0}, r"where: expected a bool tensor .* got torch.bool \[3\]"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused_before_the_end(given: dict, message: str, own_model):
    with pytest.raises(InputError, match=f"pattern 'p': {message}"):
        Pattern("p", **given).scores(interp.load(own_model("llama")), [5, 6, 7, 8])


def test_an_unknown_name_shows_the_nearest():
    with pytest.raises(InputError, match="unknown pattern 'induction'; did you mean 'induction_head'"):
        Pattern.named("induction")


def test_two_patterns_of_one_name_are_refused():
    one, other = Pattern("p", offsets=(1,)), Pattern("p", offsets=(2,))
    with pytest.raises(InputError, match="two different ones are called 'p'"):
        chosen([one, other])
    assert chosen([one, one]) == [one]
