"""The blocks of a model, told by where its attention layers stand."""

from __future__ import annotations

import re

from interp.models.layers import AttentionLayer

NUMBERED = re.compile(r"(?:.*?\.)?\d+(?=\.)")


def block_path(layer: AttentionLayer) -> str | None:
    """The outermost numbered component that a layer's attention is in: "model.layers.3" of "model.layers.3.self_attn".

    None where it is in none.
    """
    match = NUMBERED.match(layer.path)
    return None if match is None else match[0]
