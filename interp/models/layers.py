"""Which modules of a model attend, and what their layers are called.

A layer is an int where the model has one stack of them. With several stacks it is "<stack>.<number>": "encoder.3",
"decoder.3" and "cross.3" (the decoder's look at the encoder) of an encoder-decoder, "vision.3", "audio.3" or "text.3" of a
model with several towers, "qformer_cross.3" of a tower that looks at another; the language model of one that also sees or
hears keeps its ints. Numbers are the model's own: of a hybrid, whose other layers do not attend, they have gaps.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from interp.models.adapters import adapter_of

LayerKey = int | str
"""3, or "decoder.3"."""

CROSS = {
    "encoder_attn",
    "crossattention",
    "cross_attn",
    "cross_attention",
    "EncDecAttention",
    "encoder_decoder_attention",
    "encoder_attention",
    "crossattn",
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
    """Every module of ``model`` whose attention can be watched, in the model's order.

    It calls transformers' AttentionInterface, or has an adapter (``interp.models.adapters``).
    """
    is_encoder_decoder = _is_encoder_decoder(config)
    stacks: defaultdict[str, list[tuple[str, nn.Module]]] = defaultdict(list)
    for path, module in _attending(model):
        stacks[_stack(path, is_encoder_decoder)].append((path, module))
    if len(stacks) == 1 and not is_encoder_decoder:
        stacks = defaultdict(list, {"": next(iter(stacks.values()))})
    layers: defaultdict[nn.Module, tuple[AttentionLayer, ...]] = defaultdict(tuple)
    for stack, members in stacks.items():
        numbers = _numbers([path for path, _ in members])
        for (path, module), number in zip(members, numbers, strict=True):
            layers[module] += (AttentionLayer(stack, number, path, _heads(module)),)
    return _shared(dict(layers), config)


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


def _attending(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Paths and modules. One that stands at several layers (Zamba's shared block) comes once for each of their numbers."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[tuple[nn.Module, str | None]] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        place = module, _first_number(path)
        if place not in seen and (dispatches(type(module)) or adapter_of(type(module)) is not None):
            seen.add(place)
            found.append((path, module))
    return found


def _is_encoder_decoder(config: Any) -> bool:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(bool(getattr(each, "is_encoder_decoder", False)) for each in (config, text))


def stack_of(path: str, config: Any) -> str:
    """The stack of layers that a module at ``path`` is part of."""
    return _stack(path, _is_encoder_decoder(config))


def _stack(path: str, is_encoder_decoder: bool) -> str:
    parts = path.split(".")
    looks_across = bool(CROSS.intersection(parts))
    tower = "" if "language_model" in parts else _tower(parts, is_encoder_decoder)
    if tower:
        return f"{tower}_cross" if looks_across else tower
    if is_encoder_decoder:
        for part in parts:
            if part.endswith("decoder"):
                return "cross" if looks_across else "decoder"
            if part.endswith("encoder"):
                return "encoder"
    return "cross" if looks_across else ""


def _tower(parts: list[str], is_encoder_decoder: bool) -> str:
    for stack, names in TOWERS.items():
        # The text encoder of an encoder-decoder is its encoder.
        if not (stack == "text" and is_encoder_decoder) and any(name in part for part in parts for name in names):
            return stack
    return ""


def _numbers(paths: list[str]) -> list[int]:
    """Each layer's number: the first that its path holds, if that tells all of them apart; else their order."""
    first = [_first_number(path) for path in paths]
    numbers = [int(number) for number in first if number is not None]
    return numbers if len(numbers) == len(paths) == len(set(numbers)) else list(range(len(paths)))


def _first_number(path: str) -> str | None:
    match = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return None if match is None else match[1]


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
    inner = getattr(config, "inner_group_num", 1)
    if groups is None or len(layers) != groups * inner:
        return layers
    total = config.num_hidden_layers
    served: defaultdict[nn.Module, tuple[AttentionLayer, ...]] = defaultdict(tuple)
    members = list(layers.items())
    for number in range(total * inner):
        group = number // inner * groups // total
        module, (layer, *_) = members[group * inner + number % inner]
        served[module] += (replace(layer, number=number),)
    return dict(served)
