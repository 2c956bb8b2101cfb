"""Which modules of a model attend, and what their layers are called.

A layer is an int where the model has one stack of them. With several stacks it is "<stack>.<number>": "encoder.3",
"decoder.3" and "cross.3" (the decoder's look at the encoder) of an encoder-decoder, "vision.3", "audio.3" or "text.3" of a
model with several towers; the language model of one that also sees or hears keeps its ints. Numbers are the model's own: of a
hybrid, whose other layers do not attend, they have gaps.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

LayerKey = int | str
"""3, or "decoder.3"."""

CROSS = {
    "encoder_attn",
    "crossattention",
    "cross_attn",
    "cross_attention",
    "EncDecAttention",
    "encoder_decoder_attention",
}
TOWERS = {
    "vision": ("vision", "visual", "image"),
    "audio": ("audio", "speech"),
    "text": ("text_model", "text_encoder"),
    "qformer": ("qformer",),
}
"""Stack -> what the name of a component that leads to it holds."""


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of attention: its key, its stack ("" where there is one only, or for the language model) and number.

    path: where its module stands in the model; heads: of its queries, None where the module does not say
    """

    stack: str
    number: int
    path: str
    heads: int | None

    @property
    def key(self) -> LayerKey:
        return f"{self.stack}.{self.number}" if self.stack else self.number


LayersOf = Mapping[nn.Module, tuple[AttentionLayer, ...]]
"""The layers that each attention module serves: one, but for architectures whose layers share a module (ALBERT)."""


def attention_layers(model: nn.Module, config: Any) -> LayersOf:
    """Every module of ``model`` that calls transformers' AttentionInterface, in the model's order."""
    found = [(path, module) for path, module in model.named_modules() if dispatches(type(module))]
    is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    stacks: defaultdict[str, list[tuple[str, nn.Module]]] = defaultdict(list)
    for path, module in found:
        stacks[_stack(path, is_encoder_decoder)].append((path, module))
    if len(stacks) == 1 and not is_encoder_decoder:
        stacks = defaultdict(list, {"": found})
    layers: dict[nn.Module, tuple[AttentionLayer, ...]] = {}
    for stack, members in stacks.items():
        numbers = _numbers([path for path, _ in members])
        for (path, module), number in zip(members, numbers, strict=True):
            layers[module] = (AttentionLayer(stack, number, path, _heads(module)),)
    return _shared(layers, config)


@cache
def dispatches(kind: type[nn.Module]) -> bool:
    """Whether a class of modules calls attention through transformers' registry in one of its own functions."""
    for base in kind.__mro__:
        if base in (nn.Module, PreTrainedModel):
            return False
        for member in vars(base).values():
            if callable(member):
                code = getattr(inspect.unwrap(member), "__code__", None)
                if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
                    return True
    return False


def _stack(path: str, is_encoder_decoder: bool) -> str:
    parts = path.split(".")
    if is_encoder_decoder:
        if "decoder" in parts:
            return "cross" if CROSS.intersection(parts) else "decoder"
        if "encoder" in parts:
            return "encoder"
    if "language_model" in parts:
        return ""
    for stack, names in TOWERS.items():
        if any(name in part for part in parts for name in names):
            return stack
    return ""


def _numbers(paths: list[str]) -> list[int]:
    """Each layer's number: the first that its path holds, if that tells all of them apart; else their order."""
    first = [re.search(r"(?:^|\.)(\d+)(?:\.|$)", path) for path in paths]
    numbers = [int(match[1]) for match in first if match]
    return numbers if len(set(numbers)) == len(paths) else list(range(len(paths)))


def _heads(module: nn.Module) -> int | None:
    for owner in (module, getattr(module, "config", None)):
        for name in ("num_heads", "num_attention_heads", "n_heads", "n_head"):
            heads = getattr(owner, name, None)
            if isinstance(heads, int) and not isinstance(heads, bool):
                return heads
    return None


def _shared(layers: dict[nn.Module, tuple[AttentionLayer, ...]], config: Any) -> LayersOf:
    """Modules that are run again and again, in groups, serve so many layers more (ALBERT's ``num_hidden_groups``)."""
    groups = getattr(config, "num_hidden_groups", None)
    total = getattr(config, "num_hidden_layers", 0)
    inner = getattr(config, "inner_group_num", 1)
    if groups is None or inner != 1 or len(layers) != groups:
        return layers
    served: defaultdict[nn.Module, list[AttentionLayer]] = defaultdict(list)
    members = list(layers.items())
    for number in range(total):
        module, (layer, *_) = members[int(number / (total / groups))]
        served[module].append(AttentionLayer(layer.stack, number, layer.path, layer.heads))
    return {module: tuple(each) for module, each in served.items()}
