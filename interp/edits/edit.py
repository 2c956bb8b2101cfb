"""What every edit is: a declaration of heads and of what happens to them, bound to a model when it is put in force."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from interp.arguments import items, shown
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec, head_counts, parse_heads
from interp.models.layers import LayerKey
from interp.plain import plain

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Heads = Literal["all"] | HeadSpec | Iterable[HeadSpec]
"""Heads as people write them ("L5H1", "5.1", (5, 1), "decoder.L3H1"), one or several; or "all"."""

Chosen = Mapping[LayerKey, tuple[int, ...] | None]
"""Layer -> its query heads, ascending; None: all of them."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Edit:
    """A change of some heads, which nothing but ``HookedModel.edited`` applies.

    heads   which heads; "all" of the layers
    layers  with heads="all": which layers, None for all of them
    chosen  the same, looked up in a model; filled in by ``on``

    A subclass changes the call of ``attend`` (``edited_call``) or the heads' outputs (``edited_output``).
    """

    name: ClassVar[str]
    """The function that makes it."""

    heads: Heads = "all"
    layers: Iterable[LayerKey] | None = None
    chosen: Chosen = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("heads", "layers"):
            given = getattr(self, name)
            listed = items(given)
            if listed is not None:
                # An iterator would be used up by the first model.
                object.__setattr__(self, name, tuple(plain(each) for each in listed))

    def on(self, model: HookedModel) -> Self:
        """This edit with its heads looked up in ``model``.

        Raises:
            InputError: a layer or head does not exist, or what the edit brings does not fit the model.
        """
        return replace(self, chosen=chosen_heads(model, self.heads, self.layers, self.name))

    def operands(self, call: AttentionCall) -> AttentionCall:
        heads = self._heads_in(call)
        return call if heads is None else self.edited_call(call, heads)

    def output(self, call: AttentionCall, output: Tensor) -> Tensor:
        heads = self._heads_in(call)
        return output if heads is None else self.edited_output(call, heads, output)

    def edited_call(self, call: AttentionCall, heads: tuple[int, ...]) -> AttentionCall:
        """The call to make in place of ``call``, with ``heads`` (ascending) changed."""
        return call

    def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
        """The outputs [B, Hq, Tq, Dv] to hand on in place of ``output``, with ``heads`` (ascending) changed."""
        return output

    def _heads_in(self, call: AttentionCall) -> tuple[int, ...] | None:
        """The chosen heads of the call's layer, None where there are none."""
        key = call.layer.key
        if key not in self.chosen:
            return None
        heads, present = self.chosen[key], call.q.shape[1]
        if heads is None:
            return tuple(range(present))
        # Of a layer whose module does not say how many heads it has, this is the first that is known of them.
        if heads[-1] >= present:
            raise InputError(
                f"{self.name}: head {heads[-1]} of layer {key!r} does not exist; it has {present} query heads, "
                f"0 to {present - 1}"
            )
        return heads

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("chosen", "means", "kept")}
        given = [f"{name}={_short(value)}" for name, value in shown.items() if value is not None and value != {}]
        return f"{self.name}({', '.join(given)})"


def chosen_heads(model: HookedModel, heads: Heads, layers: Iterable[LayerKey] | None, name: str) -> Chosen:
    """The heads that are meant, by layer, in the model's order.

    Raises:
        InputError: none is named, one does not exist, or both heads and layers are given.
    """
    if isinstance(heads, str) and heads == "all":
        wanted = model.wanted_layers(layers)
        if not wanted:
            raise InputError(f"{name}: expected at least one layer, got none; leave layers out for all of them")
        return {layer: None for layer in model.layers if layer in wanted}
    if layers is not None:
        raise InputError(f"{name}: heads name their layers already; give heads, or layers for all heads of them")
    try:
        return dict(parse_heads(heads, head_counts(model.host.layers)))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def heads_or_layers(name: str, heads: tuple[HeadSpec, ...], layers: Iterable[LayerKey] | None) -> Heads:
    """``heads`` of a function that takes them one by one: "all" where layers are given in their place.

    Raises:
        InputError: neither is given.
    """
    first: Any = heads[0] if len(heads) == 1 else None
    if isinstance(first, list | set) or getattr(first, "ndim", 0):  # ablate(["L5H1", "L5H2"]), or an array
        heads = tuple(first)
    if heads:
        return "all" if isinstance(first, str) and first == "all" else heads
    if layers is None:
        raise InputError(
            f"{name}: expected at least one head such as {name}('L5H1') or {name}((5, 1)), or layers=[5] for all heads "
            f"of a layer, or {name}('all'); got none"
        )
    return "all"


def checked_number(what: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as a float. what: "scale: factor".

    Raises:
        InputError: it is no finite number, or not in [low, high].
    """
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta else value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        expected = "a finite number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        raise InputError(f"{what}: expected {expected}, got {shown(value)}")
    return float(value)


def _short(value: Any) -> str:
    """A value for people, in a few words: of a tensor its shape and how many entries are chosen."""
    if isinstance(value, Tensor):
        chosen = f" with {int(value.sum())} true" if value.dtype == torch.bool else ""
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{chosen}>"
    if isinstance(value, Mapping):
        return f"<layers {', '.join(str(key) for key in value)}>"
    shown = repr(value)
    return (
        shown if len(shown) <= 200 else f"{shown[:190]}... ({len(value) if hasattr(value, '__len__') else '?'} items)"
    )
