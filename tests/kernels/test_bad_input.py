"""What attend refuses: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import interp_kernels as ik
from interp_kernels import Mask

B, HQ, HKV, TQ, TK, D, DV = 2, 4, 2, 5, 7, 8, 6


def arguments() -> dict:
    return {"q": torch.zeros(B, HQ, TQ, D), "k": torch.zeros(B, HKV, TK, D), "v": torch.zeros(B, HKV, TK, DV)}


def longs(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def by_class(values: torch.Tensor, classes: torch.Tensor | None = None) -> ik.ClassBias:
    return ik.ClassBias(values, longs(TK) if classes is None else classes)


def keep(batch: int, keys: int) -> Mask:
    return Mask.from_padding(torch.ones(batch, keys, dtype=torch.bool))


TENSORS = [
    ({"q": None}, "q: expected a tensor of 4 dimensions [B, H, T, D], got None"),
    (
        {"k": torch.zeros(2, 7, 8)},
        "k: expected a tensor of 4 dimensions [B, H, T, D], got torch.float32 of shape [2, 7, 8]",
    ),
    ({"v": longs(2, 2, 7, 6)}, "v: expected float16, bfloat16, float32 or float64, got torch.int64"),
    ({"k": torch.zeros(B, HKV, TK, D).double()}, "k: expected torch.float32 on cpu as q, got torch.float64 on cpu"),
    (
        {"v": torch.zeros(B, HKV, TK, DV, device="meta")},
        "v: expected torch.float32 on cpu as q, got torch.float32 on meta",
    ),
    ({"q": torch.zeros(B, HQ, 0, D)}, "q: no dimension may be 0, got shape [2, 4, 0, 8]"),
    ({"k": torch.zeros(1, HKV, TK, D)}, "k: expected [2, Hkv, Tk, 8] to fit q [2, 4, 5, 8], got [1, 2, 7, 8]"),
    ({"k": torch.zeros(B, HKV, TK, 9)}, "k: expected [2, Hkv, Tk, 8] to fit q [2, 4, 5, 8], got [2, 2, 7, 9]"),
    ({"v": torch.zeros(B, HKV, 8, DV)}, "v: expected [2, 2, 7, Dv] to fit k [2, 2, 7, 8], got [2, 2, 8, 6]"),
    (
        {"k": torch.zeros(B, 3, TK, D), "v": torch.zeros(B, 3, TK, DV)},
        "q, k: the 4 query heads must be a multiple of the 3 KV heads",
    ),
]

SETTINGS = [
    ({"scale": "1"}, "scale: expected a finite number, got '1'"),
    ({"scale": True}, "scale: expected a finite number, got True"),
    ({"scale": float("nan")}, "scale: expected a finite number, got nan"),
    ({"softcap": float("inf")}, "softcap: expected a finite number, got inf"),
    ({"softcap": 0}, "softcap: expected a number above 0, of at least 1.18e-38 in float32, got 0.0"),
    ({"softcap": 1e-40}, "softcap: expected a number above 0, of at least 1.18e-38 in float32, got 1e-40"),
    ({"softcap": 1e60}, "softcap: expected a number that float32 holds, at most 3.4e+38, got 1e+60"),
    ({"scale": -1e60}, "scale: expected a number that float32 holds, at most 3.4e+38, got -1e+60"),
    ({"sinks": torch.zeros(3)}, "sinks: expected a tensor of shape [4] or [2, 4, 5], got torch.float32 of shape [3]"),
    ({"sinks": [0.0] * 4}, "sinks: expected a tensor of shape [4] or [2, 4, 5], got [0.0, 0.0, 0.0, 0.0]"),
    ({"alibi": longs(4)}, "alibi: expected a floating tensor on cpu, got torch.int64 on cpu"),
    ({"alibi": torch.zeros(4, device="meta")}, "alibi: expected a floating tensor on cpu, got torch.float32 on meta"),
    ({"bias": 1.0}, "bias: expected a floating tensor on cpu, got 1.0"),
    ({"bias": longs(TQ, TK)}, "bias: expected a floating tensor on cpu, got torch.int64 of shape [5, 7]"),
    (
        {"bias": torch.zeros(TQ, TK + 1)},
        "bias: expected a shape broadcastable to [2, 4, 5, 7] or the relative bias [4, 11], got [5, 8]",
    ),
    (
        {"bias": torch.zeros(1, B, HQ, TQ, TK)},
        "bias: expected a shape broadcastable to [2, 4, 5, 7] or the relative bias [4, 11], got [1, 2, 4, 5, 7]",
    ),
    (
        {"sinks": torch.zeros(B, HQ, TK)},
        "sinks: expected a tensor of shape [4] or [2, 4, 5], got torch.float32 of shape [2, 4, 7]",
    ),
    (
        {"class_bias": torch.zeros(TQ, 2)},
        "class_bias: expected an interp_kernels.ClassBias, got torch.float32 of shape [5, 2]",
    ),
    (
        {"class_bias": by_class(torch.zeros(TK, 2))},
        (
            "class_bias.values: expected a tensor of shape [2, 4, 5, C] or [2, 1, 5, C] or [1, 4, 5, C] or [1, 1, 5, C] or "
            "[5, C], got torch.float32 of shape [7, 2]"
        ),
    ),
    (
        {"class_bias": by_class(torch.zeros(1, 2, TQ, 2))},
        (
            "class_bias.values: expected a tensor of shape [2, 4, 5, C] or [2, 1, 5, C] or [1, 4, 5, C] or [1, 1, 5, C] or "
            "[5, C], got torch.float32 of shape [1, 2, 5, 2]"
        ),
    ),
    (
        {"class_bias": by_class(longs(TQ, 2))},
        "class_bias.values: expected a floating tensor on cpu, got torch.int64 on cpu",
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2, device="meta"))},
        "class_bias.values: expected a floating tensor on cpu, got torch.float32 on meta",
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2), longs(TQ))},
        (
            "class_bias.classes: expected a tensor of shape [2, 4, 7] or [2, 1, 7] or [1, 4, 7] or [1, 1, 7] or [7], "
            "got torch.int64 of shape [5]"
        ),
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2), torch.zeros(TK))},
        "class_bias.classes: expected an integer tensor on cpu, got torch.float32 on cpu",
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2), torch.zeros(TK, dtype=torch.bool))},
        "class_bias.classes: expected an integer tensor on cpu, got torch.bool on cpu",
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2), longs(TK) + 2)},
        (
            "class_bias.classes: expected integers from 0 to 1, a column of class_bias.values [5, 2] for each; "
            "got integers from 2 to 2"
        ),
    ),
    (
        {"class_bias": by_class(torch.zeros(TQ, 2), torch.arange(TK) - 6)},
        (
            "class_bias.classes: expected integers from 0 to 1, a column of class_bias.values [5, 2] for each; "
            "got integers from -6 to 0"
        ),
    ),
    ({"backend": "cuda"}, "backend: expected one of ['auto', 'reference', 'cpu', 'triton'], got 'cuda'"),
]

MASKS = [
    ({"mask": None}, "mask: expected an interp_kernels.Mask, got None"),
    ({"mask": torch.ones(TQ, TK)}, "mask: expected an interp_kernels.Mask, got torch.float32 of shape [5, 7]"),
    ({"mask": keep(B, TQ)}, "mask.keep: expected shape [2, 7] on cpu, got torch.bool of shape [2, 5]"),
    ({"mask": keep(1, TK)}, "mask.keep: expected shape [2, 7] on cpu, got torch.bool of shape [1, 7]"),
    (
        {"mask": Mask.from_documents(longs(B, 6))},
        (
            "mask.documents: expected an id for each of the 7 positions, [2, 7], with the first query at 0 or later; "
            "got [2, 6] and the first query at 2"
        ),
    ),
    (
        {"mask": Mask.from_documents(longs(B, 7)) & Mask.causal(offset=3)},
        (
            "mask.documents: expected an id for each of the 8 positions, [2, 8], with the first query at 0 or later; "
            "got [2, 7] and the first query at 3"
        ),
    ),
    (
        {"mask": Mask.from_documents(longs(B, 7)) & Mask.causal(offset=-1)},
        (
            "mask.documents: expected an id for each of the 7 positions, [2, 7], with the first query at 0 or later; "
            "got [2, 7] and the first query at -1"
        ),
    ),
    (
        {"mask": Mask.from_documents(longs(B, 7)).to("meta")},
        "mask.documents: expected a tensor on cpu, got meta",
    ),
]


class Unknown(ik.Entropy):
    """A probe that no backend knows."""


EDGES = "expected two or more strictly increasing integers from 0 to 2^62, of which the last may be math.inf"

BAD_EDGES: list[Any] = [
    (),
    (1,),
    (math.inf,),
    5,
    (2, 2),
    (3, 1),
    (-1, 4),
    (0, 1.5),
    (0, math.inf, math.inf),
    (math.inf, 3),
    (0, math.nan),
    (0, True),
    (0, 1 << 63),
]

PROBES = [
    (["entropy"], "probes: expected instances of Entropy, Peak, KeyMass, ..., got 'entropy'"),
    (
        [ik.Entropy],
        "probes: expected instances of Entropy, Peak, KeyMass, ..., got <class 'interp_kernels.probes.Entropy'>",
    ),
    ([ik.Probe()], "probes: expected instances of Entropy, Peak, KeyMass, ..., got Probe(name=None"),
    ([Unknown()], "probes: expected instances of Entropy, Peak, KeyMass, ..., got Unknown(name=None"),
    ([ik.Entropy(), ik.Entropy()], "probes: names must differ, ['entropy'] come twice; give each its own name="),
    (
        [ik.Peak(), ik.Entropy(name="peak_index")],
        "probes: names must differ, ['peak_index'] come twice; give each its own name=",
    ),
    ([ik.Entropy(reduce="sum")], "Entropy.reduce: expected 'none' or 'mean', got 'sum'"),  # pyright: ignore[reportArgumentType]
    (
        [ik.Peak(queries=torch.ones(TK, dtype=torch.bool))],
        "Peak.queries: expected a tensor of shape [5] or [2, 5], got torch.bool of shape [7]",
    ),
    ([ik.Peak(queries=torch.ones(TQ))], "Peak.queries: expected a bool tensor on cpu, got torch.float32 on cpu"),
    (
        [ik.KeyMass(torch.ones(TK))],
        "KeyMass.weights: expected a tensor of shape [7, C] or [2, 7, C] or [2, 4, 7, C], got torch.float32 of shape [7]",
    ),
    (
        [ik.KeyMass(torch.ones(TQ, 1))],
        "KeyMass.weights: expected a tensor of shape [7, C] or [2, 7, C] or [2, 4, 7, C], got torch.float32 of shape [5, 1]",
    ),
    (
        [ik.KeyMass(torch.ones(TK, 0))],
        "KeyMass.weights: expected a tensor of shape [7, C] or [2, 7, C] or [2, 4, 7, C], got torch.float32 of shape [7, 0]",
    ),
    (
        [ik.KeyMass(torch.ones(TK, 1, dtype=torch.complex64))],
        "KeyMass.weights: expected a real tensor on cpu, got torch.complex64 on cpu",
    ),
    (
        [ik.LabelMatch(longs(TK), longs(TK))],
        "LabelMatch.query_labels: expected a tensor of shape [5] or [2, 5], got torch.int64 of shape [7]",
    ),
    (
        [ik.LabelMatch(longs(TQ), longs(3, TK))],
        "LabelMatch.key_labels: expected a tensor of shape [7] or [2, 7], got torch.int64 of shape [3, 7]",
    ),
    (
        [ik.LabelMatch(longs(TQ), torch.zeros(TK))],
        "LabelMatch.key_labels: expected an integer tensor on cpu, got torch.float32 on cpu",
    ),
    ([ik.OffsetMass(())], "OffsetMass.offsets: expected a non-empty tuple of integers, got ()"),
    ([ik.OffsetMass(1)], "OffsetMass.offsets: expected a non-empty tuple of integers, got 1"),  # pyright: ignore[reportArgumentType]
    ([ik.OffsetMass((1, 0.5))], "OffsetMass.offsets: expected a non-empty tuple of integers, got (1, 0.5)"),  # pyright: ignore[reportArgumentType]
    ([ik.Distance(window=0)], "Distance.window: expected None or an integer of at least 1, got 0"),
    ([ik.Distance(window=2.0)], "Distance.window: expected None or an integer of at least 1, got 2.0"),  # pyright: ignore[reportArgumentType]
    (
        [ik.Received(reduce="mean")],
        "Received.reduce: it has a value per key and no query axis to average; use weights= or queries=",
    ),
    (
        [ik.Received(torch.ones(TK))],
        "Received.weights: expected a tensor of shape [5] or [2, 5] or [2, 4, 5], got torch.float32 of shape [7]",
    ),
    ([ik.Received(longs(TQ))], "Received.weights: expected a floating tensor on cpu, got torch.int64 on cpu"),
    ([ik.TopK(0)], "TopK.k: expected an integer of at least 1, got 0"),
    ([ik.TopK(True)], "TopK.k: expected an integer of at least 1, got True"),
    ([ik.TopK(2.0)], "TopK.k: expected an integer of at least 1, got 2.0"),  # pyright: ignore[reportArgumentType]
    (
        [ik.TopK(2), ik.Entropy(name="top_k_index")],
        "probes: names must differ, ['top_k_index'] come twice; give each its own name=",
    ),
    *(([ik.DistanceHistogram(edges)], f"DistanceHistogram.edges: {EDGES}, got {edges!r}") for edges in BAD_EDGES),
    ([ik.Pooled(0)], "Pooled.block: expected an integer of at least 1, got 0"),
    ([ik.Pooled(2.5)], "Pooled.block: expected an integer of at least 1, got 2.5"),  # pyright: ignore[reportArgumentType]
    ([ik.Pooled(4, "sum")], "Pooled.op: expected 'mean' or 'max', got 'sum'"),  # pyright: ignore[reportArgumentType]
    (
        [ik.Pooled(4, reduce="mean")],
        "Pooled.reduce: it has a value per square and no query axis to average; use queries=",
    ),
    (
        [ik.Pooled(4, queries=torch.ones(TK, dtype=torch.bool))],
        "Pooled.queries: expected a tensor of shape [5] or [2, 5], got torch.bool of shape [7]",
    ),
]


@pytest.mark.parametrize(("given", "message"), TENSORS + SETTINGS + MASKS)
def test_an_argument_that_does_not_fit_is_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ik.attend(**(arguments() | given))


@pytest.mark.parametrize(("probes", "message"), PROBES)
def test_a_probe_that_does_not_fit_is_named(probes: list, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ik.attend(**arguments(), probes=probes)


def test_good_arguments_beside_the_bad_ones_are_taken() -> None:
    given = arguments() | {
        "scale": 1,
        "softcap": 2,
        "sinks": torch.zeros(4),
        "alibi": torch.zeros(4),
        "bias": torch.zeros(()),
        "class_bias": by_class(torch.zeros(1, HQ, TQ, 1)),
    }
    mask = keep(B, TK) & Mask.from_documents(longs(B, 9))
    probes = [
        ik.Entropy(name="a"),
        ik.Entropy(name="b"),
        ik.OffsetMass([1, 2]),  # pyright: ignore[reportArgumentType]
        ik.DistanceHistogram([0, 1 << 62, math.inf]),  # pyright: ignore[reportArgumentType]
        ik.TopK(3 * TK),
        ik.TopK(1, name="mean", reduce="mean"),
        ik.Distance(name="mean_index"),
        ik.Pooled(100, "max"),
    ]
    named = ["a", "b", "offset_mass", "distance_histogram", "top_k", "top_k_index", "mean", "mean_index", "pooled"]
    for backend in ("reference", "cpu"):
        assert list(ik.attend(**given, mask=mask, probes=probes, backend=backend).stats) == named
