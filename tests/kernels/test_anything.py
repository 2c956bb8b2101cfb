"""Anything at all for any argument: it is taken, or refused in one error that is raised here and names the argument."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import interp_kernels as ik
from interp_kernels import Mask

B, H, T, D = 2, 4, 6, 8
LABELS = torch.zeros(T, dtype=torch.int64)
EVERYTHING = slice(None)


def given() -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(B, h, T, D, generator=random) for name, h in (("q", H), ("k", 2), ("v", 2))}


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(H, 3, D), torch.zeros(H, 4, D)])


def values() -> list[Any]:
    numbers = [None, True, 1.5, math.nan, math.inf, 1 + 2j, -1, 0, 2**31, 2**62, 2**63 - 1, 2**63, 10**30, -(10**30)]
    words = ["x", "", b"x", object(), lambda *_: 1, ik.Entropy, ik.Entropy(), Mask, Mask.causal()]
    many = [
        [],
        [1, 2],
        (),
        (0,),
        {},
        {1},
        range(3),
        slice(None),
        slice(2, 0),
        slice(0.5, 2),
        slice("a"),
        slice(0, 4, 2),
    ]
    arrays = [np.int64(2), np.float32(0.5), np.array(3), np.array([1, 2]), np.array(["a"]), np.zeros((B, H, T, D))]
    shapes = [(), (T,), (T, T), (B, T), (B, H, T, D), (B, H, T, T), (0,), (T, 0), (B, H, 0, D)]
    dtypes = [torch.float32, torch.bool, torch.int64, torch.complex64, torch.uint64]
    tensors = [torch.ones(shape, dtype=dtype) for shape in shapes for dtype in dtypes]
    tensors += [torch.full((T, T), bad) for bad in (math.nan, math.inf)]
    tensors += [torch.ones(shape, device="meta") for shape in shapes]
    tensors += [torch.ones(shape).to_sparse() for shape in shapes[1:6]]
    tensors += [torch.ones(B, H, T, D).to(torch.float8_e4m3fn), nested()]
    return [*numbers, *words, *many, *arrays, *tensors]


def attend(**changed: Any) -> ik.Attended:
    return ik.attend(**(given() | changed))


OF_CALL: dict[str, Callable[[Any], Any]] = {
    # A shape of one of them may be what the others do not fit.
    **{f"{name}|k|v": lambda x, name=name: attend(**{name: x}) for name in ("q", "k", "v")},
    **{
        name: lambda x, name=name: attend(**{name: x})
        for name in ("mask", "scale", "softcap", "sinks", "alibi", "bias")
    },
    **{name: lambda x, name=name: attend(**{name: x}) for name in ("class_bias", "probes", "backend")},
    "class_bias.values": lambda x: attend(class_bias=ik.ClassBias(x, LABELS)),
    "class_bias.classes": lambda x: attend(class_bias=ik.ClassBias(torch.zeros(T, 2), x)),
    "window": lambda x: attend(mask=Mask.causal(window=x)),
    "offset": lambda x: attend(mask=Mask.causal(offset=x)),
    "keep": lambda x: attend(mask=Mask.from_padding(x)),
    "ids|mask.documents": lambda x: attend(mask=Mask.from_documents(x)),
    # What a predicate raises itself is its own.
    "predicate": lambda x: callable(x) or attend(mask=Mask.from_predicate(x)),
    "predicate|it": lambda x: attend(mask=Mask.from_predicate(lambda b, i, j: x)),
    **{
        f"mask.{name}": lambda x, name=name: attend(mask=Mask(**{name: x}))
        for name in ("is_causal", "window", "offset", "keep", "documents", "predicates")
    },
}
OF_PROBE: dict[str, Callable[[Any], Any]] = {
    f"{kind.__name__}.{name}": lambda x, kind=kind, name=name, common=common: attend(
        probes=[kind(**common, **{name: x})]
    )
    for kind, name, common in (
        (ik.TopK, "k", {}),
        (ik.KeyMass, "weights", {}),
        (ik.OffsetMass, "offsets", {}),
        (ik.Distance, "window", {}),
        (ik.DistanceHistogram, "edges", {}),
        (ik.Received, "weights", {}),
        (ik.Received, "normalize", {}),
        (ik.Pooled, "block", {}),
        (ik.Pooled, "op", {"block": 2}),
        (ik.LabelMatch, "query_labels", {"key_labels": LABELS}),
        (ik.LabelMatch, "key_labels", {"query_labels": LABELS}),
        (ik.LabelMatch, "strict", {"query_labels": LABELS, "key_labels": LABELS}),
        (ik.Entropy, "name", {}),
        (ik.Entropy, "queries", {}),
        (ik.Entropy, "reduce", {}),
    )
}
OF_MAP: dict[str, Callable[[ik.AttentionMap, Any], Any]] = {
    "rows: index": lambda m, x: m.rows(x),
    "tile: rows": lambda m, x: m.tile(x, slice(0, 2)),
    "tile: cols": lambda m, x: m.tile(slice(0, 2), x),
    "visible: rows": lambda m, x: m.visible(x, slice(0, 2)),
    "count_visible: block": lambda m, x: m.count_visible(EVERYTHING, EVERYTHING, x),
    "count_visible of two: block": lambda m, x: m.count_visible(EVERYTHING, EVERYTHING, (2, x)),
    "count_visible: counted_rows": lambda m, x: m.count_visible(EVERYTHING, EVERYTHING, 2, counted_rows=x),
    "count_visible: counted_cols": lambda m, x: m.count_visible(EVERYTHING, EVERYTHING, 2, counted_cols=x),
    "diagonal: d": lambda m, x: m.diagonal(x),
    "pool: block": lambda m, x: m.pool(x),
    "pool: op": lambda m, x: m.pool(2, x),
    "pool: row_factors": lambda m, x: m.pool(2, row_factors=x),
    "pool: col_factors": lambda m, x: m.pool(2, col_factors=x),
    "topk: k": lambda m, x: m.topk(x),
    "matmul: x": lambda m, x: m.matmul(x),
    "rmatmul: w": lambda m, x: m.rmatmul(x),
    "head: batch": lambda m, x: m.head(x, 0).dense(),
    "head: head": lambda m, x: m.head(0, x).dense(),
    "of_rows: rows": lambda m, x: m.of_rows(x).dense(),
    "weighted_by: output_gradient": lambda m, x: m.weighted_by(x).dense(),
}
LISTED_MOST = 1 << 48


def check(names: str, ask: Callable[[Any], Any]) -> None:
    for value in values():
        if isinstance(value, int) and names.endswith(("TopK.k", "topk: k")) and 0 < value <= LISTED_MOST:
            continue  # it is taken, where there is memory for it
        try:
            ask(value)
        except (ValueError, IndexError) as error:
            raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
            words = str(error)
            assert "interp_kernels" in raised_at, f"{names}, given {type(value)}: {words}, raised in {raised_at}"
            wanted = names.rsplit(": ", maxsplit=1)[-1].split("|")
            assert any(words.startswith((name, "probes", "q, k")) or f".{name}" in words for name in wanted), words


@pytest.mark.parametrize("name", OF_CALL)
def test_arguments_of_a_call(name: str) -> None:
    check(name, OF_CALL[name])


@pytest.mark.parametrize("name", OF_PROBE)
def test_arguments_of_a_probe(name: str) -> None:
    check(name, OF_PROBE[name])


@pytest.mark.parametrize("name", OF_MAP)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_arguments_of_the_map(name: str, is_weighted: bool) -> None:
    lazy = attend().map
    if is_weighted:
        if name.startswith("weighted_by"):
            return
        lazy = lazy.weighted_by(torch.ones(B, H, T, D))
    check(name, lambda x: OF_MAP[name](lazy, x))
