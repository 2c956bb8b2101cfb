"""Whether every attention of a model can be watched: else it is refused, with the reason, before anything runs.

A module counts as attention that cannot be watched if its class says so by its name and computes a softmax or torch's own
attention, neither through transformers' registry nor with an adapter.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from interp.errors import InputError
from interp.models.adapters import adapter_of
from interp.models.arguments import SPARSE
from interp.models.layers import LayersOf, attention_layers, dispatches, stack_of

ATTENTION = re.compile("Att(entio)?n")
SOFTMAX = {
    "softmax",
    "Softmax",
    "logsumexp",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "MultiheadAttention",
}
"""Names in the code of a class that computes attention weights."""
ASIDE = re.compile("Pool|MHAttentionMap|AttentionResidual|GatedAttention|AttnBlock|GRUCell")
"""Classes whose softmax weighs no layer's keys: pooling after the last layer, mask heads, gates, image tokenizers."""
LINEAR = re.compile("Rwkv|Linear|Lightning|Delta|Additive|Efficient")
OUT_OF_REACH = {
    "DeepseekV4Attention": "attends to compressed keys beside those of its window",
    "DiffLlamaAttention": "runs its attention twice in each layer, with two halves of the values",
    "HrmTextAttention": "runs its layers again and again",
    "T5Gemma2MergedAttention": "looks at its own text and at the encoder's in one map",
}
"""Classes that call transformers' registry, but not once a layer with what ``AttentionCall`` can say -> what they do."""
MAIN = ("", "encoder", "decoder", "cross")
OTHERS = "Llama, Mistral, Qwen, Gemma, GPT-2, GPT-NeoX, OPT, Phi and most others"


@dataclass(frozen=True, eq=False)
class Unwatched:
    """A module that computes attention out of our sight: where it stands, and the stack of layers that it is part of."""

    path: str
    module: nn.Module
    stack: str


def check_support(model: nn.Module, layers: LayersOf, config: Any) -> tuple[Unwatched, ...]:
    """The modules of other towers whose attention cannot be watched, so that inputs that reach them must be refused.

    Raises:
        InputError: the model has no attention, or some of what reads its tokens or its only input cannot be watched.
    """
    name = type(model).__name__
    own = tuple(_unwatched(model, config))
    if not layers:
        raise InputError(_no_layers(name, model, own))
    for module, (layer, *_) in layers.items():
        kind = type(module).__name__
        if kind in OUT_OF_REACH:
            raise InputError(
                f"{name} {OUT_OF_REACH[kind]} ({kind}, {layer.path}), which interp cannot follow yet; choose another "
                f"architecture ({OTHERS})"
            )
        if picks_keys(type(module)):
            raise InputError(
                f"{name} attends to keys that an indexer of its own chooses ({type(module).__name__}, {layer.path}), which "
                f"interp cannot follow yet; choose an architecture with dense or sliding-window attention ({OTHERS})"
            )
    reads_text = _reads_text(model)
    watched_stacks = {layer.stack for served in layers.values() for layer in served}
    for each in own:
        if each.stack in MAIN or each.stack in watched_stacks or not reads_text:
            raise InputError(_own_code(name, each))
    return own


def check_config_support(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """The same of a configuration: its model is laid out without weights.

    Raises:
        InputError: as ``check_support``, or the configuration makes no model.
    """
    try:
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"no {model_class.__name__} can be made of this configuration: {str(error).strip()}"
        ) from error
    check_support(model, attention_layers(model, config), config)


def not_layers(model: nn.Module) -> tuple[str, ...]:
    """Paths of attention beside the layers, which is not measured: pooling heads and the like."""
    found: list[str] = []
    for path, module in model.named_modules():
        if _computes(type(module)) and _is_aside(model, path) and not any(path.startswith(f"{p}.") for p in found):
            found.append(path)
    return tuple(found)


@cache
def picks_keys(kind: type[nn.Module]) -> bool:
    """Whether a class of attention modules tells its attention function which keys to look at."""
    return any(SPARSE.intersection(_constants(code)) for code in _codes(kind))


def _unwatched(model: nn.Module, config: Any) -> Iterator[Unwatched]:
    watchable = {path for path, module in model.named_modules() if _watchable(module)}
    for path, module in model.named_modules():
        if not _computes(type(module)) or _watchable(module) or _is_aside(model, path):
            continue
        inside = any(path.startswith(f"{other}.") for other in watchable)
        around = any(other.startswith(f"{path}.") for other in watchable)
        if not inside and not around:
            yield Unwatched(path, module, stack_of(path, config))


def _watchable(module: nn.Module) -> bool:
    return dispatches(type(module)) or adapter_of(type(module)) is not None


@cache
def _computes(kind: type[nn.Module]) -> bool:
    if not ATTENTION.search(kind.__name__) or issubclass(kind, PreTrainedModel):
        return False
    return any(SOFTMAX.intersection((*code.co_names, *code.co_freevars)) for code in _codes(kind))


def _is_aside(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    parents = [model.get_submodule(".".join(parts[:n])) for n in range(1, len(parts) + 1)]
    return any(ASIDE.search(type(parent).__name__) for parent in parents if not isinstance(parent, PreTrainedModel))


def _codes(kind: type[nn.Module]) -> Iterator[CodeType]:
    """The code of a class's own functions, and of those defined inside them."""
    for base in kind.__mro__:
        if base in (nn.Module, PreTrainedModel):
            return
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
            if code is not None:
                yield code
                yield from (inner for inner in code.co_consts if isinstance(inner, CodeType))


def _constants(code: CodeType) -> set[str]:
    """Strings in the code: names of keyword arguments are among them, alone or as a tuple of all that a call has."""
    found: set[str] = set()
    for constant in code.co_consts:
        found.update(x for x in (constant if isinstance(constant, tuple) else (constant,)) if isinstance(x, str))
    return found


def _reads_text(model: nn.Module) -> bool:
    try:
        return isinstance(model.get_input_embeddings(), nn.Embedding)  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False


def _own_code(name: str, each: Unwatched) -> str:
    return (
        f"{name} computes attention in code of its own and not through transformers' AttentionInterface "
        f"({type(each.module).__name__}, {each.path}), so interp cannot watch it; choose a model whose architecture does "
        f"({OTHERS})"
    )


def _no_layers(name: str, model: nn.Module, own: tuple[Unwatched, ...]) -> str:
    if own:
        return _own_code(name, own[0])
    named = [
        (path, module)
        for path, module in model.named_modules()
        if ATTENTION.search(type(module).__name__) and not ASIDE.search(type(module).__name__)
    ]
    linear = [type(module).__name__ for _, module in named if LINEAR.search(type(module).__name__)]
    if linear:
        return (
            f"{name} has linear attention only ({linear[0]}), which makes no attention map; choose a model with softmax "
            f"attention ({OTHERS})"
        )
    if named:
        path, module = named[0]
        return _own_code(name, Unwatched(path, module, ""))
    return (
        f"{name} has no attention to look at (it mixes positions by recurrence, convolution or the like); choose a model with "
        f"attention ({OTHERS})"
    )
