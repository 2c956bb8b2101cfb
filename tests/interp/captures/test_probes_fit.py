"""A probe whose tensors are not made for the tokens is refused before the model runs, in the words of tokens."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import InputError
from tests.interp.tiny import right_padded, token_ids

T = 11
LABELS = torch.arange(T)
SHORT = torch.arange(T - 2)


@pytest.mark.parametrize(
    ("probe", "name"),
    [
        (interp.LabelMatch(SHORT, LABELS), "probe 'label_match': query_labels"),
        (interp.LabelMatch(LABELS, SHORT.expand(2, -1), name="copies"), "probe 'copies': key_labels"),
        (interp.KeyMass(torch.ones(T - 2, 3)), "probe 'key_mass': weights"),
        (interp.KeyMass(torch.ones(2, 4, T - 2, 3)), "probe 'key_mass': weights"),
        (interp.Received(torch.ones(2, T - 2)), "probe 'received': weights"),
        (interp.Entropy(queries=SHORT > 3), "probe 'entropy': queries"),
    ],
)
def test_tensors_of_another_length_are_refused_before_the_run(own_model, probe: interp.Probe, name: str):
    model = own_model("llama")
    ran: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(
            InputError, match=rf"^{name} has a value for each of 9 tokens, but the input has 11 tokens; make it from"
        ):
            interp.load(model).capture(token_ids((2, T)), ["peak", probe])
    finally:
        handle.remove()
    assert not ran


def test_padding_counts_as_the_batch_holds_it(own_model):
    rows, _, _ = right_padded((T, 4))
    model = interp.load(own_model("llama"))
    with pytest.raises(InputError, match=r"each of 4 tokens, but the input has 11 tokens, padding included;"):
        model.capture(rows, [interp.Received(torch.ones(4))])
    assert model.capture(rows, [interp.Received(torch.ones(T))])["received"][0].shape == (2, 4, T)


def test_tensors_that_fit_pass(own_model):
    model = interp.load(own_model("bert"))
    probes = [
        interp.LabelMatch(LABELS, LABELS.expand(2, -1)),
        interp.KeyMass(torch.ones(2, T, 3)),
        interp.Received(torch.ones(2, 4, T)),
        interp.Entropy(queries=LABELS > 3),
    ]
    assert len(model.capture(token_ids((2, T)), probes).stats) == 4
