"""Who is hooked, in which thread: a model's configurations name our attention while any thread records it.

transformers reads the name of the attention to call from the model's configuration, which every thread sees. A thread that
records nothing must not notice: its calls come to us by that name, and are handed to the attention that the configuration
named before, its masks included. So plain runs are the model's own, bit for bit, also when a capture elsewhere begins or
ends in their middle.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from interp.errors import InputError, RunError

if TYPE_CHECKING:
    from interp.models.attention import Recording

IMPLEMENTATION = "interp"
"""Name of our attention function in transformers' registry."""
REGISTRY = "ALL_ATTENTION_FUNCTIONS"
"""What the code of every architecture calls that registry."""


class _Thread(threading.local):
    """What this thread records, the innermost last. Not a ContextVar, which torch.compile cannot trace."""

    recordings: tuple[tuple[nn.Module, Recording], ...] = ()


@dataclass
class _Held:
    """A configuration that names our attention: what it named before, and who still needs ours."""

    config: Any
    own: str | None
    holders: set[object] = field(default_factory=set)


_thread = _Thread()
_held: dict[int, _Held] = {}
# Reentrant: a signal handler of the holding thread may itself capture.
_lock = threading.RLock()


@contextmanager
def recorded(model: nn.Module, recording: Recording) -> Iterator[None]:
    """While it lasts, this thread's runs of ``model`` report to ``recording``; then everything is as before.

    Runs may nest, and threads may record one model, or models with a common configuration, at once: each has its own
    recording, the first names our attention in the configurations, the last gives them their own back. One that was set by
    hand in between stays.
    """
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    entry = (model, recording)
    # Given back by this name even if an interrupt comes while it is being taken.
    holder = object()
    try:
        _take(configs.values(), holder)
        _thread.recordings = (*_thread.recordings, entry)
        yield
    finally:
        try:
            _thread.recordings = tuple(each for each in _thread.recordings if each is not entry)
        finally:
            _give_back(configs.values(), holder)


def is_recording() -> bool:
    """Whether this thread records any model."""
    return bool(_thread.recordings)


def standing_recordings() -> list[Recording]:
    """Those of this thread that outlive a run."""
    return [recording for _, recording in _thread.recordings if recording.is_standing]


def recording_of(module: nn.Module) -> Recording | None:
    """This thread's innermost recording of the model that ``module`` is in, None where it records no such model.

    Raises:
        InputError: the module came into a recorded model after it was loaded.
    """
    recordings = _thread.recordings
    for _, recording in reversed(recordings):
        if module in recording.layers:
            return recording
    for model, _ in recordings:
        if any(module is each for each in model.modules()):
            raise InputError(
                f"{type(module).__name__} was not part of the model when it was loaded; load the changed model again"
            )
    return None


def check_named(model: nn.Module) -> None:
    """Refuse a run that would be neither recorded nor edited, as another attention was named since.

    Raises:
        RunError: a configuration of the model, which a thread holds, no longer names our attention.
    """
    with _lock:
        for module in model.modules():
            held = _held.get(id(module.config)) if isinstance(module, PreTrainedModel) else None
            if held is not None and held.config._attn_implementation_internal != IMPLEMENTATION:
                raise RunError(
                    f"the model's attention was set to {held.config._attn_implementation_internal!r} while it is edited, so that "
                    "the edits would not apply; set it before the context, or leave it as it is"
                )


def own_attention(module: nn.Module) -> Callable[..., Any]:
    """The attention function that ``module`` would call if no thread recorded its model.

    Raises:
        RunError: our attention was named by hand, or the module's own cannot be told.
    """
    own = _own_implementation(module.config)
    registry, eager = _dispatch(type(module))
    function = eager if own is None or own == "eager" else registry.get(own)
    if function is None:
        raise RunError(
            f"another thread records this model, and what {type(module).__name__} calls for {own!r} attention cannot be "
            "told; run it when the capture has ended"
        )
    return function


def own_visibility(config: Any) -> Callable[..., Any]:
    """The mask function that transformers would call for ``config`` if no thread recorded its model."""
    own = _own_implementation(config)
    # Of an implementation without a mask function the library makes no mask.
    return ALL_MASK_ATTENTION_FUNCTIONS.get(own or "eager", lambda *_, **__: None)


def _take(configs: Iterable[Any], holder: object) -> None:
    with _lock:
        for config in configs:
            own = config._attn_implementation_internal
            held = _held.setdefault(id(config), _Held(config, own))
            held.holders.add(holder)
            if own != IMPLEMENTATION:
                held.own = own
                config._attn_implementation_internal = IMPLEMENTATION


def _give_back(configs: Iterable[Any], holder: object) -> None:
    with _lock:
        for config in configs:
            held = _held.get(id(config))
            if held is None:
                continue
            held.holders.discard(holder)
            if not held.holders:
                if config._attn_implementation_internal == IMPLEMENTATION:
                    config._attn_implementation_internal = held.own
                del _held[id(config)]


def _own_implementation(config: Any) -> str | None:
    with _lock:
        held = _held.get(id(config))
        # Not held: the last capture ended after this thread read the name.
        own = config._attn_implementation_internal if held is None else held.own
    if own == IMPLEMENTATION:
        raise RunError(
            f"the model's attention is set to {IMPLEMENTATION!r} outside of a capture; "
            "use HookedModel.capture, or model.set_attn_implementation('sdpa') to give it its own back"
        )
    return own


@cache
def _dispatch(kind: type[nn.Module]) -> tuple[Mapping[str, Any], Callable[..., Any] | None]:
    """The registry in which a class of modules looks its attention up, and its eager attention, which is in none."""
    for base in kind.__mro__:
        for member in vars(base).values():
            function = inspect.unwrap(member) if callable(member) else None
            if isinstance(function, FunctionType) and REGISTRY in function.__code__.co_names:
                eager = [name for name in function.__code__.co_names if name.endswith("eager_attention_forward")]
                names = function.__globals__
                return names[REGISTRY], names.get(eager[0]) if len(eager) == 1 else None
    return {}, None
