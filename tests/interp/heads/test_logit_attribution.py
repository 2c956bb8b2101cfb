"""Direct logit attribution: every part against modules taken by name in float64, the sum against the model's own logit."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import interp
from interp.captures.direct import direct_run
from interp.errors import InputError
from interp.heads import LogitAttribution, logit_attribution
from interp.inputs.batch import Batch
from tests.interp.heads.dense_parts import NAMED, parts_of_heads
from tests.interp.tiny import ARCHITECTURES, COMMON, HEADS, LAYERS, VOCABULARY, WIDTHS, randomised, token_ids

IDS = token_ids((2, 19), seed=3)
TOKEN = 11


def by_row(result: LogitAttribution, ids: Tensor = IDS) -> np.ndarray:
    """heads [N, L, H] of all positions as [L, H, B, T]."""
    return result.heads.reshape(*ids.shape, LAYERS, HEADS).transpose(2, 3, 0, 1)


@pytest.mark.parametrize("name", NAMED)
def test_each_head_is_what_the_definition_says(name: str, own_model, eager_model):
    exact, logits = parts_of_heads(eager_model(name), name, IDS, TOKEN)
    found = logit_attribution(interp.load(own_model(name)), IDS, TOKEN, None)
    scale = float(exact.abs().max())
    # float32 against float64: the rounding of activations through all layers, a few hundred ulp of the largest part.
    bound = 300 * torch.finfo(torch.float32).eps * max(scale, float(logits.abs().max()))
    np.testing.assert_allclose(by_row(found), exact.numpy(), rtol=0, atol=bound)
    np.testing.assert_allclose(found.logits, logits.flatten().numpy(), rtol=0, atol=bound)
    assert found.is_capped == (name == "gemma2")
    assert bool((np.abs(found.remainder) <= found.rounding).all())
    assert float(found.rounding.max()) < 1e-3 * scale * LAYERS * HEADS


def test_in_float64_it_is_exact(eager_model):
    """GPT-2 alone computes in float64 throughout: the library's RMSNorm, rotations or softmax are in float32 elsewhere."""
    exact, logits = parts_of_heads(eager_model("gpt2"), "gpt2", IDS, TOKEN)
    found = logit_attribution(interp.load(eager_model("gpt2")), IDS, TOKEN, None)
    np.testing.assert_allclose(by_row(found), exact.numpy(), rtol=0, atol=1e-13 * float(logits.abs().max()))
    assert np.abs(found.remainder).max() <= 1e-13 * float(logits.abs().max())


def test_parts_are_named_and_their_bars_and_grid_add_up(own_model):
    found = logit_attribution(interp.load(own_model("gpt2")), IDS, TOKEN)
    assert set(found.parts) == {"embedding", "mlp 0", "mlp 1", "bias 0", "bias 1", "bias"}
    frame = found.to_frame()
    sums = frame.groupby("sequence")["attribution"].sum()
    np.testing.assert_allclose(sums.to_numpy(), found.logits, atol=1e-5)
    assert set(frame["kind"]) == {"head", "embedding", "mlp", "bias"}
    assert frame.query("part == 'L1H2'")[["layer", "head"]].drop_duplicates().to_numpy().tolist() == [[1, 2]]
    grid = found.plot().data[0]
    np.testing.assert_array_equal(grid.z, found.mean())
    assert grid.zmin == -grid.zmax == -np.abs(found.mean()).max()
    bars = sum(float(np.sum(trace.y)) for trace in found.plot_parts().data)
    assert bars == pytest.approx(found.logits.mean(), abs=1e-5)
    assert "rounding" in found.summary()


def test_without_a_token_it_is_the_models_own_prediction(own_model):
    model = interp.load(own_model("llama"))
    with torch.no_grad():
        logits = own_model("llama")(IDS).logits
    found = logit_attribution(model, IDS, None, None)
    assert found.target.tolist() == logits.argmax(dim=-1).flatten().tolist()
    np.testing.assert_allclose(found.logits, logits.amax(dim=-1).flatten().numpy(), rtol=0, atol=1e-5)


def test_against_is_a_difference(own_model):
    model = interp.load(own_model("gpt_neox"))
    one, other = (logit_attribution(model, IDS, token, [4, -1]) for token in (TOKEN, 30))
    both = logit_attribution(model, IDS, TOKEN, [4, -1], against=30)
    np.testing.assert_allclose(both.heads, one.heads - other.heads, rtol=0, atol=1e-6)
    np.testing.assert_allclose(both.others, one.others - other.others, rtol=0, atol=1e-6)
    assert (both.target.tolist(), both.against.tolist()) == ([TOKEN] * 4, [30] * 4)
    assert both.position.tolist() == [4, 18, 4, 18]


def test_a_token_for_each_position(own_model):
    model = interp.load(own_model("llama"))
    found = logit_attribution(model, IDS, IDS[:, 1:], slice(0, -1))
    assert found.target.tolist() == IDS[:, 1:].flatten().tolist()
    alone = logit_attribution(model, IDS, int(IDS[1, 8]), 7)
    np.testing.assert_allclose(found.heads[18 + 7], alone.heads[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_padding_changes_nothing_and_the_last_token_is_the_last(padding: Any, own_model):
    model = interp.load(own_model("llama"))
    lists = [IDS[0].tolist(), IDS[1, :7].tolist()]
    found = logit_attribution(model, model.batch(lists, padding=padding), TOKEN)
    assert found.position.tolist() == [18, 6 if padding == "right" else 18]
    for row, each in enumerate(lists):
        alone = logit_attribution(model, [each], TOKEN)
        np.testing.assert_allclose(found.heads[row], alone.heads[0], rtol=0, atol=1e-5)
    everywhere = logit_attribution(model, model.batch(lists, padding=padding), TOKEN, None)
    assert len(everywhere.logits) == 19 + 7


def test_one_token_is_enough(own_model):
    found = logit_attribution(interp.load(own_model("gpt2")), [[5]], TOKEN)
    assert found.heads.shape == (1, LAYERS, HEADS)
    assert np.isnan(found.stderr()).all()


def test_an_ablated_head_adds_nothing(own_model):
    model = interp.load(own_model("llama"))
    with model.edited([interp.edits.ablate("L1H2")]):
        found = logit_attribution(model, IDS, TOKEN)
    assert (found.heads[:, 1, 2] == 0).all()
    assert (found.heads[:, 1, [0, 1, 3]] != 0).all()
    assert found.settings["model"]["edits"] == ["ablate(heads=('L1H2',))"]


def test_what_is_kept_is_of_the_rows_alone(own_model):
    model = interp.load(own_model("llama"))
    ids = token_ids((1, 200))
    rows = torch.tensor([0, 0]), torch.tensor([3, 199])
    run = direct_run(model, model.checked(ids, beyond_context=False), rows)
    assert len(run.sources) == 1 + 2 * LAYERS
    assert {source.value.shape[0] for source in run.sources} == {2}
    assert run.logits.shape == (2, VOCABULARY)
    assert all(source.value._base is None for source in run.sources)


def test_the_model_and_gradients_are_left_as_they_were(own_model):
    model = own_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.is_grad_enabled()
    logit_attribution(interp.load(model), IDS, TOKEN)
    with pytest.raises(InputError):
        logit_attribution(interp.load(model), IDS, 999)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_thread_runs_the_model_as_it_is(own_model):
    model = own_model("llama")
    hooked = interp.load(model)
    with torch.no_grad():
        expected = model(IDS).logits
    seen: list[Tensor] = []

    def elsewhere() -> None:
        with torch.no_grad():
            seen.append(model(IDS).logits)

    def in_the_middle(path: Any) -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    rows = torch.tensor([0, 1]), torch.tensor([3, 9])
    run = direct_run(hooked, hooked.checked(IDS, beyond_context=False), rows, watch=in_the_middle)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(run.logits.detach(), expected[rows], rtol=0, atol=1e-5)


def test_frozen_parameters_and_no_grad_are_no_hindrance():
    model = ARCHITECTURES["gpt2"].build()
    expected = logit_attribution(interp.load(model), IDS, TOKEN)
    model.requires_grad_(False)
    with torch.no_grad():
        found = logit_attribution(interp.load(model), IDS, TOKEN)
    # torch takes other matrix kernels where no parameter asks for a gradient.
    np.testing.assert_allclose(found.heads, expected.heads, rtol=0, atol=1e-5)


def test_bfloat16_is_rounded_once(own_model):
    model = ARCHITECTURES["llama"].build().bfloat16()
    found = logit_attribution(interp.load(model), IDS, TOKEN, None)
    exact, logits = parts_of_heads(
        ARCHITECTURES["llama"].build(kernel="eager").bfloat16().double(), "llama", IDS, TOKEN
    )
    # Not a bound of the parts' own rounding: activations of a bfloat16 model go astray by so much.
    scale = float(exact.abs().max())
    assert np.abs(by_row(found) - exact.numpy()).max() <= 32 * torch.finfo(torch.bfloat16).eps * scale
    assert float(logits.abs().max()) > scale


def test_it_is_the_same_again_and_can_be_kept(own_model, tmp_path):
    model = interp.load(own_model("gemma2"))
    first, again = (logit_attribution(model, IDS, TOKEN, [2, 5]) for _ in range(2))
    np.testing.assert_array_equal(first.heads, again.heads)
    loaded = LogitAttribution.load(first.save(tmp_path / "kept"))
    np.testing.assert_array_equal(loaded.heads, first.heads)
    assert loaded.to_frame().equals(first.to_frame())
    assert loaded.is_capped
    assert "before the soft cap" in loaded.summary() + str(loaded.settings["constants"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"token": VOCABULARY},
            rf"^token: there is no token {VOCABULARY}; the model gives logits of the ids 0 to {VOCABULARY - 1}",
        ),
        ({"token": -1}, "^token: there is no token -1"),
        ({"token": "w5 w6"}, r"^token: the text 'w5 w6' is 2 tokens: .*\(5\), .*\(6\); give one of them"),
        ({"token": ""}, "^token: the text is empty"),
        ({"token": True}, "^token: expected a token as its id or its text"),
        ({"token": 2.5}, "^token: expected a token as its id or its text"),
        ({"token": [1, 2, 3]}, "^token: expected one token, or one for each of the 2 positions, got 3"),
        ({"against": 99}, "^against: there is no token 99"),
        ({"positions": 19}, "^positions: there is no position 19; the input has the positions 0 to 18"),
        ({"positions": -20}, "^positions: there is no position -20 of sequence 0, which has 19 tokens"),
        ({"positions": slice(5, 5)}, "^positions: .* chooses none of the 19 positions"),
        ({"positions": "last"}, "^positions: expected a position, several"),
        (
            {"positions": torch.ones(5, dtype=torch.bool)},
            r"^positions: expected a mask of shape \[19\] or \[2, 19\], got \[5\]",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    options: dict[str, Any], message: str, own_model, tokenizer, monkeypatch
):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    monkeypatch.setattr(type(model), "run", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=message):
        logit_attribution(model, IDS, **options)


def test_a_position_that_is_padding_is_refused(own_model):
    keep = torch.ones_like(IDS, dtype=torch.bool)
    keep[1, 7:] = False
    with pytest.raises(
        InputError, match=r"^positions: position 9 of sequence 1 is padding; its tokens stand at 0 to 6"
    ):
        logit_attribution(interp.load(own_model("llama")), Batch(IDS, keep), TOKEN, 9)


def test_a_text_needs_a_tokenizer(own_model):
    with pytest.raises(
        InputError, match=r"^token: .* has no tokenizer, so that 'w5' means nothing; give the token's id"
    ):
        logit_attribution(interp.load(own_model("llama")), IDS, "w5")


def test_a_text_is_its_token(own_model, tokenizer):
    found = logit_attribution(interp.load(own_model("llama"), tokenizer=tokenizer), "w5 w6", "w7", against="w8")
    assert (found.target.tolist(), found.against.tolist()) == ([7], [8])
    assert found.targets == ("w7",)


def test_an_encoder_without_a_head_is_refused(own_model):
    with pytest.raises(InputError, match=r"has no unembedding, .* load the model with its language-model head"):
        logit_attribution(interp.load(own_model("bert")), IDS, TOKEN)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu"])
def test_a_head_with_a_layer_of_its_own_is_refused(activation: str):
    """Also where its activation is written out as x times a gate made of x."""
    config = transformers.BertConfig(**WIDTHS, **COMMON, hidden_act=activation)
    model = interp.load(randomised(transformers.BertForMaskedLM(config).eval()))
    with pytest.raises(
        InputError, match="between its last layer and its unembedding stands something that is not linear"
    ):
        logit_attribution(model, IDS, TOKEN)


def test_layers_that_share_their_block_are_refused():
    config = transformers.AlbertConfig(**WIDTHS, **COMMON, embedding_size=32, hidden_act="relu")
    model = interp.load(randomised(transformers.AlbertForMaskedLM(config).eval()))
    with pytest.raises(InputError, match="its layers share their blocks, whose runs cannot be told apart"):
        logit_attribution(model, IDS, TOKEN)
    with pytest.raises(InputError, match="its layers share their blocks, whose runs cannot be told apart"):
        interp.heads.ov_copying(model)


class Bent(nn.Module):
    """A projection with something behind it that is not linear."""

    def __init__(self, base: nn.Module, bend: Any) -> None:
        super().__init__()
        self.base, self.bend = base, bend

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.base(x))


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (torch.tanh, "the heads of layer 0 do not go through a linear projection into the residual stream"),
        (lambda x: x.clamp_(min=0), "the parts that were followed add up to .* and the logit is "),
        (lambda x: torch.relu(x) + 0.1 * x, None),
    ],
    ids=["tanh", "in place", "half of it linear"],
)
def test_a_step_that_is_not_linear_is_never_passed_over(bend: Any, message: str | None):
    model = ARCHITECTURES["llama"].build()
    attention = model.model.layers[0].self_attn
    attention.o_proj = Bent(attention.o_proj, bend)
    hooked = interp.load(model)
    if message is None:
        # What is not linear counts as something else that the layer writes: the sum is right, and says so by name.
        found = logit_attribution(hooked, IDS, TOKEN)
        assert bool((np.abs(found.remainder) <= found.rounding).all())
        return
    with pytest.raises(InputError, match=message):
        logit_attribution(hooked, IDS, TOKEN)


def test_too_many_positions_are_refused_before_the_run(own_model, monkeypatch):
    monkeypatch.setattr(importlib.import_module("interp.heads.logit_attribution"), "MOST_LOGITS", 10 * VOCABULARY)
    with pytest.raises(InputError, match=r"^positions: the logits of 38 positions are .*; choose at most 10 at a time"):
        logit_attribution(interp.load(own_model("llama")), IDS, TOKEN, None)
