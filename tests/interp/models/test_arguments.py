"""Masks that an architecture makes itself, as tensors, say what they say to the library's own attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from interp.models.arguments import attention_call
from interp.models.layers import AttentionLayer
from interp.models.visibility import BiasedMask, ModelMask, attention_visibility
from interp_kernels import Mask

B, H, QUERIES, KEYS, D = 2, 3, 5, 7, 4
GENERATOR = torch.Generator().manual_seed(0)
Q = torch.randn(B, H, QUERIES, D, generator=GENERATOR, dtype=torch.float64)
K, V = torch.randn(2, B, H, KEYS, D, generator=GENERATOR, dtype=torch.float64)
SEEN = torch.rand(B, H, QUERIES, KEYS, generator=GENERATOR) < 0.6
SEEN[..., 2] = True  # every query sees a key
BIAS = torch.randn(B, H, QUERIES, KEYS, generator=GENERATOR, dtype=torch.float64)
ZEROS = torch.zeros(B, 1, QUERIES, KEYS, dtype=torch.float64)
LEAST = torch.finfo(torch.float64).min

MASKS: dict[str, Tensor] = {
    "true where seen": SEEN[:, :1],
    "padding, true where seen": SEEN[:, :1, :1],
    "of one sequence for all": SEEN[:1, :1],
    "of each head": SEEN,
    "all seen": torch.ones(B, 1, 1, KEYS, dtype=torch.bool),
    "added": ZEROS.masked_fill(~SEEN[:, :1], LEAST),
    "padding, added": ZEROS[:, :, :1].masked_fill(~SEEN[:, :1, :1], LEAST),
    "added as minus infinity": ZEROS.masked_fill(~SEEN[:, :1], -torch.inf),
    "bias": BIAS,
    "bias and hidden": BIAS.masked_fill(~SEEN[:, :1].expand_as(BIAS), LEAST),
    "bias of each head, hidden of each head": BIAS.masked_fill(~SEEN, LEAST),
}


@pytest.mark.parametrize("stack", ["", "cross"])
@pytest.mark.parametrize("name", MASKS)
def test_a_tensor_is_read_as_the_library_reads_it(name: str, stack: str):
    call = attention_call(AttentionLayer(stack, 0, "", H), nn.Identity(), Q, K, V, MASKS[name])
    expected = scaled_dot_product_attention(Q, K, V, attn_mask=MASKS[name])
    torch.testing.assert_close(call.attend().output, expected, rtol=0, atol=1e-12)


def test_a_longer_mask_is_cut_to_the_keys():
    longer = torch.cat([SEEN[:, :1], torch.ones(B, 1, QUERIES, 4, dtype=torch.bool)], dim=-1)
    call = attention_call(AttentionLayer("", 0, "", H), nn.Identity(), Q, K, V, longer)
    expected = scaled_dot_product_attention(Q, K, V, attn_mask=SEEN[:, :1])
    torch.testing.assert_close(call.attend().output, expected, rtol=0, atol=1e-12)


def test_padding_alone_takes_no_more_than_its_keys():
    call = attention_call(AttentionLayer("", 0, "", H), nn.Identity(), Q, K, V, MASKS["padding, added"])
    assert call.bias is None
    assert call.mask.predicates == ()
    assert call.mask.keep is not None


def test_position_biases_add_up_with_masks():
    call = attention_call(
        AttentionLayer("", 0, "", H), nn.Identity(), Q, K, V, MASKS["bias and hidden"], position_bias=BIAS, scaling=1.0
    )
    expected = scaled_dot_product_attention(Q, K, V, attn_mask=MASKS["bias and hidden"] + BIAS, scale=1.0)
    torch.testing.assert_close(call.attend().output, expected, rtol=0, atol=1e-12)


def test_a_bias_that_the_model_adds_to_our_mask():
    mask = attention_visibility(B, QUERIES, KEYS, attention_mask=torch.ones(B, KEYS, dtype=torch.bool))
    assert isinstance(mask, ModelMask)
    biased = BIAS + mask
    assert isinstance(biased, BiasedMask)
    call = attention_call(AttentionLayer("", 0, "", H), nn.Identity(), Q, K, V, BIAS + biased)
    expected = scaled_dot_product_attention(Q, K, V, attn_mask=2 * BIAS)
    torch.testing.assert_close(call.attend().output, expected, rtol=0, atol=1e-12)


def test_sink_logits_of_each_row_lose_their_column():
    sinks = torch.randn(B, H, QUERIES, 1, generator=GENERATOR, dtype=torch.float64)
    call = attention_call(AttentionLayer("", 0, "", H), nn.Identity(), Q, K, V, Mask.full(), sinks=sinks)
    scores = torch.cat([Q @ K.transpose(-1, -2) / D**0.5, sinks], dim=-1)
    expected = scores.softmax(-1)[..., :-1] @ V
    torch.testing.assert_close(call.attend().output, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("is_causal", "causal"), [(None, True), (True, True), (False, False)])
def test_without_a_mask_the_modules_word_counts(is_causal: bool | None, causal: bool):
    """As for the library's fused path."""
    x = Q[:, :, :, :]
    call = attention_call(AttentionLayer("", 0, "", H), nn.Identity(), x, x, x, None, is_causal=is_causal)
    assert call.mask.is_causal is causal


def test_a_mask_that_was_made_already_stays():
    mask = attention_visibility(B, QUERIES, QUERIES)
    assert attention_visibility(B, QUERIES, QUERIES, attention_mask=mask) is mask
    assert mask.shape == (B, 1, QUERIES, QUERIES)
    assert mask.to(dtype=torch.bool) is mask
    assert mask.to(torch.bool) is mask
