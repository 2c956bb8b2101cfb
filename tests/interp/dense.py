"""Each statistic by its formula, in float64, from attention maps that a model itself returns. Shares no code with interp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def eager_maps(model: PreTrainedModel, ids: Tensor, keep: Tensor) -> list[Tensor]:
    """Each layer's map P [B, H, T, T] in float64, by ``output_attentions``; 0 in rows and columns of padding.

    Of gpt-oss the library returns the keys' columns alone, divided by sums that hold the sink, which is what P means there.
    """
    b, t = ids.shape
    maps: list[Tensor] = []
    for number, output in enumerate(alone(model, ids, keep, output_attentions=True)):
        for layer, attention in enumerate(output.attentions):
            if number == 0:
                maps.append(torch.zeros(b, attention.shape[1], t, t, dtype=torch.float64))
            size = attention.shape[-1]
            maps[layer][number, :, :size, :size] = attention[0]
    return maps


def alone(model: PreTrainedModel, ids: Tensor, keep: Tensor, **options: bool) -> Iterator[Any]:
    """The eager model's output on each sequence by itself and without its right padding.

    Together, a window of padding alone gives NaN in float64: the library hides keys by the least float64, and its softmax
    in float32 makes that -inf.
    """
    assert model.config._attn_implementation == "eager"
    for row, kept in zip(ids, keep, strict=True):
        with torch.no_grad():
            yield model(input_ids=row[kept][None], use_cache=False, **options)


def positions(p: Tensor) -> tuple[Tensor, Tensor]:
    t = p.shape[-1]
    return torch.arange(t)[:, None], torch.arange(t)[None, :]


def entropy(p: Tensor) -> Tensor:
    return -(p * torch.where(p > 0, p, 1.0).log()).sum(dim=-1)


def peak(p: Tensor) -> Tensor:
    return p.max(dim=-1).values


def key_mass(p: Tensor, weights: Tensor) -> Tensor:
    """weights [T, C] -> [B, H, T, C]."""
    return torch.einsum("bhij,jc->bhic", p, weights.double())


def label_match(p: Tensor, query_labels: Tensor, key_labels: Tensor, strict: bool) -> Tensor:
    """labels [B, T] -> [B, H, T]."""
    match = (query_labels[:, :, None] == key_labels[:, None, :]) & (query_labels[:, :, None] != -1)
    i, j = positions(p)
    if strict:
        match = match & (j < i)
    return (p * match[:, None]).sum(dim=-1)


def offset_mass(p: Tensor, offsets: Sequence[int]) -> Tensor:
    """[B, H, T, C]; 0 where i - d is no key."""
    t = p.shape[-1]
    columns = []
    for d in offsets:
        column = torch.zeros(p.shape[:3], dtype=p.dtype)
        for i in range(max(0, d), min(t, t + d)):
            column[:, :, i] = p[:, :, i, i - d]
        columns.append(column)
    return torch.stack(columns, dim=-1)


def distance(p: Tensor, window: int | None = None) -> Tensor:
    i, j = positions(p)
    apart = (i - j).abs() if window is None else (i - j).abs().clamp(max=window)
    return (p * apart).sum(dim=-1)


def received(p: Tensor, keep: Tensor, weights: Tensor | None = None) -> Tensor:
    """c_j = sum over kept queries of w_i P_ij. [B, H, T]."""
    w = keep.double() if weights is None else keep * weights.double()
    return torch.einsum("bi,bhij->bhj", w, p)


def visible_weight(visible: Tensor, keep: Tensor) -> Tensor:
    """sum over kept queries of m_ij, [B, 1, T]: what ``Received(normalize=True)`` divides by."""
    return (visible & keep[:, :, None]).double().sum(dim=1)[:, None]
