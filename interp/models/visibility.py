"""From the mask functions of transformers to our Mask, so that no T x T mask is built.

transformers describes who sees whom by composing small closures (causal, window, chunk, padding, packed documents). Those
that it composes are recognised here by name and turned into their O(T) form; one that is not recognised is kept whole as a
predicate and evaluated tile by tile, which is as exact and only slower.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.models.rules import mask_by_symbols
from interp_kernels import Mask


@dataclass(frozen=True, eq=False)
class CacheMask(Mask):
    """Who sees whom where a sliding-window cache has let go of the first keys: key 0 of the call is position ``first_key``."""

    first_key: int = 0


def attention_visibility(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] | None = None,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Mask:
    """The mask interface of transformers: its arguments, our Mask back. Registered beside the attention function.

    q_offset and kv_offset are the positions of the first query and the first key handed over (a KV cache, a sliding-window
    cache). Key index 0 of the call is position ``kv_offset``, so the Mask's offset is their difference.
    """
    if isinstance(q_offset, Tensor):
        q_offset = int(q_offset)
    mask = Mask.full() if mask_function is None else _translated(mask_function, q_offset, kv_offset)
    if attention_mask is not None:
        missing = kv_length + kv_offset - attention_mask.shape[-1]
        keep = torch.nn.functional.pad(attention_mask, (0, max(0, missing)))[:, kv_offset : kv_offset + kv_length]
        # Whether there is padding is not known while a graph is traced.
        if torch.compiler.is_compiling() or not bool(keep.all()):
            mask = mask & Mask.from_padding(keep)
    mask = mask.with_offset(q_offset - kv_offset)
    return CacheMask(**vars(mask), first_key=kv_offset) if kv_offset else mask


def _translated(function: Callable[..., Tensor], q_offset: int, kv_offset: int) -> Mask:
    if torch.compiler.is_compiling():
        return mask_by_symbols(function)
    known = _recognised(function, kv_offset)
    if known is not None:
        return known

    def predicate(batch: Tensor, i: Tensor, j: Tensor) -> Tensor:
        # The Mask counts positions from the first key handed over; the library's function wants absolute ones.
        return function(batch, torch.zeros_like(batch), i + kv_offset, j + kv_offset)

    return Mask.from_predicate(predicate)


def _recognised(function: Callable[..., Tensor], kv_offset: int, beside_causal: bool = False) -> Mask | None:
    """The Mask of a function that transformers composed, or None. Relative rules do not depend on the offsets."""
    if getattr(function, "__module__", None) != "transformers.masking_utils":
        return None
    closure = inspect.getclosurevars(function).nonlocals
    match function.__qualname__.split(".")[0]:
        case "causal_mask_function":
            return Mask.causal()
        case "bidirectional_mask_function":
            return Mask.full()
        case "sliding_window_overlay" if beside_causal:
            # kv > q - window bounds only the past; with a causal rule beside it that is Mask's window.
            return Mask(window=closure["sliding_window"])
        case "and_masks":
            parts = closure["mask_functions"]
            causal = any(getattr(part, "__qualname__", "") == "causal_mask_function" for part in parts)
            combined = Mask.full()
            for part in parts:
                mask = _recognised(part, kv_offset, beside_causal=causal)
                if mask is None:
                    return None
                combined = combined & mask
            return combined
        case "packed_sequence_mask_function" if kv_offset == 0:
            return Mask.from_documents(closure["packed_sequence_mask"])
    return None
