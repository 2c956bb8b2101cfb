"""Our Mask says of every pair what transformers' own dense mask says, for each rule that the library composes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as library

from interp.models.visibility import attention_visibility
from interp_kernels import Mask

B = 2
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 40, [0] * 9 + [1] * 4 + [2] * 32])
POSITIONS = torch.tensor([[*range(5), *range(40)], [*range(9), *range(4), *range(32)]])
IMAGES = torch.full((B, 45), -1)
IMAGES[0, 3:7] = 0
IMAGES[1, 8:12] = 1


def every_third(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """A rule of a user's own."""
    return (i - j) % 3 == batch


RULES: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "causal": (library.causal_mask_function, True),
    "full": (library.bidirectional_mask_function, True),
    "sliding": (library.sliding_window_causal_mask_function(4), True),
    "documents": (
        library.and_masks(library.packed_sequence_mask_function(DOCUMENTS), library.causal_mask_function),
        True,
    ),
    "sliding without causal": (library.sliding_window_overlay(4), False),
    "sliding both ways": (library.sliding_window_bidirectional_mask_function(4), True),
    "chunks": (library.chunked_causal_mask_function(5, torch.tensor([0, 2])), True),
    "images": (library.or_masks(library.causal_mask_function, library.blockwise_overlay(IMAGES)), False),
    "a user's": (library.and_masks(library.causal_mask_function, every_third), False),
    "a user's partial": (library.and_masks(library.causal_mask_function, functools.partial(every_third)), False),
}
"""Each rule, and whether it has a form of O(T) or is evaluated tile by tile."""

# Later than the least release that is supported.
if hasattr(library, "packed_sequence_compatibility_function"):
    by_position = library.packed_sequence_compatibility_function(
        library.sliding_window_causal_mask_function(4), POSITIONS, DOCUMENTS
    )
    RULES["documents with positions"] = by_position, False

CALLS = {
    "prompt": {"q_length": 13, "kv_length": 13},
    "one more token": {"q_length": 1, "kv_length": 14, "q_offset": 13},
    "three more tokens": {"q_length": 3, "kv_length": 16, "q_offset": 13},
    "cache of a window": {"q_length": 2, "kv_length": 6, "q_offset": 30, "kv_offset": 26},
    "cache with room": {"q_length": 3, "kv_length": 20, "q_offset": 7},
}


def keys_kept(case: str, call: dict[str, int]) -> Tensor | None:
    known = call.get("q_offset", 0) + call["q_length"]
    if case == "no mask":
        return None
    keep = torch.ones(B, known, dtype=torch.bool)
    if case == "left":
        keep[1, :4] = False
    if case == "right":
        keep[1, -1:] = False
    return keep


def grid(mask: Mask, call: dict[str, int]) -> Tensor:
    """m [B, queries, keys] of ``mask`` for the operands of a call."""
    offset = call["kv_length"] - call["q_length"] if mask.offset is None else mask.offset
    i = torch.arange(call["q_length"])[:, None] + offset
    j = torch.arange(call["kv_length"])[None, :]
    allowed = mask.allows(i, j, torch.arange(B)[:, None, None])
    return allowed.expand(B, call["q_length"], call["kv_length"])


@pytest.mark.parametrize("padding", ["no mask", "nothing padded", "left", "right"])
@pytest.mark.parametrize("situation", CALLS)
@pytest.mark.parametrize("rule", RULES)
def test_pair_by_pair(rule: str, situation: str, padding: str):
    function, _ = RULES[rule]
    call = CALLS[situation]
    keep = keys_kept(padding, call)
    # The library's slower way of evaluation takes rules that are not written for index tensors.
    expected = library.sdpa_mask(
        batch_size=B, mask_function=function, attention_mask=keep, allow_is_causal_skip=False, use_vmap=False, **call
    )
    assert expected is not None
    mask = attention_visibility(B, mask_function=function, attention_mask=keep, **call)
    assert torch.equal(grid(mask, call), expected.expand(B, 1, -1, -1)[:, 0])


@pytest.mark.parametrize("rule", RULES)
def test_known_rules_are_of_order_t(rule: str):
    function, is_known = RULES[rule]
    mask = attention_visibility(B, 13, 13, mask_function=function)
    assert (mask.predicates == ()) is is_known


def test_documents_in_a_shifted_cache_are_evaluated_tile_by_tile():
    """Their ids are by absolute position, which the O(T) form counts from the first key handed over."""
    mask = attention_visibility(B, 2, 6, 30, 26, RULES["documents"][0])
    assert len(mask.predicates) == 1


def test_whole_attention_masks_cost_nothing():
    keep = torch.ones(B, 13, dtype=torch.bool)
    assert attention_visibility(B, 13, 13, mask_function=library.causal_mask_function, attention_mask=keep).keep is None


def test_no_rule_is_no_restriction():
    assert bool(grid(attention_visibility(B, 4, 4), {"q_length": 4, "kv_length": 4}).all())


def test_a_tensor_as_offset():
    """A static cache hands over tensors."""
    mask = attention_visibility(B, 1, 14, torch.tensor(13), 0, library.causal_mask_function)
    assert mask.offset == 13
