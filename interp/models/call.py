"""One call of a model's attention, as ``attend`` takes it: what a watched run passes from hand to hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from interp.models.layers import AttentionLayer
from interp_kernels import Attended, ClassBias, Mask, Probe, attend


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The operands of ``attend`` in one layer.

    layer      whose call it is
    first_key  position of the first key handed over: above 0 where a sliding-window cache has let go of the earlier ones
    """

    layer: AttentionLayer
    q: Tensor  # [B, Hq, Tq, D]
    k: Tensor  # [B, Hkv, Tk, D]
    v: Tensor  # [B, Hkv, Tk, Dv]
    mask: Mask
    scale: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # [Hq], or [B, Hq, Tq]
    alibi: Tensor | None = None
    bias: Tensor | None = None
    class_bias: ClassBias | None = None
    first_key: int = 0

    @property
    def first_query(self) -> int:
        """Position of the first query, counted as those of the keys; of cross attention, in the decoder's own sequence."""
        if self.mask.offset is not None:
            return self.first_key + self.mask.offset
        return 0 if self.layer.stack == "cross" else self.first_key + self.k.shape[2] - self.q.shape[2]

    @property
    def extent(self) -> tuple[int, int]:
        """Queries and keys, (Tq, Tk)."""
        return self.q.shape[2], self.k.shape[2]

    def attend(self, probes: Sequence[Probe] = ()) -> Attended:
        return attend(
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
            probes=probes,
        )
