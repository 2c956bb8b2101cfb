"""What heads write, taken from another run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from interp.captures.capture import Capture
from interp.edits.edit import Edit, heads_or_layers
from interp.edits.narrow import index_of
from interp.edits.positions import Positions, Where
from interp.edits.source import check_columns, check_fits, checked_source, kept_of, z_of
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


def patch(*heads: HeadSpec, source: Capture, positions: Where = None, layers: Iterable[LayerKey] | None = None) -> Edit:
    """Activation patching: z'_i = z_i of the source at the chosen positions, z_i of this run at the others.

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        source: a capture with ``outputs=True`` of as many sequences, or of one for all.
        positions: which columns; see ``Where``. The source must reach as far. None: all of them, of a source as long as the
            input; tokens that are generated after it are left as they are.
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named, or source or positions cannot be used.
    """
    return _patch("patch", heads, source, positions, layers)


def resample(*heads: HeadSpec, source: Capture, layers: Iterable[LayerKey] | None = None) -> Edit:
    """Resample ablation: the heads write what they wrote on another input. ``patch`` at all positions.

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        source: a capture of it with ``outputs=True``; of as many sequences, or of one for all, as long as the input.
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named, or the source cannot be used.
    """
    return _patch("resample", heads, source, None, layers)


def _patch(
    name: str,
    heads: tuple[HeadSpec, ...],
    source: Capture,
    positions: Where,
    layers: Iterable[LayerKey] | None,
) -> Edit:
    kind = Patch if name == "patch" else Resampling
    where = Positions.of(f"{name}: positions", positions)
    return kind(
        heads=heads_or_layers(name, heads, layers),
        layers=layers,
        source=checked_source(name, "source", source),
        positions=where,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patch(Edit):
    """See ``patch``."""

    name: ClassVar[str] = "patch"

    source: Capture
    positions: Positions

    def on(self, model: HookedModel) -> Self:
        bound = super().on(model)
        for layer, heads in bound.chosen.items():
            check_fits(model, self.source, layer, heads, f"{self.name}: source")
        return bound

    def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
        z = z_of(self.source, call.layer.key, heads, f"{self.name}: source").to(output)
        batch, _, queries, width = output.shape
        length, first = z.shape[2], call.first_query
        last = first + queries
        if z.shape[0] not in (1, batch) or z.shape[3] != width:
            raise InputError(
                f"{self.name}: expected a source of {batch} sequences (or 1) and width {width} in layer {call.layer.key!r}, "
                f"got {z.shape[0]} and width {z.shape[3]}"
            )
        if call.layer.stack != "cross":  # whose padding is that of its keys
            check_columns(f"{self.name}: source", call, kept_of(self.source, call.layer.key), length)
        chosen = self.positions.among_queries(call)
        if self.positions.given is None:
            if first == 0 and length != last:
                raise InputError(
                    f"{self.name}: expected a source of {last} positions as the input, got {length}; "
                    "give positions= to patch some of them"
                )
            chosen = chosen & (torch.arange(first, last, device=output.device) < length)
        elif length < last and not torch.compiler.is_compiling() and bool(chosen[:, max(0, length - first) :].any()):
            raise InputError(
                f"{self.name}: the source ends at position {length - 1}, and positions={self.positions} reach further; "
                "capture a longer input, or fewer positions"
            )
        at = torch.arange(first, last, device=output.device).clamp(max=length - 1)
        new = torch.where(chosen[:, None, :, None], z[:, :, at], output[:, list(heads)])
        return output.index_copy(1, index_of(heads, output), new)


class Resampling(Patch):
    """See ``resample``."""

    name = "resample"
