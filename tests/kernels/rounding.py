"""How far from float64 a result may lie: the rule, and what plain attention in the same precision is.

    |result - golden| <= 2 max |plain - golden| + 4 ulp(scale)

golden  float64, of the same rounded inputs (``oracle``)
plain   dense attention, as a model without fused kernels computes it.
        The output in the inputs' dtype: scores, probabilities and product are rounded to it, the softmax is taken in
        float32 (the eager attention of transformers).
        Log-sum-exp and statistics from a dense float32 map, whatever the inputs' dtype, since that is the precision that
        ``attend`` promises for its sums. It is the stricter reading: a bfloat16 map lies thousands of times farther off.
        How plain attention rounds is a matter of chance: of the order of the widths and keys, of how BLAS sums for few
        rows or many, of whether the queries are scaled or the scores, of whether a sum runs on or goes in blocks. On a
        row of two keys it is exact by luck. Its error is therefore the largest of a few such evaluations.
scale   the largest magnitude of the value in this call; of a sum with terms of both signs, that of the sum of their
        magnitudes; of the log-sum-exp, that of the scores. ulp is that of the result's dtype.

An index may differ from the golden one only where the two probabilities are closer than the bound of the value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import interp_kernels as ik
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.oracle import Map

EVALUATIONS = 4
COPIES = 16
"""In odd evaluations the queries are scaled, in even ones the scores; the rows stand among as many copies; and the
statistics add up their terms one after another."""


def bounds(case: Case, golden: Map) -> dict[str, tuple[np.ndarray, float]]:
    """The golden value and the bound of the error of the output, the log-sum-exp and every statistic but indices."""
    expected = _values(case, golden, oracle.output(golden, case.v.double().numpy()))
    plain = [
        _values(case, plain_map(case, golden, evaluation), plain_output(case, golden, evaluation))
        for evaluation in range(EVALUATIONS)
    ]
    scales = _scales(case, golden)
    allowed = {}
    for name, value in expected.items():
        error = max(np.nanmax(_difference(other[name], value), initial=0.0) for other in plain)
        dtype = case.v.dtype if name == "output" else torch.float32
        allowed[name] = (value, 2 * error + 4 * _ulp(scales[name], dtype))
    return allowed


def excess(result: torch.Tensor, golden: np.ndarray) -> float:
    """The largest error; NaN and infinities must be the same in both."""
    value = result.double().numpy()
    np.testing.assert_array_equal(np.isfinite(value), np.isfinite(golden))
    np.testing.assert_array_equal(value[~np.isfinite(golden)], golden[~np.isfinite(golden)])
    return float(np.nanmax(_difference(value, golden), initial=0.0))


def check_index(index: torch.Tensor, expected: np.ndarray, golden: Map, bound: float) -> None:
    """The keys are those of ``expected`` but where probabilities differ by less than ``bound``; -1 in the same places.

    index, expected: [B, H, Tq] or [B, H, Tq, k]. Keys must be visible, and those of one row different ones.
    """
    found, wanted = (x.reshape(*golden.lse.shape, -1) for x in (index.numpy(), expected))
    np.testing.assert_array_equal(found < 0, wanted < 0)
    named = found >= 0
    np.testing.assert_array_equal(found[~named], -1)
    at, best = found.clip(min=0), wanted.clip(min=0)
    assert np.take_along_axis(golden.visible, at, axis=-1)[named].all(), "an index of a hidden key"
    ordered = np.sort(found, axis=-1)
    assert ((ordered[..., 1:] != ordered[..., :-1]) | (ordered[..., 1:] < 0)).all(), "a key named twice"
    off = np.abs(np.take_along_axis(golden.p, best, axis=-1) - np.take_along_axis(golden.p, at, axis=-1))[named]
    largest = off.max(initial=0.0)
    assert largest <= bound, f"the key named and the right one differ by {largest:.3g}, allowed {bound:.3g}"


def plain_map(case: Case, golden: Map, evaluation: int = 0, dtype: torch.dtype = torch.float32) -> Map:
    """The dense map with scores in ``dtype`` and the softmax in float32. ``evaluation`` numbers an order of summation."""
    (_, heads, queries, width), keys = case.q.shape, case.k.shape[2]
    widths, columns = _order(width, evaluation), _order(keys, evaluation)
    q = case.q.to(dtype)[..., widths]
    k = case.k.to(dtype)[:, :, columns][..., widths].repeat_interleave(heads // case.k.shape[1], dim=1)
    scale = width**-0.5 if case.scale is None else case.scale
    if evaluation % 2 == 0:
        s = q @ k.transpose(-1, -2) * scale
    else:
        s = ((q * scale).repeat(1, 1, COPIES, 1) @ k.transpose(-1, -2))[:, :, :queries]
    if case.softcap is not None:
        s = torch.tanh(s / case.softcap) * case.softcap
    i, j = torch.arange(queries) + case.sight.offset, columns
    if case.alibi is not None:
        s = s - case.alibi.to(dtype)[:, None, None] * (i[:, None] - j).abs()
    if case.bias is not None and case.bias.shape == (heads, queries + keys - 1):
        s = s + case.bias.to(dtype)[:, j - torch.arange(queries)[:, None] + queries - 1]
    elif case.bias is not None:
        s = s + case.bias.to(dtype).expand(*s.shape[:2], queries, keys)[..., columns]
    if case.class_bias is not None:
        s = s + case.added_by_class().to(dtype)[..., columns]
    s = s.float().masked_fill(~torch.from_numpy(golden.visible)[..., columns], -torch.inf)
    if case.sinks is not None:
        s = torch.cat([s, case.row_sinks().float()[..., None]], dim=-1)
    # A row without a key is not defined for plain attention: the softmax gives NaN.
    p = s.softmax(dim=-1).nan_to_num()[..., columns.argsort()].numpy()
    s, lse = s[..., columns.argsort()].numpy(), s.logsumexp(dim=-1).numpy()
    return Map(p, golden.visible, s, lse, case.sight.offset, one_by_one=evaluation % 2 == 1)


def plain_output(case: Case, golden: Map, evaluation: int = 0) -> np.ndarray:
    p = torch.from_numpy(plain_map(case, golden, evaluation, case.v.dtype).p).to(case.v.dtype)
    keys = _order(p.shape[-1], evaluation)
    v = case.v.repeat_interleave(p.shape[1] // case.v.shape[1], dim=1)[:, :, keys]
    copies = 1 if evaluation % 2 == 0 else COPIES
    return (p[..., keys].repeat(1, 1, copies, 1) @ v)[:, :, : p.shape[2]].double().numpy()


def _order(n: int, evaluation: int) -> torch.Tensor:
    """The natural order first, then random ones."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(evaluation)) if evaluation else torch.arange(n)


def _values(case: Case, m: Map, output: np.ndarray) -> dict[str, np.ndarray]:
    values = {"output": output, "lse": m.lse}
    for probe in case.probes:
        measured = oracle.measure(probe, m)
        values[probe.label] = measured[probe.label]
    return values


def _scales(case: Case, golden: Map) -> dict[str, float]:
    unsigned = replace(case, probes=tuple(_unsigned(probe) for probe in case.probes))
    values = _values(unsigned, golden, oracle.output(golden, case.v.double().abs().numpy()))
    values["lse"] = np.append(values["lse"], golden.scores)
    return {name: float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) for name, value in values.items()}


def _unsigned(probe: ik.Probe) -> ik.Probe:
    return replace(probe, weights=probe.weights.float().abs()) if isinstance(probe, ik.KeyMass) else probe


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|, 0 where b is not finite."""
    finite = np.isfinite(b)
    return np.abs(np.where(finite, a, 0.0) - np.where(finite, b, 0.0))


def _ulp(scale: float, dtype: torch.dtype) -> float:
    """The distance between neighbours at ``scale``; among subnormal numbers it no longer shrinks."""
    info = torch.finfo(dtype)
    return info.eps * max(2.0 ** np.floor(np.log2(scale)), info.smallest_normal) if scale else 0.0
