"""Recalibrated sinks: less attention to some columns, and the freed mass to all others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from interp.edits.edit import Edit, Heads, checked_number
from interp.edits.hidden_sinks import HiddenSinks
from interp.edits.narrow import compute_dtype, of_heads, row_sinks, with_class_bias, with_row_sinks
from interp.edits.positions import Positions, Where
from interp.edits.source import check_columns
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.layers import LayerKey

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Columns = Mapping[LayerKey, Tensor]
"""Layer -> which keys of each head, bool [B, Hq, T]: what ``hidden_sinks`` finds."""


def recalibrate(
    *, keys: Where | Columns, factor: float = 0.4, heads: Heads = "all", layers: Iterable[LayerKey] | None = None
) -> Edit:
    """Multiply the attention to ``keys`` by ``factor``; the freed mass goes to the other keys, in proportion.

    With F the keys, S_i = sum_(k in F) P_ik and U_i the mass of row i on its other keys:

        P'_ij = factor P_ij for j in F,    P_ij (U_i + (1 - factor) S_i) / U_i for the others

    Rows sum to what they did. A row without mass on other keys is left alone. Calibration of hidden sinks in ACT (Yu et al.,
    arXiv 2406.15765), whose factor is 0.4, of chosen heads, with the columns of ``hidden_sinks``.

    Cost: two passes more over the chosen heads, without their values.

    Args:
        keys: see ``Where``; or what ``hidden_sinks`` found, columns of each head.
        factor: from 0 (cut) to 1 (nothing changes). Above 1 the other keys might not have the mass to give.
        heads: which heads, "all" by default.
        layers: with heads="all", which layers.

    Raises:
        InputError: factor or keys that cannot be used.
    """
    if keys is None:
        raise InputError("recalibrate: expected the keys whose attention is multiplied, got None")
    columns = dict(keys) if isinstance(keys, Mapping) else {}
    for layer, flagged in columns.items():
        if not isinstance(flagged, Tensor) or flagged.dtype != torch.bool or flagged.ndim != 3:
            raise InputError(f"recalibrate: keys[{layer!r}]: expected a bool tensor [B, Hq, T], got {flagged!r:.60}")
    if isinstance(keys, Mapping) and not columns:
        raise InputError("recalibrate: keys holds no layer")
    where = None if isinstance(keys, Mapping) else Positions.of("recalibrate: keys", keys)
    return Recalibration(
        heads=heads,
        layers=tuple(columns) if columns and isinstance(heads, str) and heads == "all" and layers is None else layers,
        keys=where,
        columns=columns,
        kept=dict(keys.keep) if isinstance(keys, HiddenSinks) else {},
        factor=checked_number("recalibrate: factor", factor, 0.0, 1.0),
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Recalibration(Edit):
    """See ``recalibrate``.

    As attention, with f the factor and c_i = (U_i + (1 - f) S_i) / U_i: add ln(f / c_i) to the scores of the keys in F, and
    lower the row's sink logit by ln c_i. Of the unnormalised masses, in units of the old sum (S_i, U_i and the sink's K_i,
    which together make 1), the new sum is f S_i / c_i + U_i + K_i / c_i = (f S_i + K_i + U_i + (1 - f) S_i) / c_i = 1 / c_i.
    Divided by it, keys in F have f P_ij, the others c_i P_ij, the sink K_i.

    ln c_i = ln(1 + (1 - f) S_i / U_i), where S_i / U_i = exp(L_i - M_i) with L_i and M_i the log-sum-exps of the keys in F and of
    the others, each from a pass over them alone: no mass is too small, and ln c_i is as exact near 0 as far from it.
    """

    name = "recalibrate"

    keys: Positions | None
    columns: Columns = field(default_factory=dict)
    kept: Mapping[LayerKey, Tensor | None] = field(default_factory=dict)  # of the columns, which are no padding, [B, T]
    factor: float

    def on(self, model: HookedModel) -> Self:
        bound = super().on(model)
        if self.keys is None:
            counts = {layer.key: layer.heads for served in model.host.layers.values() for layer in served}
            for layer in bound.chosen:
                if layer not in self.columns:
                    raise InputError(
                        f"recalibrate: keys holds no columns for layer {layer!r}, but for "
                        f"{', '.join(str(each) for each in self.columns)}"
                    )
                found, expected = self.columns[layer].shape[1], counts[layer]
                if expected is not None and found != expected:
                    raise InputError(
                        f"recalibrate: keys[{layer!r}]: expected columns of {expected} query heads, got {found}"
                    )
        return bound

    def edited_call(self, call: AttentionCall, heads: tuple[int, ...]) -> AttentionCall:
        flagged = self._flagged(call, heads)
        share, kept = self._log_masses(call, heads, flagged)
        gain = torch.logaddexp(_ln(1 - self.factor) + share - kept, torch.zeros_like(share))  # ln c_i
        has_both = (share > -torch.inf) & (kept > -torch.inf)
        gain = torch.where(has_both, gain, 0.0)
        on_flagged = torch.where(kept > -torch.inf, _ln(self.factor) - gain, 0.0)
        edited = with_class_bias(
            call, heads, torch.stack([torch.zeros_like(on_flagged), on_flagged], dim=-1), flagged.long()
        )
        # Without sinks there is none to lower.
        return edited if call.sinks is None else with_row_sinks(edited, heads, row_sinks(call, heads) - gain)

    def _log_masses(self, call: AttentionCall, heads: tuple[int, ...], flagged: Tensor) -> tuple[Tensor, Tensor]:
        """ln of sum_j exp(s_ij) over the keys in F, and over the others, [B, n, Tq] each."""
        alone = replace(of_heads(call, heads), sinks=None)
        rows = torch.zeros(1, 1, call.q.shape[2], 2, dtype=compute_dtype(call.q), device=call.q.device)
        hidden = [rows.index_fill(-1, torch.tensor([each], device=rows.device), -torch.inf) for each in (0, 1)]
        with torch.no_grad():
            share, kept = (
                with_class_bias(alone, range(len(heads)), values, flagged.long()).attend().lse for values in hidden
            )
        return share, kept

    def _flagged(self, call: AttentionCall, heads: tuple[int, ...]) -> Tensor:
        """Which keys, bool [1|B, 1|n, Tk]."""
        if self.keys is not None:
            return self.keys.among_keys(call)[:, None]
        found = self.columns[call.layer.key].to(call.q.device)
        if found.shape[1] != call.q.shape[1]:
            raise InputError(
                f"recalibrate: keys[{call.layer.key!r}]: expected columns of {call.q.shape[1]} query heads, "
                f"got {found.shape[1]}"
            )
        check_columns(f"recalibrate: keys[{call.layer.key!r}]", call, self.kept.get(call.layer.key), found.shape[2])
        found = found[:, list(heads)]
        masks = [Positions("recalibrate: keys", found[:, h]).among_keys(call) for h in range(len(heads))]
        return torch.stack(masks, dim=1)


def _ln(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
