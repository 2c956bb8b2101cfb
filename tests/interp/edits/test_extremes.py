"""Edits where masses vanish in float32, where runs fail on their way, and where something else meddles with the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp import edits
from interp.errors import InputError, RunError
from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer
from interp_kernels import Mask
from tests.interp.tiny import ARCHITECTURES, COMMON, WIDTHS, randomised, token_ids

IDS = token_ids((1, 10))


@pytest.mark.parametrize("factor", [0.0, 0.4])
@pytest.mark.parametrize("gap", [30.0, 90.0, 400.0])
def test_recalibration_frees_the_mass_of_a_key_that_has_all_but_nothing_of_it(factor: float, gap: float):
    """One query, scores gap, 0, 1, 2: what is freed goes to the last three as exp(0) : exp(1) : exp(2)."""
    scores = torch.tensor([gap, 0.0, 1.0, 2.0])
    call = AttentionCall(
        AttentionLayer("", 0, "", 1),
        torch.ones(1, 1, 1, 1),
        scores.view(1, 1, 4, 1),
        torch.eye(4).view(1, 1, 4, 4),
        Mask.full(),
        scale=1.0,
    )
    edit = replace(edits.recalibrate(keys=0, factor=factor), chosen={0: None})
    p = edit.operands(call).attend().output.flatten().double()
    plain = scores.double().softmax(dim=0)
    others = scores[1:].double().softmax(dim=0)
    expected = torch.cat([factor * plain[:1], (1 - factor * plain[0]) * others])
    # A bias of about -gap is added to a score of gap in float32: each of the two is rounded to gap x 2^-24.
    torch.testing.assert_close(p, expected, rtol=0, atol=2 * gap * 2**-24)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_run_that_fails_on_its_way_does_not_shift_the_layers_of_a_shared_module():
    sizes = WIDTHS | {"num_hidden_layers": 4, "embedding_size": 16}
    model = randomised(transformers.AlbertForMaskedLM(transformers.AlbertConfig(**sizes, **COMMON)).eval())
    hooked = interp.load(model)
    turns: list[int] = []

    def stop(*_: Any) -> None:
        turns.append(1)
        if len(turns) == 3:
            raise KeyError("on its way")

    with hooked.edited(edits.uniform(layers=[0])):
        expected = logits(model)
        handle = next(iter(hooked.host.layers)).register_forward_hook(stop)
        with pytest.raises(KeyError, match="on its way"):
            logits(model)
        handle.remove()
        assert torch.equal(logits(model), expected)


def test_another_attention_named_inside_of_the_context_is_refused(own_model):
    model = own_model("llama")
    hooked = interp.load(model)
    with hooked.edited(edits.ablate(layers=[0])):
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        with pytest.raises(RunError, match="attention was set to 'eager' while it is edited"):
            logits(model)
        model.config._attn_implementation_internal = before
    logits(model)


def test_a_source_padded_on_the_other_side_is_refused(own_model):
    model = interp.load(own_model("llama"))
    texts = [[3, 4, 5], list(range(3, 13))]
    right = model.capture(texts, [], outputs=True)
    edit = edits.patch("L0H0", source=right)
    with model.edited(edit):
        model.capture(texts, [])
        with pytest.raises(InputError, match="patch: source: its padding stands in other columns"):
            model.generate(texts, 2)
    left = model.capture(model.batch(texts, padding="left"), [], outputs=True)
    with model.edited(edits.patch("L0H0", source=left)):
        patched = model.generate(texts, 2, [])
    assert torch.equal(patched.ids, model.generate(texts, 2, []).ids)


@pytest.mark.parametrize("first_out", [0, 1])
def test_contexts_may_end_in_any_order(own_model, first_out: int):
    model = interp.load(own_model("llama"))
    given = [edits.ablate("L0H0"), edits.uniform("L1H1")]
    before, expected = logits(model.model), []
    for edit in given:
        with model.edited(edit):
            expected.append(logits(model.model))
    contexts = [model.edited(edit) for edit in given]
    for context in contexts:
        context.__enter__()
    contexts[first_out].__exit__(None, None, None)
    try:
        assert torch.equal(logits(model.model), expected[1 - first_out])
        captured = model.capture(IDS, [], logits=True)
        assert torch.equal(captured.logits, expected[1 - first_out])
        assert len(captured.facts["edits"]) == 1
    finally:
        contexts[1 - first_out].__exit__(None, None, None)
    assert torch.equal(logits(model.model), before)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_maps_that_an_edited_run_cannot_return_are_refused(own_model, name: str):
    model = own_model(name)
    hooked = interp.load(model)
    with hooked.edited(edits.ablate(layers=[0])):
        with pytest.raises(
            InputError, match=r"output_attentions: an edited run .* builds no maps .*HookedModel\.maps inside"
        ):
            model(input_ids=IDS, output_attentions=True)
        model(input_ids=IDS, output_attentions=False)
        assert hooked.maps(IDS).keys() == {0, 1}


def test_a_configuration_that_asks_for_maps_is_refused_in_edited_runs_and_not_in_captures():
    model = ARCHITECTURES["llama"].build(kernel="eager")
    model.config.output_attentions = True
    hooked = interp.load(model)
    with hooked.edited(edits.ablate(layers=[0])):
        with pytest.raises(InputError, match=r"^output_attentions: an edited run"):
            model(input_ids=IDS)
        hooked.capture(IDS)
    assert len(model(input_ids=IDS).attentions) == 2


def test_columns_of_sinks_found_in_a_batch_padded_on_the_other_side_are_refused(own_model):
    model = interp.load(own_model("llama"))
    texts = [[3, 4, 5], list(range(3, 13))]
    left = model.batch(texts, padding="left")
    found = {
        side: edits.hidden_sinks(model, batch, threshold=0.2) for side, batch in (("right", texts), ("left", left))
    }
    with model.edited(edits.recalibrate(keys=found["right"])):
        model.capture(texts, [])
        for run in (lambda: model.generate(texts, 2), lambda: model.capture(left)):
            with pytest.raises(InputError, match=r"recalibrate: keys\[0\]: its padding stands in other columns"):
                run()
    with model.edited(edits.recalibrate(keys=found["left"])):
        model.generate(texts, 2)
    whole = edits.hidden_sinks(model, token_ids((1, 10)), threshold=0.2)
    with model.edited(edits.recalibrate(keys=whole)):  # one sequence for all stands beside padding
        model.capture(texts, [])


def test_means_of_columns_padded_on_the_other_side_are_refused(own_model):
    model = interp.load(own_model("llama"))
    texts = [[3, 4, 5], list(range(3, 13))]
    left = model.batch(texts, padding="left")
    reference = model.capture(texts, [], outputs=True)
    with model.edited(edits.mean_ablate("L0H0", reference=reference, per_position=True)):
        model.capture(texts, [])
        said = r"mean_ablate: reference: it is padded on the right and the input on the left, .*padding='left'\)\), or leave"
        with pytest.raises(InputError, match=said):
            model.capture(left)
    with model.edited(edits.mean_ablate("L0H0", reference=reference)):
        model.capture(left)


def test_several_heads_in_one_list(own_model):
    model = interp.load(own_model("llama"))
    found = []
    for edit in (edits.ablate(["L0H1", (1, 2)]), edits.ablate("L0H1", (1, 2)), edits.ablate([1, 2])):
        with model.edited(edit):
            found.append(model.capture(IDS, [], logits=True).logits)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize(
    "pairs", [np.array([[5, 1], [6, 2]]), torch.tensor([[5, 1], [6, 2]]), [np.array([5, 1]), (6, 2)]]
)
def test_pairs_as_arrays(pairs: Any, own_model):
    model = interp.load(own_model("llama"))
    with model.edited(edits.cut(pairs=pairs)):
        p = model.maps(IDS, layers=[0])[0].dense()
    assert bool((p[:, :, [5, 6], [1, 2]] == 0).all())


def test_pairs_that_are_none():
    with pytest.raises(InputError, match=r"cut: expected pairs of positions such as \[\(5, 0\), \(6, 1\)\], got 5"):
        edits.cut(pairs=5)  # pyright: ignore[reportArgumentType]


def test_numbers_of_numpy_and_torch():
    assert repr(edits.scale("L0H0", factor=np.float32(0.5))) == repr(edits.scale("L0H0", factor=torch.tensor(0.5)))
