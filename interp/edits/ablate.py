"""Heads that write nothing, or always the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from interp.arguments import switch
from interp.captures.capture import Capture
from interp.edits.edit import Edit, heads_or_layers
from interp.edits.narrow import index_of
from interp.edits.source import check_fits, checked_source, kept_of, z_of
from interp.errors import InputError
from interp.inputs.batch import padding_of
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


def ablate(*heads: HeadSpec, layers: Iterable[LayerKey] | None = None) -> Edit:
    """Zero ablation: z'_i = 0. The heads write nothing; their maps stay what they are.

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named.
    """
    return ZeroAblation(heads=heads_or_layers("ablate", heads, layers), layers=layers)


def mean_ablate(
    *heads: HeadSpec,
    reference: Capture | Sequence[Capture],
    per_position: bool = False,
    layers: Iterable[LayerKey] | None = None,
) -> Edit:
    """Mean ablation: z'_i is the mean of z over a reference set, of each head by itself, over all positions that are no padding.

    With ``per_position`` it is, at column i, the mean over the sequences that have a token there.

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        reference: a capture of the reference set with ``outputs=True``, or several as a sequence.
        per_position: a mean for each column; it reaches as far as the reference does, and each column wants a token.
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named, or the reference holds nothing.
    """
    per_position = switch("mean_ablate: per_position", per_position)
    given = reference if isinstance(reference, Sequence) else (reference,)
    runs = tuple(checked_source("mean_ablate", "reference", each) for each in given)
    if not runs:
        raise InputError("mean_ablate: expected at least one capture for reference, got none")
    chosen = heads_or_layers("mean_ablate", heads, layers)
    return MeanAblation(heads=chosen, layers=layers, reference=runs, per_position=per_position)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ZeroAblation(Edit):
    """See ``ablate``."""

    name = "ablate"

    def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
        return output.index_fill(1, index_of(heads, output), 0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeanAblation(Edit):
    """See ``mean_ablate``. means: layer -> [n, 1, Dv], or [n, T, Dv] per position."""

    name = "mean_ablate"

    reference: tuple[Capture, ...]
    per_position: bool
    means: Mapping[LayerKey, Tensor] = field(default_factory=dict)

    def on(self, model: HookedModel) -> Self:
        bound = super().on(model)
        means = {}
        for layer, heads in bound.chosen.items():
            for run in self.reference:
                check_fits(model, run, layer, heads, "mean_ablate: reference")
            parts = [(z_of(run, layer, heads, "mean_ablate"), kept_of(run, layer)) for run in self.reference]
            means[layer] = _mean(parts, per_position=self.per_position)
        return replace(bound, means=means)

    def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
        mean = self.means[call.layer.key].to(output)
        if self.per_position:
            self._check_side(call)
            first, last = call.first_query, call.first_query + call.q.shape[2]
            if mean.shape[1] < last:
                raise InputError(
                    f"mean_ablate: the reference ends at position {mean.shape[1] - 1}, this run reaches {last - 1}; give a "
                    "longer reference, or leave per_position out"
                )
            mean = mean[:, first:last]
        new = mean.expand(output.shape[0], len(heads), output.shape[2], -1)
        return output.index_copy(1, index_of(heads, output), new)

    def _check_side(self, call: AttentionCall) -> None:
        """Refuse means of columns that hold other tokens, since the reference is padded on the other side."""
        keep, layer = call.mask.keep, call.layer.key
        if torch.compiler.is_compiling() or call.layer.stack == "cross" or keep is None:
            return
        sides = {padding_of(kept) for run in self.reference if (kept := kept_of(run, layer)) is not None} - {None}
        side = padding_of(keep)
        if side is not None and sides - {side}:
            raise InputError(
                f"mean_ablate: reference: it is padded on the {' and the '.join(sorted(map(str, sides)))} and the input on the "
                f"{side}, so that its columns are other tokens; capture it with the same padding (model.batch(texts, "
                f"padding={side!r})), or leave per_position out"
            )


def _mean(parts: Sequence[tuple[Tensor, Tensor | None]], *, per_position: bool) -> Tensor:
    """Mean of z [B, n, T, Dv] over what keep [B, T] keeps, in float64: [n, 1, Dv], or [n, T, Dv] of the longest."""
    length = max(z.shape[2] for z, _ in parts)
    total = torch.zeros(*parts[0][0].shape[1:2], length, parts[0][0].shape[3], dtype=torch.float64)
    count = torch.zeros(length, dtype=torch.float64)
    for z, keep in parts:
        kept = torch.ones(z.shape[0], z.shape[2], dtype=torch.float64) if keep is None else keep.double().cpu()
        total[:, : z.shape[2]] += torch.einsum("bntd,bt->ntd", z.double().cpu(), kept)
        count[: z.shape[2]] += kept.sum(dim=0)
    if per_position and not bool(count.all()):
        empty = int((count == 0).nonzero()[0])
        raise InputError(
            f"mean_ablate: no sequence of the reference has a token at position {empty}; leave per_position out"
        )
    if not per_position:
        return total.sum(dim=1, keepdim=True) / count.sum()
    return total / count[:, None]
