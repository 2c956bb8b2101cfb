"""Models of TransformerLens' own form: the trained two-layer model, whose heads are known, and small random ones.

What is known of the two-layer model: on sequences that repeat a letter at the end, layer 0 looks at the previous token, and
layer 1 at the token after the first copy (see tests/interp/heads/test_trained_two_layer.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

import interp
from interp.errors import InputError
from tests.interp.bridges.bridges import entropy_of, furthest, native, own_run
from tests.interp.bridges.trained import trained_two_layer
from tests.interp.tiny import token_ids

SEQUENCES = 2000
KINDS = {
    "plain": {},
    "rotary, grouped, RMS": {
        "positional_embedding_type": "rotary",
        "n_key_value_heads": 2,
        "normalization_type": "RMS",
        "gated_mlp": True,
        "final_rms": True,
    },
    "bidirectional": {"attention_dir": "bidirectional"},
    "soft cap": {"attn_scores_soft_cap": 3.0},
}


@pytest.fixture(scope="module")
def trained(shared_data: Path) -> Any:
    return trained_two_layer(shared_data)


@pytest.fixture(scope="module")
def sequences() -> tuple[Tensor, Tensor]:
    """Eight distinct letters, then position 7 set to the letter of a position 0..5: ids [B, 8], and that position [B]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(26, generator=generator)[:8] for _ in range(SEQUENCES)])
    first = torch.randint(0, 6, (SEQUENCES,), generator=generator)
    ids[:, 7] = ids[torch.arange(SEQUENCES), first]
    return ids, first


def test_load_finds_both_heads_of_the_trained_model(trained: Any, sequences: tuple[Tensor, Tensor]):
    ids, first = sequences
    model = interp.load(trained)
    capture = model.capture(ids, [interp.OffsetMass((1,), reduce="mean")], logits=True)
    assert float(capture["offset_mass"][0].mean()) >= 0.99
    everyone = torch.arange(SEQUENCES)
    induction = model.maps(ids)[1].rows([7])[everyone, 0, 0, first + 1]
    assert float(induction.mean()) >= 0.90
    assert capture.logits is not None
    right = capture.logits[:, -1].argmax(-1) == ids[everyone, first + 1]
    assert float(right.float().mean()) == pytest.approx(0.906, abs=0.02)


def test_the_registered_detectors_find_both_heads_and_no_third(trained: Any, sequences: tuple[Tensor, Tensor]):
    model = interp.load(trained)
    scores = interp.scan(model, ["previous_token", "induction"], samples=200, progress=False)
    assert interp.causal.heads_above(scores, "previous_token") == ["L0H0"]
    assert interp.causal.heads_above(scores, "induction") == ["L1H0"]
    assert scores.grid("previous_token")[0, 0] >= 0.99
    assert scores.grid("induction")[0, 0] <= 0.01
    # The model is right in nine of ten cases, and the random span of four tokens, twice, is not what it was trained on.
    assert scores.grid("induction")[1, 0] >= 0.85
    curve = interp.heads.lag_curve(model, sequences[0])
    assert curve.at(1)[1, 0] >= 0.90
    assert curve.at(-1)[1, 0] <= 0.01


def test_without_its_first_head_the_trained_model_does_no_induction(trained: Any, sequences: tuple[Tensor, Tensor]):
    """The negative control, by one of TransformerLens' hooks and by one of interp's edits."""
    ids, first = sequences
    model = interp.load(trained)
    everyone = torch.arange(SEQUENCES)

    def zero(value: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(value)

    with trained.hooks(fwd_hooks=[("blocks.0.attn.hook_z", zero)]):
        hooked = model.maps(ids)[1].rows([7])[everyone, 0, 0, first + 1]
    with model.edited([interp.edits.ablate("L0H0")]):
        edited = model.maps(ids)[1].rows([7])[everyone, 0, 0, first + 1]
    assert float(hooked.mean()) < 0.3
    torch.testing.assert_close(edited, hooked)


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_and_logits_are_those_of_the_models_own_attention(kind: str, compatibility: bool):
    def made(dtype: torch.dtype) -> Any:
        booted = native(dtype, **KINDS[kind])
        if compatibility:
            booted.enable_compatibility_mode(disable_warnings=True)
        return booted

    ids, model = token_ids((2, 24)), made(torch.float64)
    want, seen = own_run(model, ids)
    coarse, loose = own_run(made(torch.float32), ids)
    capture = interp.load(model).capture(ids, logits=True)
    assert capture.logits is not None
    assert_close(capture.logits, want, coarse)
    point = "blocks.1.attn.hook_pattern"
    truth, rough = entropy_of(seen[point]), entropy_of(loose[point])
    assert truth.std() > 0.1
    assert_close(capture["entropy"][1], truth, rough)


def assert_close(got: Tensor, want: Tensor, coarse: Tensor) -> None:
    """Twice the error of the model's own float32 run, scaled to float64's rounding; or a few roundings of the values."""
    epsilon = torch.finfo(torch.float64).eps
    scaled = 2 * furthest(coarse, want) * epsilon / torch.finfo(torch.float32).eps
    assert furthest(got, want) <= max(scaled, 64 * epsilon * float(want.abs().max()))


def test_padding_is_not_seen():
    model = interp.load(native())
    alone = model.capture([token_ids((15,)).tolist()])
    padded = model.capture([token_ids((24,), 1).tolist(), token_ids((15,)).tolist()])
    for layer in (0, 1):
        torch.testing.assert_close(padded["entropy"][layer][1, :, :15], alone["entropy"][layer][0], rtol=0, atol=1e-12)
        assert bool(padded["entropy"][layer][1, :, 15:].isnan().all())


def test_the_context_ends_where_the_tables_end():
    with pytest.raises(InputError, match="made for 64"):
        interp.load(native(positional_embedding_type="rotary")).capture(token_ids((65,)))


def test_logits_are_not_computed_unless_asked_for():
    made, reached = native(), []
    head = made.original_model.head.original_component
    own = head.forward

    def counted(x: Tensor) -> Tensor:
        reached.append(True)
        return own(x)

    head.forward = counted  # a hook on the unembedding would ask for it
    model = interp.load(made)
    model.capture(token_ids((9,)))
    assert not reached
    model.capture(token_ids((9,)), logits=True)
    assert len(reached) == 1
