"""What a token view is made from, whether a model or maps were given: which heads, which tokens, and where the maps come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.models.heads import Head, head_counts, ordered_heads
from interp.models.layers import LayerKey
from interp.models.shape import LANGUAGE
from interp.naming import head_name, stack_name
from interp.views.token_axis import READ, TokenAxis, Tokens, axis_in, axis_of
from interp.views.token_links import check_is_map, check_map
from interp_kernels import AttentionMap

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.inputs.convert import Inputs
    from interp.models.hooked import HookedModel

Maps = Mapping[LayerKey, AttentionMap]

ALONE = ""
"""The layer of a map that is given by itself."""
EDITS_SHOWN = 300
"""Characters of the edits in force."""


@dataclass(frozen=True, eq=False)
class TokenSource:
    """What is known before the maps are there.

    heads      those that may be shown, in order
    tokens     of the sequence; axis: the same, with their columns
    is_causal  whether no token looks ahead
    maps       gives the maps of these layers; of a model by running it
    """

    heads: list[Head]
    tokens: Tokens
    axis: TokenAxis
    is_causal: bool
    title: str
    notes: list[str]
    maps: Callable[[Sequence[LayerKey]], Maps]

    @property
    def names(self) -> list[str]:
        return [f"head {head}" if layer == ALONE else head_name(layer, head) for layer, head in self.heads]


def source_of_maps(maps: Maps, tokens: Tokens, heads: Any, batch: int) -> TokenSource:
    """Maps by layer, or one under ``ALONE``, and the tokens of a sequence.

    Raises:
        InputError: no map, none of a self attention, no such head; tokens that do not fit.
    """
    if not maps:
        raise InputError("source: expected a model, a map or maps by layer, got no map")
    for lazy in maps.values():
        check_is_map(lazy)
    chosen = _heads_of_maps(maps, heads, batch)
    stacks = {stack_name(layer) for layer, _ in chosen}
    if len(stacks) > 1:
        raise InputError(
            f"heads: expected heads of one stack of layers, got {', '.join(sorted(stacks))}; name those of one"
        )
    for layer in dict.fromkeys(layer for layer, _ in chosen):
        check_map(maps[layer], head=0, batch=batch)
    widths = {maps[layer].shape[3] for layer, _ in chosen}
    if len(widths) > 1:
        raise InputError(f"heads: their maps are of different texts, of {sorted(widths)} tokens; choose heads of one")
    axis = axis_of(tokens, widths.pop())
    is_causal = all(maps[layer].operands.mask.is_causal for layer, _ in chosen)
    return TokenSource(chosen, tokens, axis, is_causal, "attention", [], lambda layers: maps)


def source_of_model(
    model: HookedModel, inputs: Inputs | Batch, heads: Any, batch: int, *, beyond_context: bool
) -> TokenSource:
    """A model and what it is to read; it is not run yet.

    Raises:
        InputError: inputs or heads that do not fit the model, or heads that do not look at their own tokens.
    """
    chosen = _heads_of_model(model, heads)
    stack = stack_name(chosen[0][0])
    given = model.checked(inputs, beyond_context=beyond_context)
    tokens, width = axis_in(model, given, stack, batch)

    def run(layers: Sequence[LayerKey]) -> Maps:
        maps = model.maps(given, layers=layers, beyond_context=beyond_context)
        for layer in layers:
            queries, keys = maps[layer].shape[2:]
            if (queries, keys) != (width, width):
                raise InputError(
                    f"heads: layer {layer} attends from {queries} to {keys} places, and the text has {width} tokens: they are "
                    "cut up, pooled or joined by others before it; choose heads of other layers"
                )
        return maps

    is_causal = model.shape.is_causal and stack in LANGUAGE
    return TokenSource(chosen, tokens, axis_of(tokens, width), is_causal, model.name, _notes(model, given), run)


def _notes(model: HookedModel, batch: Batch) -> list[str]:
    notes, context = [], model.shape.context
    edits = ", ".join(model.facts().get("edits", ()))
    if edits:
        cut = edits if len(edits) <= EDITS_SHOWN else f"{edits[:EDITS_SHOWN]}…"
        notes.append(f"The model is edited: {cut}.")
    if context is not None and batch.tokens > context:
        notes.append(f"The text is longer than the context that the model was made for, {context:,} tokens.")
    return notes


def _heads_of_model(model: HookedModel, heads: Any) -> list[Head]:
    counts = head_counts(model.host.layers)
    if heads is None:
        stacks = {stack_name(layer) for layer in counts}
        stack = next((each for each in READ if each in stacks), None)
        if stack is None:
            raise InputError(f"heads: no layers of {model.name} run over the tokens of a text")
        return [
            (layer, head) for layer in counts if stack_name(layer) == stack for head in range(_count(counts, layer))
        ]
    chosen = ordered_heads(heads, counts)
    stacks = {stack_name(layer) for layer, _ in chosen}
    if len(stacks) > 1 or stacks & {"cross"}:
        raise InputError(
            f"heads: expected heads of one stack of layers that look at their own tokens, got {', '.join(sorted(stacks))}; a "
            "head of cross attention looks at another text, which a token view does not show"
        )
    return chosen


def _count(counts: Mapping[LayerKey, int | None], layer: LayerKey) -> int:
    heads = counts[layer]
    if heads is None:
        raise InputError(f"heads: layer {layer!r} does not say how many it has before it runs; name the heads to show")
    return heads


def _heads_of_maps(maps: Maps, heads: Any, batch: int) -> list[Head]:
    counts = {layer: lazy.shape[1] for layer, lazy in maps.items()}
    if heads is None:
        return [(layer, head) for layer, count in counts.items() for head in range(count)]
    if ALONE not in counts:
        return ordered_heads(heads, counts)
    numbers = list(heads) if isinstance(heads, Iterable) and not isinstance(heads, str) else [heads]
    if not numbers:
        raise InputError("heads: expected at least one number of a head, got none")
    for head in numbers:
        check_map(maps[ALONE], head=head, batch=batch)
    return [(ALONE, head) for head in dict.fromkeys(map(int, numbers))]
