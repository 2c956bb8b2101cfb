"""Heads as people write them: "L5H1", "5.1" or (5, 1); of one stack among several "encoder.L3H1", "encoder.3.1"."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from interp.arguments import items, shown
from interp.errors import InputError
from interp.models.layers import LayerKey, LayersOf
from interp.naming import named_layers
from interp_kernels.integers import whole

Head = tuple[LayerKey, int]
"""(layer, query head), both counted from 0."""

HeadSpec = str | Sequence[int | str]
"""One head, as a string or as (layer, head)."""

HeadCounts = Mapping[LayerKey, int | None]
"""Layer -> its query heads; None where the model does not say before it runs."""

_WRITTEN = re.compile(r"(?:(?P<stack>[A-Za-z_]\w*)\.)?[Ll]?(?P<number>\d+)(?:\.|\.?[Hh])(?P<head>\d+)", re.ASCII)


def head_counts(layers: LayersOf) -> dict[LayerKey, int | None]:
    """Query heads of every layer of a model, in its order."""
    return {layer.key: layer.heads for served in layers.values() for layer in served}


def parse_head(spec: HeadSpec, layers: HeadCounts) -> Head:
    """The layer and the query head that ``spec`` names, of those in ``layers``.

    Raises:
        InputError: it is not written as a head is, or there is no such layer or head.
    """
    layer, head = _read(spec)
    if layer not in layers:
        raise InputError(f"head {spec!r}: layer {layer!r} does not exist; the layers are {named_layers(list(layers))}")
    heads = layers[layer]
    if heads is not None and head >= heads:
        raise InputError(f"head {spec!r} does not exist: layer {layer!r} has {heads} query heads, 0 to {heads - 1}")
    return layer, head


def parse_heads(specs: HeadSpec | Iterable[HeadSpec], layers: HeadCounts) -> dict[LayerKey, tuple[int, ...]]:
    """The heads of each layer that is named, ascending, each once; layers in the order of ``layers``. One head may stand alone.

    Raises:
        InputError: none is named, or one cannot be read or does not exist; see ``parse_head``.
    """
    found: defaultdict[LayerKey, set[int]] = defaultdict(set)
    for layer, head in ordered_heads(specs, layers):
        found[layer].add(head)
    return {layer: tuple(sorted(found[layer])) for layer in layers if layer in found}


def ordered_heads(specs: HeadSpec | Iterable[HeadSpec], layers: HeadCounts) -> list[Head]:
    """The heads that are named, in the order in which they are, each once. One head may stand alone.

    Raises:
        InputError: none is named, or one cannot be read or does not exist; see ``parse_head``.
    """
    found = list(dict.fromkeys(parse_head(spec, layers) for spec in _each(specs)))
    if not found:
        raise InputError("heads: expected at least one head such as 'L5H1' or (5, 1), got none")
    return found


def _each(specs: HeadSpec | Iterable[HeadSpec]) -> list[HeadSpec]:
    if isinstance(specs, str):
        return [specs]
    listed = items(specs)
    if listed is None:
        raise InputError(f"heads: expected heads such as ['L5H1', (5, 1), '5.1'], got {shown(specs)}")
    is_pair = (
        len(listed) == 2
        and whole(listed[1]) is not None
        and (isinstance(listed[0], str) or whole(listed[0]) is not None)
    )
    return [(listed[0], listed[1])] if is_pair else listed


def _read(spec: HeadSpec) -> Head:
    if isinstance(spec, str):
        match = _WRITTEN.fullmatch(spec.strip())
        if match:
            number = int(match["number"])
            return (f"{match['stack']}.{number}" if match["stack"] else number), int(match["head"])
    elif isinstance(spec, Sequence) or getattr(spec, "ndim", 0) == 1:
        parts = list(spec)
        if len(parts) == 2:
            layer, head = parts[0] if isinstance(parts[0], str) else whole(parts[0]), whole(parts[1])
            if layer is not None and head is not None and head >= 0:
                return layer, head
    raise InputError(
        f"head {shown(spec)}: expected a layer and a head counted from 0, such as 'L5H1', '5.1' or (5, 1), "
        "or 'encoder.L3H1', 'encoder.3.1', ('encoder.3', 1) in a model with several stacks"
    )
