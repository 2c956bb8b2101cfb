"""Heads that write more or less."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from interp.edits.edit import Edit, checked_number, heads_or_layers
from interp.edits.narrow import index_of
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey


def scale(*heads: HeadSpec, factor: float, layers: Iterable[LayerKey] | None = None) -> Edit:
    """Multiply what heads write: z'_i = factor z_i. 0 is zero ablation, 2 doubles, -1 turns it round; maps stay.

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        factor: any finite number.
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named, or the factor is not finite.
    """
    factor = checked_number("scale: factor", factor)
    return Scaling(heads=heads_or_layers("scale", heads, layers), layers=layers, factor=factor)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scaling(Edit):
    """See ``scale``."""

    name = "scale"

    factor: float

    def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
        return output.index_copy(1, index_of(heads, output), output[:, list(heads)] * self.factor)
