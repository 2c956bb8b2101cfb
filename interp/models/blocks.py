"""The blocks of a model, told by where its attention modules stand."""

from __future__ import annotations

import re

from torch import nn

from interp.models.layers import LayerKey, LayersOf

NUMBERED = re.compile(r"(?:.*?\.)?\d+(?=\.)")


def block_paths(inner: nn.Module, layers: LayersOf) -> dict[LayerKey, str | None]:
    """Layer -> the outermost numbered component of ``inner`` that its attention module is in, None where it is in none.

    "model.layers.3" of "model.layers.3.self_attn". Of a bridge of TransformerLens the paths are those of the module that it
    holds, which it may name otherwise than itself.
    """
    paths = {id(module): path for path, module in inner.named_modules()}
    found: dict[LayerKey, str | None] = {}
    for module, served in layers.items():
        match = NUMBERED.match(paths.get(id(module), ""))
        found |= {layer.key: None if match is None else match[0] for layer in served}
    return found
