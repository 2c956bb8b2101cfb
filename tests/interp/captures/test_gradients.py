"""Gradients through hooked models against autograd of the same models' eager attention, in float64."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp import edits
from interp.captures.gradients import Gradients, gradients
from interp.errors import InputError, RunError
from tests.interp.tiny import COMMON, NAMES, tiny_t5, token_ids
from tests.interp.zoo import oracle

T = 40
DIRECTION = torch.randn(2, T, 1, generator=torch.Generator().manual_seed(1))


def objective(last: Tensor) -> Tensor:
    """A number that every position of every sequence has a part in."""
    return (last[:, :, 5:9] * DIRECTION.to(last)).sum()


def differentiated(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """dF/dA * A clipped at 0 for each layer, and dF/d embedding, by autograd on the eager model."""
    model = copy.deepcopy(model).to(dtype)
    embedding = model.get_input_embeddings()(token_ids((2, T))).detach()
    embedding.requires_grad_()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with oracle.listening(model) as listened:
            last = oracle.first_tensor(model(inputs_embeds=embedding, use_cache=False))
            value = objective(last)
        maps = [maps[0] for module in model.modules() if (maps := listened.get(module))]
        of_maps = torch.autograd.grad(value, [*maps, embedding])
    finally:
        torch.set_default_dtype(before)
    # Of gpt-oss the eager function hands on the keys' columns alone.
    parts = {
        f"relevance {n}": (a * g).clamp(min=0).detach() for n, (a, g) in enumerate(zip(maps, of_maps, strict=False))
    }
    return parts | {"embedding": of_maps[-1], "logits": last.detach()}


def found(result: Gradients) -> dict[str, Tensor]:
    parts = {f"relevance {layer}": each.map.weighted_by(each.gradient).dense() for layer, each in result.layers.items()}
    return parts | {"embedding": result.embeddings[0][1], "logits": result.logits}


@pytest.mark.parametrize("name", [*NAMES, "bert"])
def test_maps_weighted_by_their_gradient_and_input_gradients_are_those_of_autograd(
    name: str, own_model: Callable[[str], PreTrainedModel], eager_model: Callable[[str], PreTrainedModel]
):
    own = differentiated(eager_model(name), torch.float32)
    exact = differentiated(eager_model(name), torch.float64)
    got = found(gradients(interp.load(own_model(name)), token_ids((2, T)), objective, logits=name != "bert"))
    assert got.keys() == exact.keys()
    for part, want in exact.items():
        ulp = torch.finfo(torch.float32).eps * float(want.abs().max())
        bound = 2 * float((own[part].double() - want).abs().max()) + 8 * ulp
        assert float((got[part].double() - want).abs().max()) <= bound, part
        assert float(want.abs().max()) > 1e-4, f"{part} is idle"


def test_parameters_collect_no_gradient_and_frozen_ones_do_not_matter(own_model: Callable[[str], PreTrainedModel]):
    model = copy.deepcopy(own_model("llama"))
    free = found(gradients(interp.load(model), token_ids((2, T)), objective))
    assert all(parameter.grad is None for parameter in model.parameters())
    model.requires_grad_(False)
    frozen = found(gradients(interp.load(model), token_ids((2, T)), objective))
    assert all(torch.equal(free[part], frozen[part]) for part in free)
    assert not model.get_input_embeddings()._forward_hooks


def test_within_no_grad_it_works_as_well(own_model: Callable[[str], PreTrainedModel]):
    with torch.no_grad():
        result = gradients(interp.load(own_model("llama")), token_ids((2, T)), objective)
    assert float(result.layers[0].gradient.abs().max()) > 0
    assert not result.layers[0].output.requires_grad
    assert not result.layers[0].map.operands.q.requires_grad


def test_both_sides_of_an_encoder_decoder():
    model = interp.load(tiny_t5())
    batch = model.batch(token_ids((1, 9)), decoder=token_ids((1, 5), seed=1))
    result = gradients(model, batch, lambda logits: logits[0, -1, 7])
    assert set(result.layers) == {"encoder.0", "encoder.1", "decoder.0", "decoder.1", "cross.0", "cross.1"}
    assert [list(x.shape) for x, _ in result.embeddings] == [[1, 9, 32], [1, 5, 32]]
    assert all(float(g.abs().max()) > 0 for _, g in result.embeddings)


def test_an_ablated_head_has_no_part(own_model: Callable[[str], PreTrainedModel]):
    model = interp.load(own_model("llama"))
    plain = gradients(model, token_ids((2, T)), objective)
    with model.edited([edits.ablate("L1H2")]):
        edited = gradients(model, token_ids((2, T)), objective)
    assert bool((edited.layers[1].output[:, 2] == 0).all())
    assert edited.value != plain.value
    assert bool((edited.layers[1].reaching[:, 2] == 0).all())
    assert bool((edited.layers[1].gradient[:, 2] != 0).any())
    assert edited.layers[1].reaching[:, :2].equal(edited.layers[1].gradient[:, :2])
    assert plain.layers[1].reaching is plain.layers[1].gradient


def test_a_scaled_head_passes_on_its_share_of_the_gradient(own_model: Callable[[str], PreTrainedModel]):
    model = interp.load(own_model("llama"))
    with model.edited([edits.scale("L0H1", factor=0.5), edits.scale("L0H1", factor=0.5)]):
        layer = gradients(model, token_ids((2, T)), objective).layers[0]
    torch.testing.assert_close(layer.reaching[:, 1], layer.gradient[:, 1] / 4, rtol=0, atol=0)


def test_another_threads_run_is_not_cut_off_from_its_graph(own_model: Callable[[str], PreTrainedModel]):
    model = own_model("llama")
    seen: list[bool] = []

    def elsewhere() -> None:
        seen.append(model.get_input_embeddings()(token_ids((1, 3))).grad_fn is not None)

    def objective_with_company(logits: Tensor) -> Tensor:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return objective(logits)

    result = gradients(interp.load(model), token_ids((2, T)), objective_with_company)
    assert seen == [True]
    assert len(result.embeddings) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x[0, 0], r"expected a function that gives one number as a tensor, got a tensor of shape \[61\]"),
        (lambda x: 3.0, r"expected a function that gives one number as a tensor, got 3\.0"),
        (lambda x: x.detach().sum(), "what it gives has no gradient; compute it from what it is given, without detach"),
        (lambda x: torch.ones((), requires_grad=True) * 1.0, "it depends on nothing that the layers write"),
    ],
)
def test_objectives_that_give_no_scalar_of_the_run_are_refused(
    wrong: Callable[[Tensor], Tensor], message: str, own_model: Callable[[str], PreTrainedModel]
):
    with pytest.raises(InputError, match=f"objective: {message}"):
        gradients(interp.load(own_model("llama")), token_ids((1, 5)), wrong)


def test_an_objective_without_a_value_is_an_error(own_model: Callable[[str], PreTrainedModel]):
    with pytest.raises(RunError, match="objective: it gave nan; a finite number is needed"):
        gradients(interp.load(own_model("llama")), token_ids((1, 5)), lambda x: x.sum() * float("nan"))


def test_a_model_that_scales_its_embedding_in_place_is_differentiated_as_it_stands() -> None:
    """CTRL multiplies what its embedding gives by sqrt(d) in place."""
    config = transformers.CTRLConfig(**COMMON, n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = transformers.CTRLLMHeadModel(config).eval().double()
    ids = token_ids((1, 9))
    table = own.get_input_embeddings().weight
    (wanted,) = torch.autograd.grad(own(ids, use_cache=False).logits[0, -1, 5], [table])
    found = gradients(interp.load(own), ids, lambda logits: logits[0, -1, 5])

    ((embedding, gradient),) = found.embeddings
    assert torch.equal(embedding, table[ids].detach())
    # The table is the unembedding too: the last position's state is added to row 5, and to no other.
    of_tokens = torch.zeros_like(table).index_add_(0, ids[0], gradient[0])
    rows = [row for row in range(len(table)) if row != 5]
    torch.testing.assert_close(of_tokens[rows], wanted[rows], rtol=1e-9, atol=1e-12)
    assert float(gradient.abs().max()) > 0
