"""What a bridge's own hooks see and change in its own run, they see and change in a capture, where attention runs fused.

Tolerances: the truth is the bridge's own dense run in float64, which takes its softmax in float32 in some architectures; a
capture may be away from it twice as far as the bridge's float32 run is, or a few roundings where that was right by luck.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

import interp
from tests.interp.bridges.bridges import NAMES, bridge, furthest, is_dense, native, own_run, seen_in_capture
from tests.interp.tiny import token_ids

IDS = token_ids((2, 24))
FEW = (
    64 * torch.finfo(torch.float64).eps
)  # scores reach some tens, and their rounding is so many times that of a probability


def with_every_hook(made: Any) -> Any:
    """Also those points that TransformerLens keeps silent unless asked."""
    for flag in ("set_use_attn_result", "set_use_split_qkv_input", "set_use_hook_mlp_in"):
        try:
            getattr(made, flag)(True)
        except NotImplementedError:
            assert flag != "set_use_hook_mlp_in"  # of delegated attention, the bridge itself cannot
    return made


def bound(truth: Tensor, coarse: Tensor) -> float:
    return max(2 * furthest(coarse, truth), FEW * float(truth.double().abs().max()))


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@pytest.mark.parametrize("name", [*NAMES, "native"])
def test_every_hook_fires_with_the_bridges_own_values(name: str, compatibility: bool):
    def made(dtype: torch.dtype) -> Any:
        if name != "native":
            return with_every_hook(bridge(name, dtype, compatibility=compatibility))
        booted = native(dtype)
        if compatibility:
            booted.enable_compatibility_mode(disable_warnings=True)
        return with_every_hook(booted)

    model = made(torch.float64)
    _, own = own_run(model, IDS)
    _, coarse = own_run(made(torch.float32), IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", interp.DenseLayerWarning)
        _, seen = seen_in_capture(model, IDS, lambda point: not is_dense(point))
    wanted = {point for point in own if not is_dense(point)}
    assert seen.keys() == wanted
    assert any(point.endswith((".attn.q.hook_out", ".attn.hook_q")) for point in wanted)  # two names of one point
    for point in wanted:
        assert seen[point].shape == own[point].shape, point
        assert furthest(seen[point], own[point]) <= bound(own[point], coarse[point]), point


POINTS = (
    "blocks.0.attn.hook_q",
    "blocks.0.attn.hook_k",
    "blocks.0.attn.hook_v",
    "blocks.0.attn.hook_z",
    "blocks.0.attn.hook_result",
    "blocks.0.attn.hook_rot_q",
    "blocks.0.hook_q_input",
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_attn_out",
    "blocks.0.hook_mlp_out",
    "blocks.0.hook_resid_post",
    "unembed.hook_in",
)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen3", "gemma2", "gpt_oss", "opt", "bert", "native"])
def test_what_a_hook_returns_takes_effect(name: str):
    def made(dtype: torch.dtype) -> Any:
        return with_every_hook(native(dtype) if name == "native" else bridge(name, dtype))

    def edit(value: Tensor, hook: Any) -> Tensor:
        changed = value.clone()
        changed[:, 3:9] *= -0.5
        return changed

    model, coarse_model = made(torch.float64), made(torch.float32)
    plain, fired = own_run(model, IDS)
    tried = [point for point in POINTS if point in model.hook_dict and model.hook_dict[point].name in fired]
    assert {"blocks.0.attn.hook_q", "blocks.0.attn.hook_z", "blocks.0.hook_mlp_out"} <= set(tried)
    for point in tried:
        want, _ = own_run(model, IDS, [(point, edit)])
        coarse, _ = own_run(coarse_model, IDS, [(point, edit)])
        capture, _ = seen_in_capture(model, IDS, lambda _: False, [(point, edit)])
        assert capture.logits is not None
        assert furthest(want, plain) > 1e-3, point
        assert furthest(capture.logits, want) <= bound(want, coarse), point


def test_a_hook_on_the_unembedding_fires_in_a_capture_without_logits():
    made, seen = bridge("llama", torch.float32), []
    with made.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: seen.append(value.shape))]):
        capture = interp.load(made).capture(IDS)
    assert capture.logits is None
    assert len(seen) == 1


def test_users_who_multiply_matrices_in_a_hook_get_theirs():
    """The fused pass stands in for two products of the component's own; a hook runs between them."""
    made, products = bridge("llama", torch.float32), []

    def look(value: Tensor, hook: Any) -> None:
        heads = value.transpose(1, 2)
        products.append(torch.matmul(heads, heads.transpose(-1, -2)))

    with made.hooks(fwd_hooks=[("blocks.0.attn.hook_q", look), ("blocks.0.attn.hook_z", look)]):
        interp.load(made).capture(IDS)
    assert [type(x) for x in products] == [Tensor, Tensor]
    assert products[0].shape == (2, 4, 24, 24)
