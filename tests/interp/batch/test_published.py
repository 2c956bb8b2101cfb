"""Published tables in each of their forms, and rank correlation against scipy's."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from interp.batch import open_store, read_published
from interp.batch.published import compare, rank_correlation
from interp.errors import InputError
from tests.interp.batch.stores import store_of

LAYERS, HEADS, KV_HEADS = 3, 4, 2


@pytest.fixture
def scores() -> dict[tuple[int, int], float]:
    chance = random.Random(1)
    return {(layer, head): chance.randint(0, 6) / 6 for layer in range(LAYERS) for head in range(HEADS)}


@pytest.fixture
def store(tmp_path: Path, scores: dict[tuple[int, int], float]) -> Path:
    rows = [
        {"model": "m", "detector": "retrieval", "layer": layer, "head": head, "score": score}
        for (layer, head), score in scores.items()
    ]
    store_of(tmp_path / "store", rows)
    return tmp_path / "store"


def test_retrieval_head_json_is_the_mean_over_trials(tmp_path: Path):
    path = tmp_path / "Model.json"
    path.write_text(json.dumps({"1-0": [0.5, 0.25, 0.0], "0-3": [1.0], "0-0": [0, 1]}), encoding="utf-8")
    found = read_published(path)
    assert (found.form, found.per) == ("retrieval_head", "head")
    assert found.frame.to_dict("list") == {"layer": [0, 0, 1], "head": [0, 3, 0], "score": [0.5, 1.0, 0.25]}


def test_gates_are_cut_to_one_and_are_of_kv_heads(tmp_path: Path):
    path = tmp_path / "model.tsv"
    path.write_text("9.584e-05\t-1.1e-04\n1.0007\t5.5e-01\n\n", encoding="utf-8")
    found = read_published(path)
    assert (found.form, found.per) == ("duo_attention", "kv_head")
    assert found.frame["score"].tolist() == [9.584e-05, 0.0, 1.0, 0.55]
    assert list(zip(found.frame["layer"], found.frame["head"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_csv_takes_its_columns_by_name_in_any_order(tmp_path: Path):
    path = tmp_path / "heads.csv"
    path.write_text("score,note,head,layer\n0.5,a,1,0\n-2e-1,b,0,0\n", encoding="utf-8")
    found = read_published(path)
    assert found.frame.to_dict("list") == {"layer": [0, 0], "head": [0, 1], "score": [-0.2, 0.5]}
    (tmp_path / "heads.txt").write_text("layer,head,score\n0,0,1\n", encoding="utf-8")
    assert read_published(tmp_path / "heads.txt", "csv").form == "csv"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is no table of the form retrieval_head"),
        ("a.json", "[1]", "is no table of the form retrieval_head"),
        ("a.json", '{"0_1": [1]}', "is no table of the form retrieval_head"),
        ("a.json", '{"0-1": []}', "expected at least one trial of head 0-1"),
        ("a.json", "{}", "expected a finite score for each head"),
        ("a.json", '{"0-1": [NaN]}', "expected a finite score for each head"),
        ("a.json", '{"0-1": [1], "0-01": [1]}', "a head stands there twice"),
        ("a.json", '{"0--1": [1]}', "is no table of the form retrieval_head"),
        ("a.tsv", "0\t1\n0\n", "its rows have different lengths"),
        ("a.tsv", "a\tb\n", "is no table of the form duo_attention"),
        ("a.tsv", "", "is empty"),
        ("a.tsv", "nan\t1\n", "expected a finite score for each head"),
        ("a.csv", "layer,head\n0,0\n", "it has no column score"),
        ("a.csv", "layer,head,score\n0,0\n", "is no table of the form csv"),
        ("a.csv", "layer,head,score\n0,-1,1\n", "a layer or head below 0"),
        ("a.txt", "", "expected one of .json, .tsv, .csv; else say its form"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        read_published(tmp_path / name)
    assert message in str(raised.value)


def test_a_missing_file_and_an_unknown_form_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file"):
        read_published(tmp_path / "none.csv")
    with pytest.raises(InputError, match="form: expected one of auto"):
        read_published(tmp_path / "none.csv", "excel")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy_also_with_ties(seed: int):
    chance = random.Random(seed)
    first = [chance.randint(0, 5 + 10 * seed) for _ in range(40)]
    second = [value + chance.randint(0, 4) for value in first]
    assert math.isclose(rank_correlation(first, second), spearmanr(first, second).statistic, rel_tol=40 * 2.0**-52)


def test_rank_correlation_of_a_constant_is_not_defined():
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_a_table_of_heads_is_compared_head_by_head(tmp_path: Path, store: Path, scores: dict):
    chance = random.Random(2)
    theirs = {head: score + chance.random() for head, score in scores.items()}
    del theirs[1, 2]
    path = tmp_path / "heads.csv"
    lines = [f"{layer},{head},{score!r}" for (layer, head), score in theirs.items()]
    path.write_text("layer,head,score\n" + "\n".join(lines), encoding="utf-8")
    found = open_store(store).compare(read_published(path), "retrieval")
    both = sorted(theirs)
    expected = spearmanr([scores[h] for h in both], [theirs[h] for h in both]).statistic
    assert math.isclose(found.rank_correlation, expected, rel_tol=len(both) * 8 * 2.0**-52)
    assert found.heads == len(both)
    best = [set(sorted(both, key=lambda h: (-x[h], h))[:10]) for x in (scores, theirs)]
    assert (found.top, found.overlap) == (10, len(best[0] & best[1]) / 10)


@pytest.mark.parametrize("group", ["max", "mean"])
def test_a_table_of_kv_heads_is_compared_with_the_query_heads_of_each(
    tmp_path: Path, store: Path, scores: dict, group: str
):
    gates = [[0.1, 0.9], [0.5, 0.2], [1.0, 0.4]]
    path = tmp_path / "gates.tsv"
    path.write_text("\n".join("\t".join(map(str, row)) for row in gates), encoding="utf-8")
    published = read_published(path)
    found = compare(open_store(store), published, "retrieval", group=group)  # pyright: ignore[reportArgumentType]
    ours, theirs = [], []
    for layer in range(LAYERS):
        for kv in range(KV_HEADS):
            two = [scores[layer, 2 * kv], scores[layer, 2 * kv + 1]]
            ours.append(max(two) if group == "max" else sum(two) / 2)
            theirs.append(gates[layer][kv])
    assert found.frame["score"].tolist() == ours
    assert math.isclose(found.rank_correlation, spearmanr(ours, theirs).statistic, rel_tol=6 * 8 * 2.0**-52)
    assert f"KV heads, {group} over the 2 query heads of each" in repr(found)


def test_tables_that_do_not_fit_the_store_are_refused(tmp_path: Path, store: Path):
    path = tmp_path / "heads.csv"
    path.write_text("layer,head,score\n9,0,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"goes to layer 9, head 0, the model to 2, 3: it is not the table of this"):
        open_store(store).compare(read_published(path), "retrieval")
    (tmp_path / "gates.tsv").write_text("0\t1\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="3 KV heads a layer, which do not divide the model's 4 heads"):
        open_store(store).compare(read_published(tmp_path / "gates.tsv"), "retrieval")
    with pytest.raises(InputError, match=r"detector: there is no 'retrieva'; did you mean 'retrieval'\?"):
        open_store(store).compare(read_published(path), "retrieva")


def test_one_of_several_models_has_to_be_named(tmp_path: Path):
    rows = [
        {"model": model, "detector": "x", "layer": 0, "head": head, "score": sign * head}
        for model, sign in (("a", 1.0), ("b", -1.0))
        for head in range(3)
    ]
    found = store_of(tmp_path / "store", rows)
    path = tmp_path / "heads.csv"
    path.write_text("layer,head,score\n0,0,1\n0,1,2\n0,2,3\n", encoding="utf-8")
    with pytest.raises(InputError, match="model: the store holds several, give one of a, b"):
        found.compare(read_published(path), "x")
    assert [found.compare(read_published(path), "x", model=m).rank_correlation for m in "ab"] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("long.csv", "layer,head,score\n0,0," + "1" * 200_000),
        ("large.csv", f"layer,head,score\n{10**30},0,1"),
        ("deep.json", "[" * 100_000),
    ],
)
def test_files_that_readers_choke_on_are_named(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{name} is no table of the form "):
        read_published(tmp_path / name)


def test_a_store_without_scores_says_so(tmp_path: Path, store: Path):
    (tmp_path / "heads.csv").write_text("layer,head,score\n0,0,1\n", encoding="utf-8")
    shutil.rmtree(store / "shards")
    with pytest.raises(
        InputError, match="the store holds no scores yet; the tables units and errors say what is missing"
    ):
        open_store(store).compare(read_published(tmp_path / "heads.csv"), "retrieval")
