"""What one forward run with probes gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.arguments import shown, switch
from interp.captures.statistic import Statistic
from interp.errors import InputError
from interp.folders import checked_path
from interp.inputs.tokens import TokenRow
from interp.models.heads import HeadSpec, parse_head
from interp.models.layers import LayerKey
from interp.naming import nearest
from interp_kernels import Mask
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Side:
    """The tokens on one side of an attention, its queries or its keys.

    ids [B, T], None where the model reads none; keep [B, T] is False at padding, None without padding; tokens: of each
    sequence the readable ones that are no padding; first: the position of the first one
    """

    ids: Tensor | None = None
    keep: Tensor | None = None
    tokens: list[list[str]] = field(default_factory=list)
    first: int = 0


@dataclass(frozen=True)
class MeasuredLayer:
    """How one layer was measured.

    stack: "", or "encoder" and the like; heads: the query heads that its statistics hold, in order; query_heads, kv_heads: how
    many it has; backend: of ``attend``, "cpu" or "triton"
    """

    stack: str
    heads: tuple[int, ...]
    query_heads: int
    kv_heads: int
    backend: str | None = None

    def kv_head(self, head: int) -> int:
        """The KV head that a query head reads."""
        return head // (self.query_heads // self.kv_heads)

    @property
    def kv_heads_read(self) -> tuple[int, ...]:
        """The KV heads that ``heads`` read, in order: those that a statistic per KV head holds."""
        return tuple(sorted({self.kv_head(head) for head in self.heads}))


@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """Statistics of one forward run, by name and layer.

    stats       name -> {layer: tensor}, shapes as in the probe's docstring; heads are numbered by query head. Layers are ints,
                or "encoder.3" and the like; see ``interp.models.layers``
    ids         token ids [B, T], None where the model reads none; keep [B, T] is False at padding, and padded rows of a
                statistic hold NaN
    tokens      readable tokens of each sequence, without padding
    masks       layer -> who saw whom there
    heads       query heads of a layer, kv_heads its KV heads; of the language model, where layers differ
    logits      [B, T, vocabulary] if asked for
    facts       model name and revision, dtype, device, backend, versions, whether the input was longer than the model's context
    statistics  name -> the meaning of its axes and columns, and its definition
    measured    layer -> which heads were measured, and how
    sides       stack of layers -> the tokens on the side of its queries and of its keys, where they are not ``ids``
    token_rows  the tokens of each sequence once more, with their columns and where they stand in its text; () if not known
    """

    stats: Mapping[str, dict[LayerKey, Tensor]]
    ids: Tensor | None
    keep: Tensor | None
    tokens: list[list[str]]
    masks: Mapping[LayerKey, Mask]
    layers: tuple[LayerKey, ...]
    heads: int
    kv_heads: int
    logits: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    measured: Mapping[LayerKey, MeasuredLayer] = field(default_factory=dict)
    sides: Mapping[str, tuple[Side, Side]] = field(default_factory=dict)
    token_rows: tuple[TokenRow, ...] = ()

    def __getitem__(self, name: str) -> dict[LayerKey, Tensor]:
        """{layer: value} of the statistic called ``name``."""
        if not isinstance(name, str) or name not in self.stats:
            raise InputError(f"this capture has no statistic {shown(name)}; {nearest(str(name), self.stats)}")
        return self.stats[name]

    def stacked(self, name: str) -> Tensor:
        """The statistic of all captured layers as one tensor with the layers first, on the CPU.

        Raises:
            InputError: there is none of that name, or its shape differs from layer to layer.
        """
        values = self[name]
        shapes = {layer: list(value.shape) for layer, value in values.items()}
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            raise InputError(f"{name!r} cannot be stacked, its shapes differ: {shapes}; take capture[{name!r}][layer]")
        return torch.stack([value.cpu() for value in values.values()])

    def of_head(self, name: str, head: HeadSpec) -> Tensor:
        """The statistic of one head, written as people do ("L5H1", (5, 1)): its value without the axis of heads, [B, ...].

        Of a statistic per KV head it is that of the KV head which the head reads.

        Raises:
            InputError: no such statistic, layer or head, or the head was not measured.
        """
        values = self[name]
        layer, number = parse_head(head, {layer: self.layer(layer).query_heads for layer in values})
        how = self.layer(layer)
        if number not in how.heads:
            raise InputError(f"head {head!r} was not measured; of layer {layer!r} these were: {list(how.heads)}")
        if name in self.statistics and "kv_head" in self.statistics[name].axes:
            return values[layer][:, how.kv_heads_read.index(how.kv_head(number))]
        return values[layer][:, how.heads.index(number)]

    def layer(self, layer: LayerKey) -> MeasuredLayer:
        """How a captured layer was measured.

        Raises:
            InputError: it was not captured.
        """
        key = layer if isinstance(layer, str) else whole(layer)
        if key is None or key not in self.layers:
            raise InputError(f"layer {shown(layer)} was not captured; these were: {list(self.layers)}")
        if key in self.measured:
            return self.measured[key]
        stack = key.rpartition(".")[0] if isinstance(key, str) else ""
        return MeasuredLayer(stack, tuple(range(self.heads)), self.heads, self.kv_heads)

    def kv_head(self, head: int | HeadSpec, layer: LayerKey | None = None) -> int:
        """The KV head that a query head reads. head: its number, or with its layer ("L5H1", (5, 1)).

        A number alone counts in ``layer``, or in the language model's layers.
        """
        number = whole(head)
        if number is None:
            layer, number = parse_head(head, {each: self.layer(each).query_heads for each in self.layers})  # pyright: ignore[reportArgumentType]
        total, kv_heads = self.heads, self.kv_heads
        if layer is not None:
            total, kv_heads = self.layer(layer).query_heads, self.layer(layer).kv_heads
        if not 0 <= number < total:
            raise InputError(f"head {number} does not exist: there are {total} query heads, 0 to {total - 1}")
        return number // (total // kv_heads)

    def queries(self, layer: LayerKey) -> Side:
        """The tokens that the layer's queries stand for: of "decoder.3" and "cross.3" those of the decoder."""
        return self._side(layer, 0)

    def keys(self, layer: LayerKey) -> Side:
        """The tokens that the layer's keys stand for: of "cross.3" those of the encoder."""
        return self._side(layer, 1)

    def _side(self, layer: LayerKey, number: int) -> Side:
        sides = self.sides.get(self.layer(layer).stack)
        return Side(self.ids, self.keep, self.tokens) if sides is None else sides[number]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that it holds: statistics, logits, ids and padding. What is held twice counts once."""
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self._tensors()}
        return sum(storages.values())

    def _tensors(self) -> Iterator[Tensor]:
        for values in self.stats.values():
            yield from values.values()
        sides = [side for pair in self.sides.values() for side in pair]
        others = [self.ids, self.keep, self.logits, *(x for side in sides for x in (side.ids, side.keep))]
        others += [x for mask in self.masks.values() for x in (mask.keep, mask.documents)]
        yield from (x for x in others if x is not None)

    def to_frame(self, name: str | None = None) -> pd.DataFrame:
        """The statistic called ``name``, or all of them, as a tidy table; see ``interp.captures.frame``."""
        from interp.captures.frame import capture_frame

        return capture_frame(self, name)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write it into ``folder`` as safetensors and JSON, whole or not at all; see ``interp.captures.store``."""
        from interp.captures.store import save_capture

        return save_capture(self, checked_path("folder", folder), overwrite=switch("overwrite", overwrite))

    @classmethod
    def load(cls, folder: str | Path) -> Capture:
        """The capture that ``save`` wrote into ``folder``, on the CPU."""
        from interp.captures.store import load_capture

        return load_capture(checked_path("folder", folder))

    def __repr__(self) -> str:
        size = "" if self.ids is None else f"{self.ids.shape[0]} x {self.ids.shape[1]} tokens, "
        named = ", ".join(self.stats)
        return (
            f"Capture({self.facts.get('model', '?')}: {size}{len(self.layers)} layers x {self.heads} heads, "
            f"statistics: {named or 'none'})"
        )

    def _repr_html_(self) -> str:
        from interp.captures.html import capture_html

        return capture_html(self)
