"""Adapters in their places while a model is hooked, in every thread that records it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from interp.errors import InputError, RunError
from interp.models.adapters import adapter_of
from interp.models.adapters.adapter import Adapter
from interp.models.arguments import attention_call
from interp.models.attention import watched
from interp.models.hooking import IMPLEMENTATION, recording_of
from interp.models.layers import LayersOf
from interp.models.support import Unwatched
from interp_kernels import Mask


@dataclass
class _Held:
    """A module whose method is replaced: what its own dictionary held under that name, and for how many."""

    module: nn.Module
    method: str
    before: Any
    holders: set[object] = field(default_factory=set)


_ABSENT = object()
_held: dict[int, _Held] = {}
_lock = threading.RLock()


@contextmanager
def adapted(layers: LayersOf, unwatched: Iterable[Unwatched]) -> Iterator[None]:
    """While it lasts, modules with an adapter run it, and those that cannot be watched refuse to run.

    Both only in threads that record the model; elsewhere the modules run as always. Several threads, and one within another,
    may hold the same model: the last gives it back.
    """
    holder = object()
    replaced = {module: adapter for module in layers if (adapter := adapter_of(type(module))) is not None}
    first = next(iter(layers))
    try:
        for module, adapter in replaced.items():
            _take(module, adapter.method, _stand_in(module, adapter), holder)
        for each in unwatched:
            _take(each.module, "forward", _refusal(each, first), holder)
        yield
    finally:
        for module in (*replaced, *(each.module for each in unwatched)):
            _give_back(module, holder)


def _stand_in(module: Any, adapter: Adapter) -> Any:
    own = getattr(module, adapter.method)

    def watch(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None,
        *,
        scaling: float,
        bias: Tensor | None = None,
        also: Mask | None = None,
    ) -> Tensor:
        recording = recording_of(module)
        assert recording is not None
        layer = recording.layer_of(module)
        call = attention_call(
            layer, module, q, k, v, mask, scaling=scaling, position_bias=bias, is_causal=False, also=also
        )
        return watched(call, recording)

    def run(*arguments: Any, **options: Any) -> Any:
        if recording_of(module) is None:
            if adapter.reads_configuration and module.config._attn_implementation == IMPLEMENTATION:
                raise RunError(
                    f"another thread records this model, and {type(module).__name__} cannot tell its own attention from its "
                    "configuration meanwhile; run it when the capture has ended"
                )
            return own(*arguments, **options)
        return adapter.run(module, watch, *arguments, **options)

    return run


def _refusal(unwatched: Unwatched, member: nn.Module) -> Any:
    own = unwatched.module.forward

    def run(*arguments: Any, **options: Any) -> Any:
        if recording_of(member) is None:
            return own(*arguments, **options)
        raise InputError(
            f"this input reaches {unwatched.path}, where {type(unwatched.module).__name__} computes attention in code of its own "
            "that cannot be watched; give the model text alone"
        )

    return run


def _take(module: nn.Module, method: str, replacement: Any, holder: object) -> None:
    with _lock:
        held = _held.get(id(module))
        if held is None:
            held = _held[id(module)] = _Held(module, method, vars(module).get(method, _ABSENT))
            setattr(module, method, replacement)
        held.holders.add(holder)


def _give_back(module: nn.Module, holder: object) -> None:
    with _lock:
        held = _held.get(id(module))
        if held is None:
            return
        held.holders.discard(holder)
        if not held.holders:
            del _held[id(module)]
            if held.before is _ABSENT:
                delattr(module, held.method)
            else:
                setattr(module, held.method, held.before)
