"""A hook on the pattern or the scores makes its layer dense: as in the bridge, said with its cost, measured as it is edited."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

import interp
from interp.errors import RunError
from tests.interp.bridges.bridges import REBUILT, bridge, entropy_of, furthest, native, own_run
from tests.interp.tiny import HEADS, token_ids

T = 24
IDS = token_ids((2, T))
PATTERN, SCORES = "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"


def halved(value: Tensor, hook: Any) -> Tensor:
    """Head 1 keeps half of its mass: its rows no longer sum to 1."""
    changed = value.clone()
    changed[:, 1] *= 0.5
    return changed


def look(value: Tensor, hook: Any) -> None:
    """Changes nothing."""


def dense_capture(made: Any, point: str, hook: Any, *probes: Any) -> interp.Capture:
    with made.hooks(fwd_hooks=[(point, hook)]), pytest.warns(interp.DenseLayerWarning):
        return interp.load(made).capture(IDS, ["entropy", "received", *probes], logits=True)


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@pytest.mark.parametrize("point", [PATTERN, SCORES], ids=["pattern", "scores"])
@pytest.mark.parametrize("name", REBUILT)
def test_edits_take_effect_and_statistics_are_those_of_the_pattern_as_edited(
    name: str, point: str, compatibility: bool
):
    made = bridge(name, compatibility=compatibility)
    want, seen = own_run(made, IDS, [(point, halved)])
    coarse, loose = own_run(bridge(name, torch.float32, compatibility=compatibility), IDS, [(point, halved)])
    capture = dense_capture(made, point, halved)
    assert capture.logits is not None
    assert furthest(want, own_run(made, IDS)[0]) > 1e-2
    assert furthest(capture.logits, want) <= 2 * furthest(coarse, want)
    assert capture.facts["dense_layers"] == [1]
    truth, rough = seen[PATTERN], loose[PATTERN]
    assert furthest(capture["entropy"][1], entropy_of(truth)) <= 2 * furthest(entropy_of(rough), entropy_of(truth))
    assert furthest(capture["received"][1], truth.sum(2)) <= 2 * furthest(rough.sum(2), truth.sum(2))


@pytest.mark.parametrize("name", ["opt", "bert"])
def test_delegated_attention_shows_its_pattern_and_discards_edits_as_the_bridge_does(name: str):
    made = bridge(name)
    plain, seen = own_run(made, IDS)
    _, loose = own_run(bridge(name, torch.float32), IDS)
    found: list[Tensor] = []
    dense_capture(made, PATTERN, lambda value, hook: found.append(value))
    assert furthest(found[0], seen[PATTERN]) <= 2 * furthest(loose[PATTERN], seen[PATTERN])
    with pytest.warns(UserWarning, match="edit is discarded"):
        capture = dense_capture(made, PATTERN, halved)
    assert capture.logits is not None
    assert furthest(capture.logits, plain) < 1e-4


def test_the_warning_names_the_layer_the_hook_and_the_bytes():
    made = bridge("llama", torch.float32)
    cells = 2 * HEADS * T * T
    told = rf"layer 1 runs dense: a hook on {re.escape(PATTERN)} asks for .* = {cells:,} cells, {4 * cells:,} bytes"
    with made.hooks(fwd_hooks=[(PATTERN, look)]), pytest.warns(interp.DenseLayerWarning, match=told):
        interp.load(made).capture(IDS)


def test_only_the_hooked_layer_is_dense_and_only_while_it_is_hooked():
    made = bridge("gpt2", torch.float32)
    model = interp.load(made)
    with made.hooks(fwd_hooks=[(PATTERN, look)]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        during = model.capture(IDS)
    assert [str(w.message).split(" runs")[0] for w in caught] == ["layer 1"]
    assert during.facts["dense_layers"] == [1]
    after = model.capture(IDS)  # warnings are errors
    assert "dense_layers" not in after.facts
    for layer in (0, 1):
        assert furthest(during["entropy"][layer], after["entropy"][layer]) < 1e-5


def test_a_plain_torch_hook_on_the_point_counts_as_well():
    made = bridge("gpt2", torch.float32)
    found: list[Tensor] = []
    point = made.blocks[1].attn.hook_pattern
    handle = point.register_forward_hook(lambda module, given, output: found.append(output))
    try:
        with pytest.warns(interp.DenseLayerWarning):
            interp.load(made).capture(IDS)
    finally:
        handle.remove()
    assert found[0].shape == (2, HEADS, T, T)


def test_lazy_maps_and_edits_of_interp_work_on_a_dense_layer():
    made = bridge("llama")
    model = interp.load(made)
    _, seen = own_run(made, IDS, [(PATTERN, halved)])
    with made.hooks(fwd_hooks=[(PATTERN, halved)]), warnings.catch_warnings():
        warnings.simplefilter("ignore", interp.DenseLayerWarning)
        lazy = model.maps(IDS)[1]
        assert furthest(lazy.dense(), seen[PATTERN]) < 1e-6
        with model.edited([interp.edits.ablate("L1H1")]):
            ablated = model.capture(IDS, logits=True)
    with model.edited([interp.edits.ablate("L1H1")]):
        fused = model.capture(IDS, logits=True)
    assert ablated.logits is not None
    assert fused.logits is not None
    assert furthest(ablated.logits, fused.logits) < 1e-5  # what the hook halved is gone either way


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: 2 * p, "rows that sum to as much as 2"),
        (lambda p: p - 0.1, "negative numbers"),
        (lambda p: torch.full_like(p, 1 / T), "keys that its queries do not see"),
    ],
    ids=["doubled", "negative", "uniform over the future"],
)
def test_a_pattern_that_is_no_attention_map_is_not_measured_but_still_runs(change: Any, what: str):
    made = bridge("llama")
    model = interp.load(made)

    def edit(value: Tensor, hook: Any) -> Tensor:
        return change(value)

    with made.hooks(fwd_hooks=[(PATTERN, edit)]), warnings.catch_warnings():
        warnings.simplefilter("ignore", interp.DenseLayerWarning)
        with pytest.raises(RunError, match=what):
            model.capture(IDS)
        capture = model.capture(IDS, layers=[0], logits=True)
    assert capture.logits is not None
    assert furthest(capture.logits, own_run(made, IDS, [(PATTERN, edit)])[0]) < 1e-5


def test_a_native_model_runs_dense_too():
    made = native()
    want, seen = own_run(made, IDS, [(PATTERN, halved)])
    capture = dense_capture(made, PATTERN, halved)
    assert capture.logits is not None
    assert furthest(capture.logits, want) < 1e-12
    assert furthest(capture["entropy"][1], entropy_of(seen[PATTERN])) < 1e-12
