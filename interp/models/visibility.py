"""From the mask functions of transformers to our Mask, so that no T x T mask is built.

transformers describes who sees whom by composing small closures (causal, window, chunk, padding, packed documents). Those
that it composes are recognised here by name and turned into their O(T) form; one that is not recognised is kept whole as a
predicate and evaluated tile by tile, which is as exact and only slower.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.models.rules import mask_by_symbols
from interp_kernels import Mask


@dataclass(frozen=True, eq=False)
class ModelMask(Mask):
    """Who sees whom, as a model gets it in the place of the tensor that it would make.

    first_key: position of key 0 of the call; above 0 where a sliding-window cache has let go of the keys before it
    shape: [B, 1, Tq, Tk] of the tensor; a language model that is handed a ready mask reads the number of keys off it
    """

    first_key: int = 0
    shape: tuple[int, ...] = ()
    # Falcon asks for it, and would add ALiBi to a mask of four dimensions.
    ndim: ClassVar[int] = 2

    def to(self, *place: Any, **named: Any) -> Mask:
        """As a tensor's: a device counts, a dtype says nothing here (MPT, PaliGemma)."""
        devices = [x for x in (*place, named.get("device")) if isinstance(x, torch.device | str)]
        return super().to(devices[0]) if devices else self

    def __add__(self, bias: Tensor) -> BiasedMask:
        return BiasedMask(self, bias)

    __radd__ = __add__


@dataclass(frozen=True, eq=False)
class BiasedMask:
    """A mask to which the model added a bias of its own (BEiT's relative positions), broadcastable to [B, H, Tq, Tk]."""

    mask: ModelMask
    bias: Tensor

    def __add__(self, bias: Tensor) -> BiasedMask:
        return BiasedMask(self.mask, self.bias + bias)

    __radd__ = __add__


def attention_visibility(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] | None = None,
    attention_mask: Tensor | ModelMask | None = None,
    **_: Any,
) -> ModelMask:
    """The mask interface of transformers: its arguments, our Mask back. Registered beside the attention function.

    q_offset and kv_offset are the positions of the first query and the first key handed over (a KV cache, a sliding-window
    cache). Key index 0 of the call is position ``kv_offset``, so the Mask's offset is their difference.
    """
    if isinstance(attention_mask, ModelMask):  # made already, by the model around a language model
        return attention_mask
    if isinstance(q_offset, Tensor):
        q_offset = int(q_offset)
    positions = max(q_offset + q_length, kv_offset + kv_length)
    mask = Mask.full() if mask_function is None else _translated(mask_function, kv_offset, positions)
    if attention_mask is not None:
        missing = kv_length + kv_offset - attention_mask.shape[-1]
        keep = torch.nn.functional.pad(attention_mask, (0, max(0, missing)))[:, kv_offset : kv_offset + kv_length]
        # Whether there is padding is not known while a graph is traced.
        if torch.compiler.is_compiling() or not bool(keep.all()):
            mask = mask & Mask.from_padding(keep)
    mask = mask.with_offset(q_offset - kv_offset)
    shape = batch_size, 1, q_length, kv_length
    return ModelMask(
        mask.is_causal, mask.window, mask.offset, mask.keep, mask.documents, mask.predicates, kv_offset, shape
    )


def _translated(function: Callable[..., Tensor], kv_offset: int, positions: int) -> Mask:
    if torch.compiler.is_compiling():
        return mask_by_symbols(function)
    known = _recognised(function, kv_offset, positions)
    if known is not None:
        return known

    def predicate(batch: Tensor, i: Tensor, j: Tensor) -> Tensor:
        # The Mask counts positions from the first key handed over; the library's function wants absolute ones.
        return function(batch, torch.zeros_like(batch), i + kv_offset, j + kv_offset)

    return Mask.from_predicate(predicate)


def _recognised(
    function: Callable[..., Tensor], kv_offset: int, positions: int, beside_causal: bool = False
) -> Mask | None:
    """The Mask of a function that transformers composed, or None. Relative rules do not depend on the offsets.

    positions: how many there are, of queries and keys
    """
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
                mask = _recognised(part, kv_offset, positions, beside_causal=causal)
                if mask is None:
                    return None
                combined = combined & mask
            return combined
        case "sliding_window_bidirectional_overlay":
            return Mask.full(window=closure["sliding_window"] + 1)
        case "chunked_overlay" if kv_offset == 0:
            start = closure["left_padding"][:, None]
            return Mask.from_documents((torch.arange(positions, device=start.device) - start) // closure["chunk_size"])
        case "packed_sequence_mask_function" if kv_offset == 0:
            return Mask.from_documents(closure["packed_sequence_mask"])
    return None
