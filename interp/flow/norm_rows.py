"""Rows of norm-based attention of one layer: N[q, k] = ||sum_h P_h[q, k] f_h(x_k)|| without the vectors of pairs.

One H x H Gram matrix a key does it: with G_k[h, g] = f_h(x_k) . f_g(x_k) and a = P[:, q, k], N[q, k]^2 = a^T G_k a.

Squares lose digits where heads cancel, so G is in float64. With S = sum_h a_h || |v_k| |W_O| ||, the size of what is summed,
and c = (2 Dv + d + 2 H + 4) 2^-53, the error of N^2 is at most c S^2, and that of N at most min(sqrt(c) S, c S^2 / N). Adding the
vectors in float32 may be (Dv + H) 2^-24 S away. For d = 4096, Dv = 128 and H = 32 that is 7e-7 S here at worst, and 1e-5 S there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.captures.residual import check_unedited
from interp.errors import InputError
from interp.flow.target import Tokens, tokens_out, tokens_read
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey
    from interp_kernels import Attended

GRAM_NUMBERS = 1 << 24
"""Numbers of the Gram matrices that are held at once: 128 MB. Those of 16,384 keys of 32 heads."""
CHUNK_NUMBERS = 1 << 22
"""Numbers of the f_h(x_k), or of rows of the map, that are held at once: 32 MB, and a few times that on the way."""


@dataclass(frozen=True, eq=False)
class Sides:
    """The tokens that are looked from and at, and how many columns each has in the batch."""

    queries: Tokens
    keys: Tokens
    shape: tuple[int, int]

    @classmethod
    def of(cls, model: HookedModel, batch: Batch, layer: LayerKey) -> Sides:
        stack = str(layer).rpartition(".")[0]
        read, out = (tokens_read(model, batch), batch.ids), (tokens_out(model, batch), decoder_ids(batch))
        (queries, of_queries), (keys, of_keys) = {"decoder": (out, out), "cross": (out, read)}.get(stack, (read, read))
        if queries.columns is None or keys.columns is None or of_queries is None or of_keys is None:
            raise InputError(
                f"inputs: expected a text or token ids; {model.name} reads none here, and norms are those of tokens"
            )
        return cls(queries, keys, (of_queries.shape[1], of_keys.shape[1]))

    @property
    def sequences(self) -> int:
        return len(self.queries.strings)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is looked at."""
        return max(map(len, self.keys.strings))


def decoder_ids(batch: Batch) -> Tensor | None:
    """What an encoder-decoder's decoder reads; None of another model."""
    return batch.others.get("decoder_input_ids")


@dataclass(frozen=True, eq=False)
class LayerRows:
    """Of one layer: mean weights and N [B, n, T]; P and n_h of its heads [B, n, H, T]. Without padding, NaN beyond the end."""

    heads: tuple[int, ...]
    weights: np.ndarray
    norms: np.ndarray
    head_weights: np.ndarray | None
    head_norms: np.ndarray | None


def of_layer(
    key: LayerKey,
    attended: Attended,
    weight: Tensor,
    heads: tuple[int, ...] | None,
    chosen: list[list[int]],
    sides: Sides,
    per_head: bool,
) -> LayerRows:
    """The rows of one layer.

    Args:
        weight: W_O of each head, [H, Dv, d].
        heads: which are added up; None: all.
        chosen: of each sequence the columns of the queries.

    Raises:
        InputError: the layer looks at other tokens than the input's, a head that does not exist, or an edit of outputs.
    """
    b, count, queries, keys = attended.map.shape
    if (b, queries, keys) != (sides.sequences, *sides.shape):
        raise InputError(
            f"layer {key}: it looks from {queries} positions of {b} sequences at {keys}, and the input has "
            f"{sides.shape[0]} and {sides.shape[1]} in {sides.sequences}; norms need layers that look at the input's own tokens"
        )
    heads = tuple(range(count)) if heads is None else heads
    if heads[-1] >= count:
        raise InputError(
            f"head {heads[-1]} of layer {key} does not exist: it has {count} query heads, 0 to {count - 1}"
        )
    size = (b, max(map(len, chosen)))
    rows = {
        "weights": torch.zeros(*size, keys, dtype=torch.float64),
        "norms": torch.zeros(*size, keys, dtype=torch.float64),
    }
    if per_head:
        of_heads = (*size, len(heads), keys)
        rows |= {name: torch.zeros(of_heads, dtype=torch.float64) for name in ("head_weights", "head_norms")}
    for part, columns, values in _parts(key, attended, weight, heads, chosen, per_head):
        place = {column: at for at, column in enumerate(columns)}
        for number, row in enumerate(chosen):
            n = [n for n, column in enumerate(row) if column in place]
            at = [place[row[each]] for each in n]
            for name, kept in rows.items():
                kept[number, n, ..., part] = values[name][number, at].cpu()
    packed = {name: _packed(kept, chosen, sides) for name, kept in rows.items()}
    return LayerRows(heads, packed["weights"], packed["norms"], packed.get("head_weights"), packed.get("head_norms"))


def _parts(
    key: LayerKey,
    attended: Attended,
    weight: Tensor,
    heads: tuple[int, ...],
    chosen: list[list[int]],
    per_head: bool,
) -> Iterator[tuple[slice, list[int], dict[str, Tensor]]]:
    """c keys, m columns of queries, and their numbers: "weights", "norms" [B, m, c]; "head_weights", "head_norms" [B, m, H, c].

    Gram matrices are made once for each key; rows once for each part of the keys, of which there is one unless T H^2 is large.
    """
    lazy, ops = attended.map, attended.map.operands
    b, count, _, keys = lazy.shape
    index = torch.tensor(heads, device=lazy.lse.device)
    every = sorted({column for row in chosen for column in row})
    counts = torch.tensor([[column in asked for column in every] for asked in map(set, chosen)], device=lazy.lse.device)
    step = max(1, GRAM_NUMBERS // (b * len(heads) ** 2))
    m = max(1, CHUNK_NUMBERS // (b * count * keys))
    w = weight.index_select(0, index)
    for first in range(0, keys, step):
        part = slice(first, min(first + step, keys))
        gram = gram_matrices(ops.v[:, :, part].index_select(1, index // ops.group), w)
        lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().mT[:, None]  # [B, 1, H, c]
        for start in range(0, len(every), m):
            columns = every[start : start + m]
            rows = lazy.rows(columns)  # [B, Hq, m, Tk]
            if first == 0:
                check_unedited(key, attended.output[:, :, columns], rows, ops.v, counts[:, start : start + m])
            p = rows[..., part].index_select(1, index).double().transpose(1, 2)  # [B, m, H, c]
            numbers = {"weights": p.mean(dim=2), "norms": norms_of_sums(p, gram)}
            yield part, columns, numbers | ({"head_weights": p, "head_norms": p * lengths} if per_head else {})


def gram_matrices(values: Tensor, weight: Tensor) -> Tensor:
    """G_k[h, g] = f_h(x_k) . f_g(x_k), f_h(x_k) = v_k W_O, in float64: [B, T, H, H].

    values: what each head reads, [B, H, T, Dv]; weight: W_O of each, [H, Dv, d].
    """
    b, heads, t, _ = values.shape
    wide = weight.double()
    found = torch.empty(b, t, heads, heads, dtype=torch.float64, device=values.device)
    step = max(1, CHUNK_NUMBERS // (b * heads * wide.shape[2]))
    for first in range(0, t, step):
        f = torch.matmul(values[:, :, first : first + step].double(), wide).transpose(1, 2)  # [B, c, H, d]
        torch.matmul(f, f.mT, out=found[:, first : first + step])
    return found


def norms_of_sums(p: Tensor, gram: Tensor) -> Tensor:
    """||sum_h p_h f_h(x_k)|| = sqrt(p^T G_k p): [B, m, T]. p: [B, m, H, T]; gram: [B, T, H, H]."""
    a = p.permute(0, 3, 1, 2)  # [B, T, m, H]
    # Rounding can leave heads that cancel a little below 0.
    return (torch.matmul(a, gram) * a).sum(dim=-1).clamp(min=0).sqrt().mT


def _packed(values: Tensor, chosen: list[list[int]], sides: Sides) -> np.ndarray:
    """Without padding: [B, n, ..., T of the longest], NaN beyond a sequence's tokens and positions."""
    assert sides.keys.columns is not None
    packed = np.full((*values.shape[:-1], sides.longest), np.nan)
    for number, (columns, rows) in enumerate(zip(sides.keys.columns, chosen, strict=True)):
        packed[number, : len(rows), ..., : len(columns)] = values[number, : len(rows)][..., columns].numpy()
    return packed
