"""Edits by their definition, on dense maps in float64, inside the model itself. Shares no code with interp.

A model of transformers whose attention is set to ``DENSE`` builds P, changes it as the innermost ``dense_run`` says, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

DENSE = "dense_edits_of_the_tests"

Layer = int | str


@dataclass(frozen=True)
class Map:
    """Some heads of a layer.

    p        [B, n, Tq, Tk], the probabilities
    rest     [B, n, Tq, 1], what rows lack to 1: the sink's share
    visible  bool [B, n, Tq, Tk]
    """

    p: Tensor
    rest: Tensor
    visible: Tensor

    def renormalised(self) -> Map:
        total = self.p.sum(-1, keepdim=True) + self.rest
        total = torch.where(total > 0, total, 1.0)
        return replace(self, p=self.p / total, rest=self.rest / total)


OfMap = Callable[[Map], Map]
OfOutput = Callable[[Tensor], Tensor]


def uniform(of: Map) -> Map:
    count = of.visible.sum(-1, keepdim=True)
    return Map(of.visible.to(of.p) / count.clamp(min=1), torch.zeros_like(of.rest), of.visible)


def cut(edges: Tensor, renormalize: bool = True) -> OfMap:
    """edges: bool, broadcastable to [B, n, Tq, Tk]."""

    def change(of: Map) -> Map:
        left = Map(torch.where(edges, 0.0, of.p), of.rest, of.visible & ~edges)
        if renormalize:
            return left.renormalised()
        return replace(left, rest=of.rest + torch.where(edges, of.p, 0.0).sum(-1, keepdim=True))

    return change


def recalibrate(flagged: Tensor, factor: float) -> OfMap:
    """flagged: bool, broadcastable to [B, n, Tq, Tk]."""

    def change(of: Map) -> Map:
        s = torch.where(flagged, of.p, 0.0).sum(-1, keepdim=True)
        u = torch.where(flagged, 0.0, of.p).sum(-1, keepdim=True)
        gain = (u + (1 - factor) * s) / torch.where(u > 0, u, 1.0)
        return replace(of, p=torch.where(u > 0, torch.where(flagged, factor * of.p, gain * of.p), of.p))

    return change


def times(factor: float) -> OfOutput:
    return lambda z: factor * z


def put(new: Tensor, at: Tensor | None = None) -> OfOutput:
    """new: broadcastable to [B, n, Tq, Dv]; at: bool [B|1, Tq], everywhere if None."""
    return lambda z: new.expand_as(z) if at is None else torch.where(at[:, None, :, None], new, z)


@dataclass
class Run:
    """What to change in a run, in order, and what came of it, by layer."""

    changes: Sequence[tuple[Mapping[Layer, Sequence[int]], OfMap]] = ()
    outputs: Sequence[tuple[Mapping[Layer, Sequence[int]], OfOutput]] = ()
    keys: Mapping[int, Layer] = field(default_factory=dict)
    maps: dict[Layer, Tensor] = field(default_factory=dict)
    z: dict[Layer, Tensor] = field(default_factory=dict)


_run: list[Run] = []


@contextmanager
def dense_run(model: PreTrainedModel, layers: Mapping[Layer, str], **what: Any) -> Iterator[Run]:
    """While it lasts, ``model`` runs dense attention changed as said. layers: key -> path of the attention module."""
    run = Run(keys={id(model.get_submodule(path)): key for key, path in layers.items()}, **what)
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}.values()
    before = [config._attn_implementation for config in configs]
    _run.append(run)
    try:
        for config in configs:
            config._attn_implementation = DENSE
        with torch.no_grad():
            yield run
    finally:
        _run.pop()
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def dense_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    group = query.shape[1] // key.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = query @ k.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    visible = torch.ones_like(scores, dtype=torch.bool)
    if attention_mask is not None:
        visible = visible & (attention_mask > -1e30)
    sinks = torch.full_like(scores[..., :1], -1e300) if s_aux is None else s_aux[None, :, None, None]
    # -1e300: a row that sees nothing has weight 0 everywhere, and no NaN.
    hidden = torch.where(visible, scores, -torch.inf)
    largest = torch.maximum(hidden.amax(-1, keepdim=True), sinks.expand_as(scores[..., :1]))
    weights, sink = (hidden - largest).exp(), (sinks - largest).exp()
    if s_aux is None:
        sink = torch.zeros_like(sink)
    of = Map(weights, sink.expand_as(scores[..., :1]), visible).renormalised()
    run = _run[-1]
    layer = run.keys[id(module)]
    for heads_of, change in run.changes:
        if heads := list(heads_of.get(layer, ())):
            new = change(Map(of.p[:, heads], of.rest[:, heads], of.visible[:, heads]))
            index = torch.tensor(heads)
            of = Map(
                of.p.index_copy(1, index, new.p),
                of.rest.index_copy(1, index, new.rest),
                of.visible.index_copy(1, index, new.visible.expand_as(new.p)),
            )
    z = of.p @ v
    for heads_of, change in run.outputs:
        if heads := list(heads_of.get(layer, ())):
            z = z.index_copy(1, torch.tensor(heads), change(z[:, heads]))
    run.maps[layer], run.z[layer] = of.p, z
    return z.transpose(1, 2).contiguous(), of.p


AttentionInterface.register(DENSE, dense_attention)
AttentionMaskInterface.register(DENSE, eager_mask)
