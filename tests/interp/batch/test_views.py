"""Views against their definitions, computed row by row apart from SQL, on scores with ties and gaps."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import spearmanr

from interp.batch.store import BatchStore
from tests.interp.batch.stores import store_of

LAYERS, HEADS, DOCUMENTS = 3, 5, 4
CHECKPOINTS = [("a", "step1", 1), ("a", "step2", 2), ("a", "step10", 10), ("b", "", None)]
EPS = 2.0**-52


def drawn() -> list[dict[str, Any]]:
    chance = random.Random(3)
    rows = []
    for model, checkpoint, step in CHECKPOINTS:
        for detector, threshold in (("x", 0.4), ("y", 0.5), ("z", 0.6), ("flat", 0.5)):
            for document in range(1 if detector == "z" else DOCUMENTS):
                for layer in range(LAYERS):
                    for head in range(HEADS):
                        score: float | None = chance.randint(0, 10) / 10
                        if detector == "flat":
                            score = 0.5
                        elif chance.random() < 0.15:
                            score = None
                        rows.append(
                            {
                                "model": model,
                                "checkpoint": checkpoint,
                                "step": step,
                                "document": f"d{document}",
                                "detector": detector,
                                "layer": layer,
                                "head": head,
                                "score": score,
                                "stderr": 0.01 * head,
                                "chance": None if chance.random() < 0.3 else chance.random(),
                                "threshold": threshold,
                                "samples": chance.randint(1, 5),
                            }
                        )
    return rows


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return drawn()


@pytest.fixture(scope="module")
def store(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> BatchStore:
    return store_of(tmp_path_factory.mktemp("views") / "store", rows)


def means(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """Of each checkpoint, detector and head, from the definition in docs/batch.md."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["score"] is not None:
            key = ("model", "checkpoint", "detector", "layer", "head")
            groups[tuple(row[name] for name in key)].append(row)
    found = {}
    for key, of_head in groups.items():
        weight = sum(row["samples"] for row in of_head)
        mean = math.fsum(row["samples"] * row["score"] for row in of_head) / weight
        n = len(of_head)
        squares = math.fsum((row["samples"] * (row["score"] - mean)) ** 2 for row in of_head)
        known = [row for row in of_head if row["chance"] is not None]
        found[key] = {
            "step": of_head[0]["step"],
            "score": mean,
            "stderr": math.sqrt(n / (n - 1) * squares) / weight if n > 1 else of_head[0]["stderr"],
            "chance": math.fsum(row["samples"] * row["chance"] for row in known) / sum(row["samples"] for row in known)
            if known
            else None,
            "threshold": of_head[0]["threshold"],
            "samples": weight,
            "inputs": n,
        }
    return found


def near(found: float, expected: float | None) -> bool:
    """Sums of at most four products: a few units in the last place of numbers up to 1; the root of squares of such."""
    return math.isnan(found) if expected is None else abs(found - expected) <= 32 * EPS


def test_heads_are_means_over_samples_with_an_error_over_inputs(store: BatchStore, rows: list[dict[str, Any]]):
    expected = means(rows)
    frame = store.to_frame("heads")
    assert len(frame) == len(expected)
    assert {each["inputs"] for each in expected.values()} == {1, 2, 3, 4}
    assert any(each["chance"] is None for each in expected.values())
    for row in frame.to_dict("records"):
        wanted = expected[row["model"], row["checkpoint"], row["detector"], row["layer"], row["head"]]
        for name in ("score", "stderr", "chance"):
            assert near(row[name], wanted[name]), (name, row, wanted)
        assert (row["samples"], row["inputs"]) == (wanted["samples"], wanted["inputs"])
        assert row["threshold"] == wanted["threshold"]
        if abs(wanted["score"] - wanted["threshold"]) > 32 * EPS:
            assert row["is_above"] == (wanted["score"] > wanted["threshold"])


def test_the_strongest_are_the_ten_highest_in_order(store: BatchStore):
    heads = store.to_frame("heads").to_dict("records")
    frame = store.to_frame("strongest")
    places: set[tuple] = set()
    for (model, checkpoint, detector), of_group in frame.groupby(["model", "checkpoint", "detector"]):
        same = [r for r in heads if (r["model"], r["checkpoint"], r["detector"]) == (model, checkpoint, detector)]
        best = sorted(same, key=lambda row: (-row["score"], row["layer"], row["head"]))[:10]
        assert of_group["place"].tolist() == list(range(1, len(best) + 1))
        assert of_group["name"].tolist() == [f"L{row['layer']}H{row['head']}" for row in best]
        assert of_group["score"].tolist() == [row["score"] for row in best]
        places.add((model, checkpoint, detector))
    assert len(places) == len(CHECKPOINTS) * 4


def test_agreement_is_spearmans_correlation_over_heads_that_both_score(store: BatchStore):
    heads = store.to_frame("heads")
    frame = store.to_frame("agreement")
    assert len(frame) == len(CHECKPOINTS) * 6
    seen = 0
    for row in frame.to_dict("records"):
        scores = {}
        for name in ("first", "second"):
            of_detector = heads[
                (heads["model"] == row["model"])
                & (heads["checkpoint"] == row["checkpoint"])
                & (heads["detector"] == row[name])
            ]
            scores[name] = {(r["layer"], r["head"]): r["score"] for r in of_detector.to_dict("records")}
        both = sorted(scores["first"].keys() & scores["second"].keys())
        assert row["heads"] == len(both)
        if "flat" in (row["first"], row["second"]):
            assert math.isnan(row["rank_correlation"])
            continue
        expected = spearmanr([scores["first"][h] for h in both], [scores["second"][h] for h in both]).statistic
        # Sums over at most 15 heads of products of ranks, in another order.
        assert abs(row["rank_correlation"] - expected) <= 15 * 8 * EPS
        seen += 1
    assert seen == len(CHECKPOINTS) * 3


def test_emergence_follows_a_head_over_steps_and_leaves_out_what_has_none(store: BatchStore):
    heads = [row for row in store.to_frame("heads").to_dict("records") if row["model"] == "a"]
    frame = store.to_frame("emergence")
    assert set(frame["model"]) == {"a"}
    assert len(frame) == len(heads)
    never = 0
    for (detector, layer, head), of_head in frame.groupby(["detector", "layer", "head"]):
        same = [r for r in heads if (r["detector"], r["layer"], r["head"]) == (detector, layer, head)]
        same.sort(key=lambda row: row["step"])
        assert of_head["step"].tolist() == [row["step"] for row in same]
        assert of_head["score"].tolist() == [row["score"] for row in same]
        assert set(of_head["highest"]) == {max(row["score"] for row in same)}
        above = [row["step"] for row in same if row["is_above"]]
        first = of_head["first_above"].iloc[0]
        never += not above
        assert pd.isna(first) if not above else first == min(above)
    assert 0 < never < LAYERS * HEADS * 4


def test_views_of_an_empty_batch_are_empty(tmp_path: Path):
    rows = [{"model": "a", "detector": "x", "layer": 0, "head": 0, "score": None}]
    store = store_of(tmp_path / "store", rows)
    for view in store.views:
        assert store.to_frame(view).empty, view
