"""Relevance against its equations on the dense maps and gradients of eager models, by autograd in float64."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import interp
from interp import edits
from interp.errors import InputError
from interp.flow import Relevance, relevance
from tests.interp.tiny import COMMON, WIDTHS, right_padded, token_ids
from tests.interp.words import text_of, words_tokenizer
from tests.interp.zoo import oracle
from tests.interp.zoo.encoder_decoders import ENCODER_DECODERS
from tests.interp.zoo.hybrids import HYBRIDS

T = 24
Build = Callable[[str], PreTrainedModel]
SMALL: dict[str, Any] = {**WIDTHS, **COMMON}
LABELLED: dict[str, Any] = SMALL | {"num_labels": 3}
IMAGES: dict[str, Any] = {**WIDTHS, "image_size": 16, "patch_size": 4}


def weighted(model: PreTrainedModel, given: Mapping[str, Tensor], objective: Any, dtype: torch.dtype) -> list[Tensor]:
    """mean_h max(0, dA * A) of each attention module in the order in which they ran, [T, T] of the first sequence."""
    model = copy.deepcopy(model).to(dtype=dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with oracle.listening(model) as maps:
            value = objective(oracle.first_tensor(model(**given, use_cache=False)))
        every = [p for of_module in maps.values() for p in of_module]
        dA = torch.autograd.grad(value, every)
    finally:
        torch.set_default_dtype(before)
    return [(p * g).clamp(min=0).mean(1)[0].detach() for p, g in zip(every, dA, strict=True)]


def rolled(maps: list[Tensor]) -> Tensor:
    """Equation 6 as it stands."""
    r = torch.eye(maps[0].shape[0], dtype=maps[0].dtype)
    for abar in maps:
        r = r + abar @ r
    return r


def normalised(r: Tensor) -> Tensor:
    """Equations 8 and 9; a row of zeros stays one."""
    eye = torch.eye(r.shape[0], dtype=r.dtype)
    hat = r - eye
    total = hat.sum(-1, keepdim=True)
    return torch.where(total > 0, hat / torch.where(total > 0, total, 1.0), 0.0) + eye


def crossed(maps: list[Tensor], layers: int) -> tuple[Tensor, Tensor]:
    """Equations 6 to 10 of an encoder-decoder, whose maps come as it runs: R^de and R^dd."""
    ee = rolled(maps[:layers])
    dd = torch.eye(maps[layers].shape[0], dtype=ee.dtype)
    de = torch.zeros(dd.shape[0], ee.shape[0], dtype=ee.dtype)
    for own, cross in zip(maps[layers::2], maps[layers + 1 :: 2], strict=True):
        de = de + own @ de
        dd = dd + own @ dd
        de = de + normalised(dd).T @ cross @ normalised(ee)
    return de, dd


def check(got: np.ndarray, own: Tensor, exact: Tensor) -> None:
    """At most twice the error of the dense float32 computation, and some roundings of the largest value."""
    bound = 2 * float((own.double() - exact).abs().max()) + 16 * torch.finfo(torch.float32).eps * float(
        exact.abs().max()
    )
    assert np.abs(got - exact.numpy()).max() <= bound


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "mistral"])
def test_every_row_is_that_of_the_equation(name: str, own_model: Build, eager_model: Build):
    ids = token_ids((1, T))

    def objective(logits: Tensor) -> Tensor:
        return logits[0, -1, 7]

    found = relevance(interp.load(own_model(name)), ids, 7, "all")
    exact, own = (
        rolled(weighted(eager_model(name), {"input_ids": ids}, objective, dtype))
        for dtype in (torch.float64, torch.float32)
    )
    check(found.values[0], own, exact)
    # Without the identity too, whose 1 would hide what is small.
    eye = torch.eye(T)
    check(found.values[0] - eye.numpy(), own - eye, exact - eye)
    assert float((exact - eye).max()) > 1e-3
    assert (found.values >= 0).all()


def test_an_encoders_rows_are_those_of_the_equation(own_model: Build, eager_model: Build):
    ids = token_ids((1, T))

    def objective(last: Tensor) -> Tensor:
        return last[0, 0, 3] - last[0, 5, 2]

    found = relevance(interp.load(own_model("bert")), ids, objective, "all", logits=False)
    exact, own = (
        rolled(weighted(eager_model("bert"), {"input_ids": ids}, objective, dtype))
        for dtype in (torch.float64, torch.float32)
    )
    check(found.values[0], own, exact)
    assert found.targets == ()


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_an_encoder_decoders_rows_are_those_of_the_equations(name: str):
    entry = next(entry for entry in ENCODER_DECODERS if entry.model == name)
    given = {"input_ids": token_ids((1, 11)), "decoder_input_ids": token_ids((1, 6), seed=1)}
    found = relevance(interp.load(entry.build()), given, 9, "all", at=4)
    eager = entry.build("eager").double()
    (de, dd), (de32, dd32) = (
        crossed(weighted(eager, given, lambda logits: logits[0, 4, 9], dtype), 2)
        for dtype in (torch.float64, torch.float32)
    )
    assert found.decoder is not None
    check(found.values[0], de32, de)
    check(found.decoder[0], dd32, dd)
    assert float(de[4].max()) > 1e-3
    # Nothing is owed by what stands after the output that is explained.
    assert (found.decoder[0, :5, 5:] == 0).all()


def test_one_row_is_the_row_of_all(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, T))
    every = relevance(model, ids, 7, "all")
    some = relevance(model, ids, 7, [3, -1])
    assert some.positions.tolist() == [[3, T - 1]]
    np.testing.assert_allclose(some.values[0], every.values[0][[3, T - 1]], rtol=1e-5, atol=1e-9)
    default = relevance(model, ids, 7)
    assert default.positions.tolist() == [[T - 1]]
    assert default.values[0, 0].tobytes() == relevance(model, ids, 7).values[0, 0].tobytes()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_padded_sequence_has_the_relevance_that_it_has_alone(side: str, own_model: Build):
    model = interp.load(own_model("llama"))
    lists, _, _ = right_padded((20, 13))
    together = relevance(model, model.batch(lists, padding=side))  # pyright: ignore[reportArgumentType]
    assert np.isnan(together.values[1, 0, 13:]).all()
    for number, ids in enumerate(lists):
        alone = relevance(model, ids)
        assert alone.targets[0] == together.targets[number]
        assert alone.scores[0] == pytest.approx(together.scores[number], rel=1e-5)
        np.testing.assert_allclose(together.row(number), alone.row(), rtol=2e-4, atol=1e-7)
    assert together.positions.tolist() == [[19], [12]]


def test_a_padded_encoder_decoder_too():
    entry = next(entry for entry in ENCODER_DECODERS if entry.model == "BartForConditionalGeneration")
    model = interp.load(entry.build())
    texts, answers = [token_ids((n,), n).tolist() for n in (9, 6)], [token_ids((n,), n).tolist() for n in (3, 5)]
    together = relevance(model, model.batch(texts, decoder=answers), [7, 8])
    for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        alone = relevance(model, model.batch([text], decoder=[answer]), 7 + number)
        np.testing.assert_allclose(together.row(number), alone.row(), rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(
            together.row(number, side="decoder"), alone.row(side="decoder"), rtol=2e-4, atol=1e-7
        )


def test_the_default_target_is_the_models_prediction(own_model: Build):
    model, ids = interp.load(own_model("gpt2")), token_ids((2, T))
    logits = model.capture(ids, [], logits=True).logits
    assert logits is not None
    found = relevance(model, ids)
    assert found.settings["constants"]["target"] == logits[:, -1].argmax(-1).tolist()
    np.testing.assert_allclose(found.scores, logits[:, -1].max(-1).values, rtol=1e-5)
    elsewhere = relevance(model, ids, [5, 6], at=[3, -2])
    assert elsewhere.positions.tolist() == [[3], [T - 2]]
    np.testing.assert_allclose(elsewhere.scores, [logits[0, 3, 5], logits[1, -2, 6]], rtol=1e-4)


def test_a_classifier_is_read_at_its_first_token():
    config = transformers.BertConfig(**LABELLED)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config).eval()
    ids = token_ids((2, 12))
    found = relevance(interp.load(model), ids)
    logits = model(ids).logits
    assert found.targets == tuple(f"LABEL_{int(i)}" for i in logits.argmax(-1))
    assert found.positions.tolist() == [[0], [0]]
    assert (found.values[:, 0, 1:] > 0).any()
    with pytest.raises(
        InputError, match=r"at: .* tells one class a sequence, whose logits have no positions; leave at out"
    ):
        relevance(interp.load(model), ids, at=3)


def test_a_masked_model_is_read_at_its_mask():
    tokenizer = words_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "w60"})
    model = interp.load(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).eval(), tokenizer=tokenizer)
    found = relevance(model, "w5 w60 w7 w8")
    assert found.positions.tolist() == [[2]]
    assert found.tokens[0][2] == "w60"
    with pytest.raises(InputError, match=r"at: .* has no single mask token .* give at= with the position whose logits"):
        relevance(model, "w5 w6 w7 w8")
    assert relevance(model, "w5 w6 w7 w8", at=1).positions.tolist() == [[1]]


def test_an_ablated_head_passes_nothing_on(own_model: Build):
    model, ids = interp.load(own_model("llama")), token_ids((1, T))
    with model.edited(edits.ablate(layers=[0, 1])):
        found = relevance(model, ids, lambda logits: logits[0, -1, 7] + 0 * logits.sum(), "all")
    np.testing.assert_array_equal(found.values[0], np.eye(T))


def test_one_token_owes_all_to_itself(own_model: Build):
    found = relevance(interp.load(own_model("llama")), [[5]])
    assert found.values.shape == (1, 1, 1)
    assert found.values[0, 0, 0] >= 1


def test_the_table_and_the_file_hold_what_was_found(own_model: Build, tmp_path: Path):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    found = relevance(model, [text_of(token_ids((9,)).tolist()), text_of(token_ids((5,)).tolist())], "w7", [0, -1])
    frame = found.to_frame()
    assert len(frame) == 2 * (10 + 6)
    last = frame[(frame["sequence"] == 1) & (frame["output"] == 5)]
    np.testing.assert_array_equal(last["value"], found.row(1, 1))
    assert last["is_own"].tolist() == [False] * 5 + [True]
    assert last["token"].tolist() == list(found.tokens[1])
    back = Relevance.load(found.save(tmp_path / "r"))
    np.testing.assert_array_equal(back.values, found.values)
    assert back.targets == found.targets == ("w7", "w7")
    assert "target 'w7', output at 0" in back.summary()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "w3 w4"}, r"target: 'w3 w4' is 2 tokens \(.*w3.*w4.*\); give one of them, or its id"),
        ({"target": 61}, "target: the model tells 61 of them apart, 0 to 60; got 61"),
        ({"target": [1, 2]}, "target: expected one for each of 1 sequences, got 2"),
        ({"target": 1.5}, "target: expected a token, its id or a class, one for each sequence, or a function, got 1.5"),
        ({"at": 9}, "at: a sequence has 9 tokens, -9 to 8; got 9"),
        ({"positions": -10}, "positions: a sequence has 9 tokens, -9 to 8; got -10"),
        ({"positions": "last"}, "positions: expected a position, several, or 'all', got 'last'"),
        ({"positions": []}, r"positions: expected a position, several, or 'all', got \[\]"),
        ({"target": torch.sum, "at": 3}, "at: the target is a function"),
        ({"logits": False}, "target: without logits, give a function of the last hidden state"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str, own_model: Build):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    with pytest.raises(InputError, match=message):
        relevance(model, token_ids((1, 9)), **given)


def test_positions_are_integers_of_any_kind_and_rows_that_do_not_exist_are_refused(own_model: Build):
    found = relevance(interp.load(own_model("llama")), token_ids((1, 9)), 7, np.array([2, -1]))
    assert found.positions.tolist() == [[2, 8]]
    for sequence, output in ((1, 0), (0, 2)):
        with pytest.raises(
            InputError, match=f"row: there are 1 sequences of up to 2 outputs, got {sequence}, {output}"
        ):
            found.plot(sequence, output)
    with pytest.raises(InputError, match="row: expected the numbers of a sequence and of an output, got 'a', 0"):
        found.plot("a")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="side: expected 'read' or 'decoder', got 'encoder'"):
        found.row(side="encoder")  # pyright: ignore[reportArgumentType]


def test_a_result_that_is_too_large_is_refused_before_the_run(own_model: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[relevance.__module__], "MOST_CELLS", 80)
    monkeypatch.setattr(nn.Module, "__call__", None)
    with pytest.raises(InputError, match="positions: 9 rows over 9 tokens of 1 sequences are 81 numbers, more than 80"):
        relevance(interp.load(own_model("llama")), token_ids((1, 9)), positions="all")


def test_many_rows_are_swept_in_parts(own_model: Build, monkeypatch: pytest.MonkeyPatch):
    model, ids = interp.load(own_model("llama")), token_ids((1, T))
    whole = relevance(model, ids, 7, "all").values
    monkeypatch.setattr(sys.modules[relevance.__module__], "SWEPT_CELLS", 4 * T * 5)
    np.testing.assert_allclose(relevance(model, ids, 7, "all").values, whole, rtol=1e-5, atol=1e-9)


def test_a_vision_models_patches_are_counted():
    config = transformers.ViTConfig(**IMAGES)
    model = interp.load(transformers.ViTForImageClassification(config).eval())
    found = relevance(model, {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))})
    assert found.values.shape == (2, 1, 17)
    assert found.positions.tolist() == [[0], [0]]


def test_a_model_of_another_build_is_refused():
    config = transformers.CLIPConfig(text_config=SMALL, vision_config=IMAGES)
    with pytest.raises(
        InputError, match=r"relevance follows one stack of layers, or an encoder and a decoder; .* text, vision"
    ):
        relevance(interp.load(transformers.CLIPModel(config).eval()), [[5, 6]])


def test_a_hybrid_is_refused():
    entry = next(entry for entry in HYBRIDS if entry.model == "BambaForCausalLM")
    with pytest.raises(
        InputError, match=r"only \d of the \d layers of .* attend: the others mix tokens in ways that no map"
    ):
        relevance(interp.load(entry.build()), [[5, 6, 7]])


def test_on_the_demo_model_a_repeated_name_is_owed_to_what_followed_it_before():
    model = interp.load("demo")
    text = "Ada Merrow climbed the steps with a can of oil. The boy waited below with a letter in his hand. Then Ada"
    found = relevance(model, text, " M")
    values = found.row()
    assert found.tokens[0][4] == " M"
    assert np.argmax(values[:-1]) == 4
    assert values[4] > 5 * np.median(values)
    figure = found.plot()
    assert np.nanmax(np.asarray(figure.data[0].z)) == values[4]
    assert "' M' at 4" in found.summary()
