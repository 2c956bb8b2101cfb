"""A bridge measures what the same model measures when it is loaded through transformers; compatibility mode changes numbers.

Tolerances: both ways run the same model in float64, and differ in the order of sums at most. Their difference may be twice
what plain float32 differs from plain float64, scaled to float64's rounding, or a few roundings of the values themselves, where
float32 was right by luck. In compatibility mode the bridge's own dense run
is the truth, which takes its softmax in float32: twice what its float32 run differs from it.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

import interp
from interp_kernels import Probe
from tests.interp.bridges.bridges import NAMES, bridge, entropy_of, furthest, is_dense, own_run, plain
from tests.interp.tiny import HEADS, LAYERS, right_padded, token_ids

EPSILON = torch.finfo(torch.float64).eps
SCALED = 2 * EPSILON / torch.finfo(torch.float32).eps
FEW = 64 * EPSILON  # scores reach some tens, and their rounding is so many times that of a probability
LENGTHS = (40, 23)


def every_probe(tokens: int) -> list[Probe]:
    labels = torch.arange(tokens) % 5
    weights = torch.rand(tokens, 2, generator=torch.Generator().manual_seed(0))
    return [
        interp.Entropy(),
        interp.Peak(),
        interp.TopK(3),
        interp.KeyMass(weights),
        interp.LabelMatch(labels, labels),
        interp.OffsetMass((0, 1, 5)),
        interp.Distance(),
        interp.DistanceHistogram((0, 1, 4, tokens)),
        interp.Received(normalize=True),
        interp.Pooled(8),
        interp.Entropy(name="mean", reduce="mean"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_every_probe_are_those_of_the_model_through_transformers(name: str):
    inputs, _, keep = right_padded(LENGTHS)
    probes = every_probe(max(LENGTHS))
    lens = interp.load(bridge(name))
    through = interp.load(plain(name))
    assert lens.shape == through.shape
    assert lens.layers == through.layers
    ours, theirs = (model.capture(inputs, probes, logits=True) for model in (lens, through))
    coarse = interp.load(plain(name, torch.float32)).capture(inputs, probes, logits=True)
    assert ours.stats.keys() == theirs.stats.keys()
    for label, layers in theirs.stats.items():
        for layer, want in layers.items():
            got = ours[label][layer]
            assert torch.equal(got.isnan(), want.isnan())
            if label.endswith("_index"):
                assert torch.equal(got, want), label
            else:
                assert_close(got.nan_to_num(), want.nan_to_num(), coarse[label][layer].nan_to_num(), label)
    assert ours.logits is not None
    assert theirs.logits is not None
    assert coarse.logits is not None
    assert_close(ours.logits[keep], theirs.logits[keep], coarse.logits[keep], "logits")


def assert_close(got: torch.Tensor, want: torch.Tensor, coarse: torch.Tensor, what: str) -> None:
    bound = max(SCALED * furthest(coarse, want), FEW * float(want.abs().max()))
    assert furthest(got, want) <= bound, what


@pytest.mark.parametrize("name", NAMES)
def test_in_compatibility_mode_the_numbers_are_those_of_the_bridges_own_attention(name: str):
    ids = token_ids((2, 40))
    made = bridge(name, compatibility=True)
    logits, seen = own_run(made, ids)
    coarse_logits, coarse = own_run(bridge(name, torch.float32, compatibility=True), ids)
    capture = interp.load(made).capture(ids, ["entropy", "received"], logits=True)
    assert capture.facts["mode"] == "compatibility"
    assert capture.logits is not None
    assert furthest(capture.logits, logits) <= 2 * furthest(coarse_logits, logits)
    for layer in range(LAYERS):
        point = f"blocks.{layer}.attn.hook_pattern"
        truth, rough = (found[point].reshape(2, HEADS, 40, 40) for found in (seen, coarse))
        want, loose = entropy_of(truth), entropy_of(rough)
        assert want.std() > 0.1  # heads that differ, or the comparison would say little
        assert furthest(capture["entropy"][layer], want) <= 2 * furthest(loose, want)
        received, loose = truth.sum(2), rough.sum(2)
        assert furthest(capture["received"][layer], received) <= 2 * furthest(loose, received)


def test_the_mode_is_recorded():
    made = bridge("gpt2", torch.float32)
    model = interp.load(made)
    assert model.facts()["mode"] == "raw"
    assert model.facts()["library"] == "transformer_lens"
    made.enable_compatibility_mode(disable_warnings=True)  # after loading, too
    assert model.capture(token_ids((5,))).facts["mode"] == "compatibility"


def test_compatibility_mode_does_change_the_numbers():
    """The negative control: folded norms are another model to rounding only, centred writing is another residual stream."""
    ids = token_ids((1, 20))
    raw, compatible = bridge("gpt2"), bridge("gpt2", compatibility=True)
    hook = "blocks.1.hook_in"
    assert furthest(own_run(raw, ids)[1][hook], own_run(compatible, ids)[1][hook]) > 0.1
    assert not is_dense(hook)
