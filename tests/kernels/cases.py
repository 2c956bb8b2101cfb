"""Random calls of ``attend`` for hypothesis: shapes, masks, features and probes, each call as torch sees it and as numpy does.

INTERP_EXAMPLES=20000 pytest tests/kernels      many more examples, other ones each time; the seed is printed
INTERP_SEED=123 INTERP_EXAMPLES=20000 pytest …  the same ones again
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.util import find_spec
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import interp_kernels as ik
from interp_kernels.backends import tiled
from tests.kernels import on_device
from tests.kernels.oracle import Map, Sight, attention_map

IS_COMPILED = find_spec("numba") is not None
BACKENDS = ("reference", "cpu", *(["cpu tiles"] if IS_COMPILED else []), "tiled", "tiled tiles")
"""What ``Case.attend`` takes, beside "triton"; "tiled" is what serves where nothing is compiled, "tiles" are the smallest."""

EXAMPLES = os.environ.get("INTERP_EXAMPLES")
SEED = int(os.environ.get("INTERP_SEED") or secrets.randbelow(2**32))


def randomised(examples: int) -> Callable[[Callable], Callable]:
    """Run a property on ``examples`` fixed draws; on INTERP_EXAMPLES draws of a fresh, printed seed if that is set."""
    slow = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
    common = {"deadline": None, "database": None, "suppress_health_check": slow}

    def decorate(test: Callable) -> Callable:
        if EXAMPLES is None:
            return hypothesis.settings(max_examples=examples, derandomize=True, **common)(test)
        return hypothesis.seed(SEED)(hypothesis.settings(max_examples=int(EXAMPLES), print_blob=True, **common)(test))

    return decorate


@dataclass(frozen=True, repr=False)
class Case:
    """The arguments of one call. ``sight`` says in plain data what ``mask`` says in the library's words."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: ik.Mask
    sight: Sight
    scale: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    alibi: Tensor | None = None
    bias: Tensor | None = None
    class_bias: ik.ClassBias | None = None
    probes: tuple[ik.Probe, ...] = ()

    def __repr__(self) -> str:
        return described(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def rounded(self, dtype: torch.dtype) -> Case:
        """The same call with every floating input rounded to ``dtype``."""
        given = {name: getattr(self, name) for name in ("q", "k", "v", "sinks", "alibi", "bias")}
        given = {name: None if x is None else x.to(dtype) for name, x in given.items()}
        by_class = self.class_bias
        by_class = None if by_class is None else replace(by_class, values=by_class.values.to(dtype))
        return replace(self, **given, class_bias=by_class)

    def attend(self, backend: str, probes: tuple[ik.Probe, ...] | None = None) -> ik.Attended:
        if backend == "triton":
            return on_device.attend(self, self.probes if probes is None else probes)
        attended = ik.attend(
            self.q,
            self.k,
            self.v,
            mask=self.mask,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            alibi=self.alibi,
            bias=self.bias,
            class_bias=self.class_bias,
            probes=self.probes if probes is None else probes,
            backend="reference" if backend == "reference" else "cpu",
        )
        if backend in ("reference", "cpu"):
            return attended
        ops, probes = attended.map.operands, self.probes if probes is None else probes
        run = tiled.run
        if backend == "cpu tiles" and ops.compute_dtype == torch.float32:
            from interp_kernels.backends.cpu.passes import run
        output, lse, stats = run(ops, probes, 1) if backend.endswith("tiles") else run(ops, probes)
        return replace(attended, output=output, lse=lse, stats=stats, map=replace(attended.map, lse=lse))

    def golden(self) -> Map:
        """The map in float64, of the inputs as they are."""

        def wide(x: Tensor | None) -> np.ndarray | None:
            return None if x is None else x.double().numpy()

        return attention_map(
            self.q.double().numpy(),
            self.k.double().numpy(),
            self.sight,
            scale=self.scale,
            softcap=self.softcap,
            sinks=wide(self.sinks),
            alibi=wide(self.alibi),
            bias=wide(self.bias),
            class_values=None if self.class_bias is None else wide(self.class_bias.values),
            classes=None if self.class_bias is None else self.class_bias.classes.numpy(),
        )

    def added_by_class(self) -> Tensor:
        """The dense bias that ``class_bias`` stands for, broadcastable to [B, Hq, Tq, Tk]."""
        assert self.class_bias is not None
        values, classes = self.class_bias.values, self.class_bias.classes
        one_hot = torch.arange(values.shape[-1])[:, None] == classes[..., None, :]
        return torch.where(one_hot[..., None, :, :], values[..., None], 0.0).sum(dim=-2)

    def row_sinks(self) -> Tensor:
        """The sink of every row, [B, Hq, Tq]; -inf where there are none."""
        shape = self.q.shape[:3]
        if self.sinks is None:
            return torch.full(shape, -torch.inf)
        return (self.sinks if self.sinks.ndim == 3 else self.sinks[:, None]).expand(shape)


def described(value: object) -> str:
    """Shapes and settings, for hypothesis to print: the numbers follow from its seed."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(described(x) for x in value)})"
    if is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        return f"{type(value).__name__}({', '.join(f'{n}={described(x)}' for n, x in given.items() if x is not None)})"
    return repr(value)


@st.composite
def cases(draw: st.DrawFn, long: bool = False, probes: bool = True) -> Case:
    """A random call in float64 whose floating inputs are exact in float32. ``long``: more than one key tile and row block."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).double()

    batch, kv_heads = draw(st.integers(1, 2 if long else 3)), draw(st.integers(1, 2))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3]))
    if long:
        queries, keys = draw(st.sampled_from([(1, 300), (20, 290), (150, 150), (70, 129), (17, 257), (140, 20)]))
    else:
        lengths = [draw(st.integers(1, 24)), draw(st.integers(1, 24))]
        queries, keys = sorted(lengths) if draw(st.booleans()) else lengths
    width, value_width = draw(st.sampled_from([20, 8, 80, 1])), draw(st.sampled_from([8, 5, 80, 1]))
    mask, sight = draw(masks(batch, queries, keys))
    relative = (heads, queries + keys - 1)
    shapes = [
        relative,
        None,
        relative,
        None,
        None,
        None,
        (),
        (queries, keys),
        (heads, 1, keys),
        (batch, 1, queries, keys),
    ]
    shapes += [None, (batch, heads, queries, 1), (1, heads, queries, keys), (batch, heads, queries, keys)]
    shape, bias = draw(st.sampled_from(shapes)), None
    if shape is not None:
        bias = 2 * normal(*shape)
        hiding = draw(st.sampled_from([None, -torch.inf, float(torch.finfo(torch.bfloat16).min)]))
        if hiding is not None:
            bias = bias.masked_fill(torch.rand(bias.shape, generator=random) < 0.3, hiding)
    class_bias = None
    if draw(st.sampled_from([False, False, True])):
        class_bias = draw(class_biases(batch, heads, queries, keys, random))
    sinks = draw(st.sampled_from([None, (heads,), None, (heads,), (batch, heads, queries)]))
    if sinks is not None:
        sinks = 3 * normal(*sinks)
        if draw(st.booleans()):
            sinks = sinks.masked_fill(torch.rand(sinks.shape, generator=random) < 0.3, -torch.inf)
    case = Case(
        q=normal(batch, heads, queries, width) * draw(st.sampled_from([1.0, 0.3, 5.0, 1.0, 0.0])),
        k=normal(batch, kv_heads, keys, width),
        v=normal(batch, kv_heads, keys, value_width),
        mask=mask,
        sight=sight,
        scale=draw(st.sampled_from([None, 0.25, -0.5])),
        softcap=draw(st.sampled_from([None, None, 0.5, 30.0])),
        sinks=sinks,
        alibi=draw(st.sampled_from([0.01, 1.0])) * normal(heads).abs() if draw(st.booleans()) else None,
        bias=bias,
        class_bias=class_bias,
    )
    return replace(case, probes=draw(probe_sets(case, random))) if probes else case


@st.composite
def class_biases(
    draw: st.DrawFn, batch: int, heads: int, queries: int, keys: int, random: torch.Generator
) -> ik.ClassBias:
    """Values and classes, each shared or of every head or sequence; some values hide their class."""
    count = draw(st.sampled_from([2, 1, 3, 40]))
    leading = [(), (batch, heads), (1, heads), (batch, 1)]
    values = 2 * torch.randn(*draw(st.sampled_from(leading)), queries, count, generator=random).double()
    hiding = draw(st.sampled_from([-torch.inf, None, float(torch.finfo(torch.bfloat16).min)]))
    if hiding is not None:
        values = values.masked_fill(torch.rand(values.shape, generator=random) < 0.4, hiding)
    kind = draw(st.sampled_from([torch.int64, torch.int32, torch.uint8]))
    classes = torch.randint(0, count, (*draw(st.sampled_from(leading)), keys), generator=random).to(kind)
    return ik.ClassBias(values, classes)


@st.composite
def masks(draw: st.DrawFn, batch: int, queries: int, keys: int) -> tuple[ik.Mask, Sight]:
    """A mask built with the class methods and ``&``, of up to three conditions, one of them perhaps twice."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parts: list[ik.Mask] = []
    causal, windows, keeps, documents, predicates = False, [], [], [], []
    offset = keys - queries
    kinds = ["causal", "full", "padding", "documents", "predicate", "offset"]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
        if kind in ("causal", "full"):
            window = draw(st.none() | st.integers(1, keys + 3))
            windows += [] if window is None else [window]
            causal |= kind == "causal"
            parts.append(ik.Mask.causal(window=window) if kind == "causal" else ik.Mask.full(window=window))
        elif kind == "padding":
            keep = torch.rand(batch, keys, generator=random) < draw(st.sampled_from([0.8, 0.5, 0.8, 0.0]))
            keeps.append(keep.numpy())
            parts.append(ik.Mask.from_padding(keep if draw(st.booleans()) else keep.long()))
        elif kind == "documents":
            ids = torch.randint(0, 2, (batch, 2 * (queries + keys) + 4), generator=random)
            ids = ids if draw(st.booleans()) else ids.sort(dim=1).values
            documents.append(ids.numpy())
            parts.append(ik.Mask.from_documents(ids))
        elif kind == "predicate":
            n = draw(st.integers(2, 4))

            def predicate(b, i, j, n: int = n):
                return (i + 2 * j + b) % n != 0

            predicates.append(predicate)
            parts.append(ik.Mask.from_predicate(predicate))
        else:
            offset = draw(st.integers(-3, keys + 3))
            parts = [part.with_offset(offset) for part in parts]
            parts.append(ik.Mask.causal(offset=offset) if draw(st.booleans()) else ik.Mask.full().with_offset(offset))
            causal |= parts[-1].is_causal
    if documents and offset < 0:
        offset = 0
        parts = [part.with_offset(0) for part in parts]
    mask = parts[0]
    for part in parts[1:]:
        mask = mask & part
    return mask, Sight(offset, causal, tuple(windows), tuple(keeps), tuple(documents), tuple(predicates))


@st.composite
def probe_sets(draw: st.DrawFn, case: Case, random: torch.Generator) -> tuple[ik.Probe, ...]:
    """Some probes of every kind, in any order, with any of their options."""
    (batch, heads, queries, _), keys = case.q.shape, case.k.shape[2]

    def of_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        return draw(st.sampled_from(shapes))

    def labels(n: int) -> Tensor:
        return torch.randint(-1, 4, of_shape([(n,), (batch, n)]), generator=random)

    def options(index: int, kind: str) -> dict:
        given: dict = {"name": draw(st.sampled_from([None, f"p{index}"])) if index < len(kinds) else f"p{index}"}
        if draw(st.booleans()):
            shape = of_shape([(queries,), (batch, queries)])
            given["queries"] = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.6]))
        if kind not in ("received", "pooled"):
            given["reduce"] = draw(st.sampled_from(["none", "mean"]))
        return given

    kinds = ["entropy", "peak", "top_k", "key_mass", "label_match", "offset_mass"]
    kinds += ["distance", "distance_histogram", "received", "pooled"]
    chosen: list[ik.Probe] = []
    for index, kind in enumerate([*draw(st.permutations(kinds)), *draw(st.lists(st.sampled_from(kinds), max_size=3))]):
        common = options(index, kind)
        if kind == "entropy":
            chosen.append(ik.Entropy(**common))
        elif kind == "peak":
            chosen.append(ik.Peak(**common))
        elif kind == "top_k":
            chosen.append(ik.TopK(draw(st.integers(1, 6) | st.integers(1, keys + 3)), **common))
        elif kind == "key_mass":
            shape = (*of_shape([(keys,), (batch, keys), (batch, heads, keys)]), draw(st.integers(1, 3)))
            weights = torch.randn(shape, generator=random)
            chosen.append(ik.KeyMass(weights if draw(st.booleans()) else weights > 0, **common))
        elif kind == "label_match":
            chosen.append(ik.LabelMatch(labels(queries), labels(keys), strict=draw(st.booleans()), **common))
        elif kind == "offset_mass":
            offsets = draw(st.lists(st.integers(-keys - 2, keys + 2), min_size=1, max_size=3))
            chosen.append(ik.OffsetMass(tuple(offsets), **common))
        elif kind == "distance":
            chosen.append(ik.Distance(draw(st.none() | st.integers(1, keys + 1)), **common))
        elif kind == "distance_histogram":
            edges = draw(st.lists(st.integers(0, queries + keys + 4), min_size=2, max_size=6, unique=True).map(sorted))
            chosen.append(ik.DistanceHistogram((*edges, *draw(st.sampled_from([(), (math.inf,)]))), **common))
        elif kind == "pooled":
            size = draw(st.integers(1, 30) | st.integers(1, keys + queries))
            chosen.append(ik.Pooled(size, draw(st.sampled_from(["mean", "max"])), **common))
        else:
            shape = of_shape([(queries,), (batch, queries), (batch, heads, queries)])
            weights = torch.rand(shape, generator=random) if draw(st.booleans()) else None
            chosen.append(ik.Received(weights, normalize=draw(st.booleans()), **common))
    return tuple(chosen)
