"""Adapters in their places while a model is hooked, in every thread that records it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from interp.errors import InputError, RunError
from interp.models.adapters import adapter_of
from interp.models.adapters.adapter import Adapter
from interp.models.arguments import attention_call
from interp.models.attention import watched
from interp.models.hooking import IMPLEMENTATION, recording_of
from interp.models.layers import LayersOf
from interp.models.replacing import Replacement, replaced
from interp.models.support import Unwatched
from interp_kernels import Mask


@contextmanager
def adapted(layers: LayersOf, unwatched: Iterable[Unwatched]) -> Iterator[None]:
    """While it lasts, modules with an adapter run it, and those that cannot be watched refuse to run.

    Both only in threads that record the model; elsewhere the modules run as always. Several threads, and one within another,
    may hold the same model: the last gives it back.
    """
    adapters = {module: adapter for module in layers if (adapter := adapter_of(type(module))) is not None}
    first = next(iter(layers))
    stand_ins = [Replacement(module, each.method, _stand_in(module, each)) for module, each in adapters.items()]
    refusals = [Replacement(each.module, "forward", _refusal(each, first)) for each in unwatched]
    with replaced([*stand_ins, *refusals]):
        yield


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
