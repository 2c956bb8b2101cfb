"""Published tables of heads, and how far our scores agree with them.

Three forms are read: the JSON of Retrieval_Head (Wu et al., arXiv 2404.15574; {"layer-head": [scores of trials]}), the gates of
DuoAttention (Xiao et al., arXiv 2410.10819; a tab-separated row a layer, a column a KV head), and CSV with columns layer, head
and score.

Agreement is Spearman's rank correlation over heads: Pearson's correlation of ranks, equal values sharing their mean rank. It
says nothing of the scores' size, which the methods do not share. Heads of one model are not independent draws, so no p-value is
given.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from interp.batch.names import expanded
from interp.errors import InputError
from interp.inputs.textfile import read_text
from interp.naming import nearest

if TYPE_CHECKING:
    from interp.batch.store import BatchStore

Form = Literal["auto", "retrieval_head", "duo_attention", "csv"]
Group = Literal["max", "mean"]
TOP = 10
"""Heads at the top whose overlap is told beside the correlation."""


@dataclass(frozen=True, eq=False)
class PublishedHeads:
    """A table of heads that others published.

    frame  layer, head, score; a row a head
    per    "head": query heads; "kv_head": the KV heads, which several query heads share
    form   how it was written
    """

    frame: pd.DataFrame
    per: Literal["head", "kv_head"]
    form: str
    source: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """How a detector's scores and a published table agree.

    rank_correlation  Spearman's, in [-1, 1]; NaN where one of them is the same for all heads
    heads             that both have (KV heads, where the table is of these)
    overlap           share of the published top ``top`` that is among our top ``top``; ties go to the lower layer and head
    frame             layer, head, score (ours), published
    """

    rank_correlation: float
    heads: int
    top: int
    overlap: float
    frame: pd.DataFrame
    method: str

    def __repr__(self) -> str:
        return (
            f"Spearman's rank correlation {self.rank_correlation:.3f} over {self.heads} heads; {self.overlap:.0%} of the "
            f"published top {self.top} are in ours ({self.method})"
        )


def read_published(path: str | Path, form: Form = "auto") -> PublishedHeads:
    """A published table of heads.

    form: "auto" takes .json for Retrieval_Head's, .tsv for DuoAttention's, and .csv for CSV. DuoAttention's gates are cut to
    [0, 1], as its code does before it uses them.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    path = expanded(path)
    if form not in get_args(Form):
        raise InputError(f"form: expected one of {', '.join(get_args(Form))}, got {form!r}")
    if form == "auto":
        known: dict[str, Form] = {".json": "retrieval_head", ".tsv": "duo_attention", ".csv": "csv"}
        if path.suffix not in known:
            raise InputError(f"{path}: expected one of {', '.join(known)}; else say its form")
        form = known[path.suffix]
    text = read_text(path)
    readers = {"retrieval_head": _retrieval_head, "duo_attention": _duo_attention, "csv": _csv}
    try:
        rows = readers[form](text)
        frame = pd.DataFrame(rows, columns=["layer", "head", "score"])
        frame = frame.astype({"layer": "int64", "head": "int64", "score": "float64"})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        raise InputError(f"{path} is no table of the form {form}: {error}") from None
    if frame.empty or not bool(np.isfinite(frame["score"]).all()):
        raise InputError(f"{path}: expected a finite score for each head")
    if (frame[["layer", "head"]] < 0).any(axis=None):
        raise InputError(f"{path}: a layer or head below 0")
    if frame.duplicated(["layer", "head"]).any():
        raise InputError(f"{path}: a head stands there twice")
    frame = frame.sort_values(["layer", "head"], ignore_index=True)
    return PublishedHeads(frame, "kv_head" if form == "duo_attention" else "head", form, str(path))


def _retrieval_head(text: str) -> list[tuple[int, int, float]]:
    content = json.loads(text)
    rows = []
    for key, scores in content.items():
        layer, head = key.split("-")
        if not scores:
            raise ValueError(f"expected at least one trial of head {key}")
        rows.append((int(layer), int(head), float(np.mean([float(score) for score in scores]))))
    return rows


def _duo_attention(text: str) -> list[tuple[int, int, float]]:
    gates = [[float(gate) for gate in line.split("\t")] for line in text.splitlines() if line.strip()]
    if len({len(row) for row in gates}) != 1:
        raise ValueError("its rows have different lengths")
    return [(layer, head, min(max(gate, 0.0), 1.0)) for layer, row in enumerate(gates) for head, gate in enumerate(row)]


def _csv(text: str) -> list[tuple[Any, ...]]:
    reader = csv.DictReader(io.StringIO(text))
    wanted = ("layer", "head", "score")
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    return [(int(row["layer"]), int(row["head"]), float(row["score"])) for row in reader]


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's rank correlation in [-1, 1], equal values sharing their mean rank; NaN where one of them never changes."""
    x, y = (pd.Series(np.asarray(values, dtype=np.float64)).rank().to_numpy() for values in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else float("nan")


def compare(
    store: BatchStore,
    published: PublishedHeads,
    detector: str,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    group: Group = "max",
    top: int = TOP,
) -> Comparison:
    """Rank correlation of a detector's scores with a published table.

    Where the table is of KV heads, the scores of the query heads that share one become their ``group``: the largest, as a KV
    head is needed if one of them needs it, or their mean.

    Raises:
        InputError: there is no such detector, model or checkpoint, or the tables do not fit together.
    """
    heads = _rows(store.to_frame("heads"), detector, model, checkpoint)
    method = "query heads"
    if published.per == "kv_head":
        count, kv = int(heads["head"].max()) + 1, int(published.frame["head"].max()) + 1
        if count % kv:
            raise InputError(
                f"{published.source} has {kv} KV heads a layer, which do not divide the model's {count} heads"
            )
        heads = heads.assign(head=heads["head"] // (count // kv))
        heads = heads.groupby(["layer", "head"], as_index=False)["score"].agg(group)
        method = f"KV heads, {group} over the {count // kv} query heads of each"
    theirs = published.frame.rename(columns={"score": "published"})
    if int(theirs["layer"].max()) > int(heads["layer"].max()) or int(theirs["head"].max()) > int(heads["head"].max()):
        raise InputError(
            f"{published.source} goes to layer {theirs['layer'].max()}, head {theirs['head'].max()}, the model to "
            f"{heads['layer'].max()}, {heads['head'].max()}: it is not the table of this model"
        )
    both = heads[["layer", "head", "score"]].merge(theirs, on=["layer", "head"]).dropna(ignore_index=True)
    count = min(top, len(both))
    best = [
        set(both.sort_values([name, "layer", "head"], ascending=[False, True, True]).index[:count])
        for name in ("score", "published")
    ]
    overlap = len(best[0] & best[1]) / count if count else float("nan")
    correlation = rank_correlation(both["score"], both["published"])
    return Comparison(correlation, len(both), count, overlap, both, method)


def _rows(heads: pd.DataFrame, detector: str, model: str | None, checkpoint: str | None) -> pd.DataFrame:
    """The heads of one checkpoint of one model, by one detector."""
    for column, given in (("detector", detector), ("model", model), ("checkpoint", checkpoint)):
        found = heads[column].unique().tolist()
        if not found:
            raise InputError("the store holds no scores yet; the tables units and errors say what is missing")
        wanted = found[0] if given is None and len(found) == 1 else given
        if wanted is None:
            raise InputError(f"{column}: the store holds several, give one of {', '.join(map(str, found))}")
        if wanted not in found:
            raise InputError(f"{column}: there is no {wanted!r}; {nearest(wanted, map(str, found))}")
        heads = heads[heads[column] == wanted]
    return heads
