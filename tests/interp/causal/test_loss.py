"""Losses of tokens against the definition: -ln softmax of the eager model's logits in float64, each sequence alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp import causal
from interp.captures.gradients import gradients
from interp.causal import loss
from interp.errors import InputError
from tests.interp.dense import alone
from tests.interp.tiny import ARCHITECTURES, COMMON, NAMES, right_padded, token_ids

LENGTHS = (11, 2, 7)


def by_definition(model: PreTrainedModel, ids: Tensor, keep: Tensor) -> list[Tensor]:
    """-ln p of each token but the first, sequence by sequence."""
    found = []
    for output, row, kept in zip(alone(model, ids, keep), ids, keep, strict=True):
        p = output.logits[0].softmax(-1)
        found.append(-p[:-1].gather(1, row[kept][1:, None])[:, 0].log())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_each_sequence_alone(name: str, own_model: Callable, eager_model: Callable):
    rows, ids, keep = right_padded(LENGTHS)
    exact = by_definition(eager_model(name), ids, keep)
    plain = by_definition(ARCHITECTURES[name].build(kernel="eager"), ids, keep)
    got = causal.token_losses(interp.load(own_model(name)), rows)
    assert got.shape == (3, max(LENGTHS) - 1)
    for row, own, want, length in zip(got, plain, exact, LENGTHS, strict=True):
        ulp = torch.finfo(torch.float32).eps * float(want.abs().max())
        bound = 2 * float((own.double() - want).abs().max()) + 8 * ulp
        assert float((row[: length - 1].double() - want).abs().max()) <= bound
        assert bool(row[length - 1 :].isnan().all())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_on_the_left_changes_no_loss(name: str, own_model: Callable):
    rows, _, _ = right_padded(LENGTHS)
    model = interp.load(own_model(name))
    right = causal.token_losses(model, rows)
    left = causal.token_losses(model, model.batch(rows, padding="left"))
    assert bool(left[1, :-1].isnan().all())
    for one, other, length in zip(right, left, LENGTHS, strict=True):
        torch.testing.assert_close(one[: length - 1], other[other.shape[0] - length + 1 :])


def test_slices_of_the_logits_give_the_same_losses_and_gradients(own_model: Callable, monkeypatch: pytest.MonkeyPatch):
    model = interp.load(own_model("llama"))
    batch = model.batch(right_padded(LENGTHS)[0])

    def differentiated() -> tuple[Tensor, Tensor]:
        return causal.token_losses(model, batch), gradients(
            model, batch, lambda logits: loss.losses_of(logits, batch).nansum()
        ).layers[0].gradient

    whole = differentiated()
    monkeypatch.setattr(loss, "SLICE", 1)
    sliced = differentiated()
    assert torch.equal(whole[0].nan_to_num(), sliced[0].nan_to_num())
    torch.testing.assert_close(whole[1], sliced[1])


def test_models_that_do_not_predict_the_next_token_are_refused(own_model: Callable):
    with pytest.raises(
        InputError, match="has no loss on the next token: its attention sees the token that is to be predicted"
    ):
        causal.token_losses(interp.load(own_model("bert")), token_ids((1, 5)))
    config = transformers.T5Config(
        vocab_size=COMMON["vocab_size"],
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = interp.load(transformers.T5ForConditionalGeneration(config).eval())
    with pytest.raises(
        InputError, match="its decoder reads another text than its encoder; give a metric or an objective"
    ):
        causal.token_losses(model, token_ids((1, 5)))


def test_a_single_token_predicts_nothing(own_model: Callable):
    with pytest.raises(
        InputError, match="sequence 1 of the input has one token, which predicts nothing; give at least two"
    ):
        causal.token_losses(interp.load(own_model("llama")), [[4, 5], [6]])
    with pytest.raises(InputError, match="sequence 0 of the input has one token"):
        causal.token_losses(interp.load(own_model("llama")), [[4]])
