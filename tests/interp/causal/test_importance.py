"""Importance against autograd of the models' own eager attention in float64, each sequence alone; pruning against ablation."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp import causal, edits
from interp.causal.importance import Importance
from interp.causal.pruning import PruningCurve
from interp.errors import InputError
from tests.interp.tiny import HEADS, LAYERS, NAMES, right_padded, tiny_t5, token_ids
from tests.interp.words import text_of
from tests.interp.zoo import oracle

LENGTHS = (9, 14)
PROSE = Path(interp.__file__).parent / "demo" / "prose.txt"
PROJECTIONS = ("o_proj", "attn.c_proj", "attention.dense", "out_proj", "self_attn.dense", "attention.output.dense")


def products(model: PreTrainedModel, dtype: torch.dtype, objective: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """z . dL/dz of each sequence, [layers x heads, T]: z is what goes into the output projections."""
    model = copy.deepcopy(model).to(dtype)
    model.set_attn_implementation("eager")
    found: list[Tensor] = []

    def keep(module: Any, arguments: Any) -> None:
        found.append(arguments[0])

    for name, module in model.named_modules():
        if name.endswith(PROJECTIONS):
            module.register_forward_pre_hook(keep)
    _, ids, kept = right_padded(LENGTHS)
    products = []
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for row, of_row in zip(ids, kept, strict=True):
            found.clear()
            last = oracle.first_tensor(model(input_ids=row[of_row][None]))
            gradients = torch.autograd.grad(objective(last[0], row[of_row]), found)
            assert len(found) == LAYERS
            by_head = [(z * g)[0].unflatten(-1, (HEADS, -1)).sum(-1).T for z, g in zip(found, gradients, strict=True)]
            products.append(torch.cat(by_head).detach())
    finally:
        torch.set_default_dtype(before)
    return products


def loss(logits: Tensor, ids: Tensor) -> Tensor:
    return -logits.log_softmax(-1)[:-1].gather(1, ids[1:, None]).sum()


def check(got: np.ndarray, own: Tensor, exact: Tensor) -> None:
    ulp = torch.finfo(torch.float32).eps * float(exact.abs().max())
    bound = 2 * float((own.double() - exact).abs().max()) + 8 * ulp
    assert float(exact.min()) > 0
    assert float((torch.tensor(got) - exact).abs().max()) <= bound


@pytest.mark.parametrize("name", NAMES)
def test_importance_is_that_of_autograd(name: str, own_model: Callable, eager_model: Callable):
    own, exact = (products(eager_model(name), dtype, loss) for dtype in (torch.float32, torch.float64))
    rows, _, _ = right_padded(LENGTHS)
    model = interp.load(own_model(name))
    result = causal.importance(model, rows)
    check(
        result.to_frame()["importance"].to_numpy(),
        *(torch.cat(each, dim=1).abs().mean(1) for each in (own, exact)),
    )
    by_sequence = causal.importance(model, rows, form="sequence")
    check(
        by_sequence.to_frame()["importance"].to_numpy(),
        *(torch.stack([x.mean(1).abs() for x in each]).mean(0) for each in (own, exact)),
    )
    assert result.objectives == pytest.approx(causal.token_losses(model, rows).nansum(1).numpy(), rel=1e-5)


def test_an_encoder_with_an_objective_of_its_own(own_model: Callable, eager_model: Callable):
    def objective(logits: Tensor) -> Tensor:
        return logits[:, 0, :3].sum(-1)

    rows, _, _ = right_padded(LENGTHS)

    config = own_model("bert").config
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config).eval()
    own, exact = (
        products(model, dtype, lambda last, ids: last[0, :3].sum()) for dtype in (torch.float32, torch.float64)
    )
    result = causal.importance(interp.load(model), rows, objective)
    check(
        result.to_frame()["importance"].to_numpy(),
        *(torch.cat(each, dim=1).abs().mean(1) for each in (own, exact)),
    )
    assert result.objective == "objective"


def test_sides_of_padding_and_batches_do_not_matter(own_model: Callable):
    model = interp.load(own_model("llama"))
    rows, _, _ = right_padded(LENGTHS)
    right = causal.importance(model, rows)
    left = causal.importance(model, model.batch(rows, padding="left"))
    np.testing.assert_allclose(left.values, right.values, rtol=1e-4)
    alone = np.concatenate([causal.importance(model, [row]).values for row in rows])
    np.testing.assert_allclose(alone, right.values, rtol=1e-4)
    assert right.tokens.tolist() == [[n] * LAYERS * HEADS for n in LENGTHS]


def test_standard_errors_are_those_of_the_weighted_mean(own_model: Callable):
    model = interp.load(own_model("llama"))
    same = causal.importance(model, token_ids((6, 8)))
    assert same.table["stderr"].to_numpy() == pytest.approx(same.values.std(axis=0, ddof=1) / 6**0.5)
    assert causal.importance(model, token_ids((1, 8))).table["stderr"].isna().all()


def test_normalised_layers_have_length_one_and_keep_their_order(own_model: Callable):
    model = interp.load(own_model("llama"))
    plain, scaled = (causal.importance(model, token_ids((3, 8)), normalize=flag) for flag in (False, True))
    for (_, before), (_, after) in zip(plain.table.groupby("layer"), scaled.table.groupby("layer"), strict=True):
        norm = (before["importance"] ** 2).sum() ** 0.5
        assert after["importance"].to_numpy() == pytest.approx(before["importance"].to_numpy() / norm)
        assert after["stderr"].to_numpy() == pytest.approx(before["stderr"].to_numpy() / norm)


def test_an_ablated_head_has_no_importance(own_model: Callable):
    model = interp.load(own_model("llama"))
    with model.edited(edits.ablate("L1H2")):
        result = causal.importance(model, token_ids((2, 8)), layers=[1])
    assert list(result.table["name"]) == ["L1H0", "L1H1", "L1H2", "L1H3"]
    assert result.table["importance"][2] == 0
    assert result.ranking()[0] == "L1H2"
    assert (result.table["importance"].drop(2) > 0).all()


def test_a_head_scaled_by_its_mask_changes_the_loss_as_importance_says(own_model: Callable):
    """The paper's definition: |dL/dxi_h| at xi_h = 1, by central differences in float64."""
    model = interp.load(copy.deepcopy(own_model("gpt2")).double())  # Llama's norms would compute in float32
    ids = token_ids((1, 8))
    result = causal.importance(model, ids, form="sequence").table.set_index("name")["importance"]
    for name in ("L0H1", "L1H3"):
        around = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            with model.edited(edits.scale(name, factor=factor)):
                around.append(float(causal.token_losses(model, ids).sum()))
        assert result[name] == pytest.approx(abs(around[0] - around[1]) / 2e-4 / 8, rel=1e-5)


def test_one_sequence_has_no_standard_error_to_tell(own_model: Callable):
    assert "±" not in causal.importance(interp.load(own_model("llama")), token_ids((1, 8))).summary()


def test_windows_are_sequences(own_model: Callable, tokenizer: Any):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(token_ids((30,), seed=2))
    result = causal.importance(model, model.windows(text, 11))
    assert result.tokens[:, 0].tolist() == [11, 11, 11]
    assert np.isfinite(result.table["stderr"]).all()


def test_an_encoder_decoder_has_importances_in_each_stack():
    model = interp.load(tiny_t5())
    batch = model.batch(token_ids((1, 9)), decoder=token_ids((1, 5), seed=1))
    with pytest.raises(InputError, match="its decoder reads another text than its encoder"):
        causal.importance(model, batch)
    result = causal.importance(model, batch, lambda logits: logits[0, -1, 7], form="sequence")
    by_layer = result.table.groupby("layer").size()
    assert dict(by_layer) == dict.fromkeys(model.layers, 4)
    assert dict(zip(result.table["layer"], result.tokens[0], strict=True)) == {
        layer: 9 if str(layer).startswith("encoder") else 5 for layer in model.layers
    }


def test_importance_is_read_back_equal_and_drawn(own_model: Callable, tmp_path: Path):
    result = causal.importance(interp.load(own_model("llama")), token_ids((2, 8)))
    back = Importance.load(result.save(tmp_path))
    pd.testing.assert_frame_equal(back.to_frame(), result.to_frame(), check_exact=True)
    assert back.summary() == result.summary()
    assert f"Most: {result.ranking()[-1]}" in result.summary()
    grid = np.asarray(result.plot().data[0].z)
    assert grid.ravel() == pytest.approx(result.table["importance"].to_numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "example"}, "form: expected 'token' or 'sequence', got 'example'"),
        ({"normalize": 2}, "normalize: expected True or False, got 2"),
        ({"objective": "accuracy"}, "objective: expected 'loss' or a function of the logits, got 'accuracy'"),
        (
            {"objective": lambda x: x.sum()},
            r"a number for each of the 2 sequences, a tensor of shape \[2\], got shape \[\]",
        ),
        ({"objective": lambda x: x.sum((1, 2)).detach()}, "what it gives has no gradient"),
        ({"layers": [7]}, "layer 7 does not exist"),
        ({"layers": []}, "layers: give at least one, or leave it out for all of them"),
        ({"inputs": [[3], [4, 5]]}, "sequence 0 of the input has one token"),
    ],
)
def test_bad_input_is_refused(own_model: Callable, options: dict[str, Any], message: str):
    given = {"inputs": token_ids((2, 8))} | options
    with pytest.raises(InputError, match=message):
        causal.importance(interp.load(own_model("llama")), given.pop("inputs"), **given)


IDS = token_ids((4, 9), seed=3)


def losses(model: interp.HookedModel) -> Tensor:
    return causal.token_losses(model, IDS).mean(1)


def test_the_curve_runs_from_the_whole_model_to_one_without_heads(own_model: Callable):
    model = interp.load(own_model("llama"))
    order = causal.importance(model, token_ids((2, 8)))
    result = causal.pruning_curve(model, order, losses, worse="higher", steps=4, draws=2)
    frame = result.to_frame()
    assert list(frame["pruned"]) == [0, 2, 4, 6, 8] * 3
    assert list(result.heads) == order.ranking()
    with model.edited(edits.ablate("all")):
        nothing = losses(model).double().numpy()
    whole = losses(model).double().numpy()
    for draw in (-1, 0, 1):
        points = np.flatnonzero(frame["draw"] == draw)
        np.testing.assert_array_equal(result.values[points[0]], whole)
        np.testing.assert_array_equal(result.values[points[-1]], nothing)
    with model.edited(edits.ablate(*order.ranking()[:4])):
        np.testing.assert_array_equal(result.values[2], losses(model).double().numpy())
    rows = result.compared()
    assert rows["random"][2] == pytest.approx(
        frame.loc[frame["pruned"].eq(4) & frame["order"].eq("random"), "value"].mean()
    )
    assert (rows["random_low"] <= rows["random"]).all()
    assert rows["difference"].iloc[[0, -1]].abs().max() == pytest.approx(0, abs=1e-12)


def test_each_set_of_heads_is_measured_once(own_model: Callable):
    model = interp.load(own_model("llama"))
    calls = []

    def metric(edited: interp.HookedModel) -> float:
        calls.append(edited.facts().get("edits"))
        return float(len(calls))

    causal.pruning_curve(model, ["L0H1", "L1H0", "L1H1"], metric, worse="higher", steps=3, draws=2)
    assert calls[0] is None
    assert calls[1] == ["ablate(heads=((0, 1),))"]
    assert calls[2] == ["ablate(heads=((0, 1), (1, 0)))"]
    assert len(calls) <= 2 + 3 * 2


def test_random_orders_follow_the_seed_and_not_the_given_order(own_model: Callable):
    model = interp.load(own_model("llama"))

    def curve(order: list[str], seed: int) -> np.ndarray:
        result = causal.pruning_curve(model, order, losses, worse="higher", steps=3, draws=3, seed=seed)
        return result.values[result.table["order"] == "random"]

    names = [f"L{layer}H{head}" for layer in range(LAYERS) for head in range(HEADS)]
    assert np.array_equal(curve(names, 0), curve(names[::-1], 0))
    assert not np.array_equal(curve(names, 0), curve(names, 1))


def test_the_curve_is_read_back_equal_and_drawn(own_model: Callable, tmp_path: Path):
    model = interp.load(own_model("llama"))
    result = causal.pruning_curve(model, ["L0H1", "L1H0"], losses, worse="higher", steps=2, draws=2)
    back = PruningCurve.load(result.save(tmp_path))
    pd.testing.assert_frame_equal(back.compared(), result.compared(), check_exact=True)
    assert back.summary() == result.summary()
    assert result.plot().data[-1].y == pytest.approx(result.compared()["given"].to_numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"draws": True}, "draws: expected an integer of at least 1, got True"),
        ({"seed": 1.5}, "seed: expected an integer from 0"),
        ({"level": 1.0}, "level: expected a number between 0 and 1"),
        ({"worse": None}, "pruning_curve: say which way your metric is worse"),
        ({"order": ["L9H0"]}, "layer 9 does not exist"),
    ],
)
def test_curves_of_bad_input_are_refused(own_model: Callable, options: dict[str, Any], message: str):
    given = {"order": ["L0H1"], "task": losses, "worse": "higher"} | options
    with pytest.raises(InputError, match=message):
        causal.pruning_curve(interp.load(own_model("llama")), given.pop("order"), given.pop("task"), **given)


def test_the_demo_model_is_hurt_less_by_losing_its_least_important_heads():
    demo = interp.load("demo")
    text = PROSE.read_text(encoding="utf-8")
    # As the books that it was trained on: lines of about 70 characters.
    wrapped = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in text.split("\n\n"))
    middle = len(wrapped) // 2
    order = causal.importance(demo, demo.windows(wrapped[:middle], 128))
    assert order.ranking()[-1] == "L1H5"
    held = causal.perplexity_task(demo, wrapped[middle:], length=128)
    result = causal.pruning_curve(demo, order, held, steps=2, draws=3)
    half = result.compared().iloc[1]
    assert half["given"] < half["random_low"]
