"""Heads' outputs, what they write into the residual stream, and norms, against the model's own projection, found by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import interp
from interp.captures.contributions import written_norms
from interp.errors import InputError
from interp.inputs.batch import Batch
from tests.interp.tiny import (
    ARCHITECTURES,
    BERT,
    COMMON,
    GROUPED,
    HEADS,
    NAMES,
    WIDTHS,
    randomised,
    right_padded,
    token_ids,
)

IDS = token_ids((2, 30))
PROJECTIONS = {
    "gpt2": "h.{}.attn.c_proj",
    "gpt_neox": "layers.{}.attention.dense",
    "opt": "decoder.layers.{}.self_attn.out_proj",
    "phi": "layers.{}.self_attn.dense",
    "bert": "encoder.layer.{}.attention.output.dense",
}
"""Where the output projection stands in the base model; elsewhere it is o_proj."""


def projection(model: PreTrainedModel, name: str, layer: int) -> nn.Module:
    return model.base_model.get_submodule(PROJECTIONS.get(name, "layers.{}.self_attn.o_proj").format(layer))


def heads_parts(model: PreTrainedModel, name: str, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """z [B, H, T, Dv], each head's part [B, H, T, d] and the projection's output [B, T, d], in float64, from a plain run.

    A head's part is what the projection makes of its input with the other heads' entries set to 0, less what it makes of 0.
    """
    module = projection(model, name, layer).double()
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].double()))
    try:
        with torch.no_grad():
            model.base_model.double()(IDS, use_cache=False) if name != "bert" else model.double()(IDS)
            x = seen[0]
            z = x.unflatten(-1, (HEADS, -1))  # [B, T, H, Dv]
            alone = torch.eye(HEADS, dtype=torch.float64)[:, None, None, :, None] * z
            nothing = module(torch.zeros_like(x))
            parts = torch.stack([module(each.flatten(-2)) - nothing for each in alone], dim=1)
            return z.transpose(1, 2), parts, module(x) - nothing
    finally:
        handle.remove()


def fresh(name: str) -> PreTrainedModel:
    return (BERT if name == "bert" else ARCHITECTURES[name]).build()


@pytest.mark.parametrize("name", [*NAMES, "bert"])
def test_outputs_and_contributions_are_the_models_own(name: str, own_model):
    capture = interp.load(own_model(name)).capture(IDS, (), outputs=True, contributions=True)
    assert list(capture.stats) == ["output", "contribution"]
    for layer in capture.layers:
        z, parts, whole = heads_parts(fresh(name), name, layer)
        torch.testing.assert_close(capture["output"][layer].double(), z, rtol=0, atol=3e-5)
        torch.testing.assert_close(capture["contribution"][layer].double(), parts, rtol=0, atol=1e-4)
        torch.testing.assert_close(capture["contribution"][layer].double().sum(dim=1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_norms_are_those_of_the_vectors(name: str, own_model):
    model = interp.load(own_model(name))
    vectors = model.capture(IDS, (), contributions=True)
    found = model.capture(IDS, (), contributions="norm", value_norms="written")
    assert list(found.stats) == ["contribution_norm", "value_norm", "value_written_norm"]
    for layer in found.layers:
        expected = vectors["contribution"][layer].double().norm(dim=-1)
        torch.testing.assert_close(found["contribution_norm"][layer].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_value_norms_are_those_of_the_values(name: str, own_model):
    _, ids, keep = right_padded((30, 17))
    model = interp.load(own_model(name))
    found = model.capture(Batch(ids, keep), (), value_norms="written")
    lazy = model.maps(Batch(ids, keep))
    for layer in found.layers:
        v = lazy[layer].operands.v.double()  # [B, Hkv, T, Dv]
        weight = projection(model.model, name, layer).weight.detach().double()
        by_head = (weight if name == "gpt2" else weight.T).unflatten(0, (HEADS, -1))  # [H, Dv, d]
        group = HEADS // v.shape[1]
        written = torch.stack([(v[:, h // group] @ by_head[h]).norm(dim=-1) for h in range(HEADS)], dim=1)
        for got, expected in ((found["value_norm"], v.norm(dim=-1)), (found["value_written_norm"], written)):
            assert got[layer].shape == expected.shape
            kept = keep[:, None].expand_as(expected)
            torch.testing.assert_close(got[layer][kept].double(), expected[kept], rtol=1e-5, atol=1e-6)
            assert bool(got[layer][~kept].isnan().all())


def test_norms_keep_their_digits_where_a_head_writes_little_of_what_it_holds():
    # W maps the first direction of z to 1, the second to 1e-6. Through W W^T in float32 the second would be lost.
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(2, 2, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(9, 2, generator=generator, dtype=torch.float64)).Q
    weight = (left @ torch.diag(torch.tensor([1.0, 1e-6], dtype=torch.float64)) @ right.T)[None]
    z = torch.stack([left[:, 0], left[:, 1]])[None, None]  # [1, 1, 2, 2]
    exact = written_norms(z, weight, [0])
    torch.testing.assert_close(exact, torch.tensor([[[1.0, 1e-6]]], dtype=torch.float64), rtol=1e-9, atol=0)
    rounded = written_norms(z.float(), weight.float(), [0])
    # Rounding z and W by 6e-8 of their largest entries moves 1e-6 by about that much, and not by its root, 2.4e-4.
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-6, atol=3e-7)


def test_contributions_in_bfloat16_are_rounded_once():
    model = ARCHITECTURES["llama"].build().bfloat16()
    found = interp.load(model).capture(IDS, (), outputs=True, contributions=True)
    assert found["contribution"][1].dtype == torch.bfloat16
    weight = projection(model, "llama", 1).weight.detach().double().T.unflatten(0, (HEADS, -1))
    exact = found["output"][1].double() @ weight
    bound = found["output"][1].double().abs() @ weight.abs()
    assert bool(((found["contribution"][1].double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * bound).all())


def test_an_ablated_head_writes_nothing(own_model):
    model = interp.load(own_model("llama"))
    with model.edited([interp.edits.ablate("L1H2")]):
        found = model.capture(IDS, ["entropy"], outputs=True, contributions=True)
    for name in ("output", "contribution"):
        rows = found[name][1].flatten(2).abs().amax(dim=2)
        assert bool((rows[:, 2] == 0).all())
        assert bool((rows[:, [0, 1, 3]] > 0).all())


def test_an_attention_module_that_adds_the_residual_stream_itself_is_refused():
    config = transformers.AlbertConfig(**WIDTHS, **COMMON, embedding_size=16, num_hidden_groups=1)
    hooked = interp.load(randomised(transformers.AlbertModel(config).eval()))
    with pytest.raises(InputError, match=r"^layer 0: .* changes the output of the projection .*residual connection"):
        hooked.capture(IDS, (), contributions=True)
    outputs = hooked.capture(IDS, (), outputs=True)["output"]
    assert not torch.equal(outputs[0], outputs[1]), "two layers share the module"


def test_a_compiled_model_gives_contributions_too():
    model = ARCHITECTURES["llama"].build()
    hooked = interp.load(model)
    expected = hooked.capture(IDS, (), contributions=True)
    torch.compiler.reset()
    model.compile(fullgraph=True, backend="eager")
    hooked.capture(IDS, ())
    found = hooked.capture(IDS, (), contributions=True)
    torch.compiler.reset()
    torch.testing.assert_close(found["contribution"], expected["contribution"], rtol=0, atol=1e-5)


class Adapted(nn.Module):
    """A linear layer with something added to what it gives, as a low-rank adapter does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.1 * x


class Gated(nn.Module):
    """A linear layer behind a gate."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x * torch.sigmoid(x))


class Rounded(nn.Linear):
    """A linear layer that works with other weights than it shows."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nn.functional.linear(x, (self.weight * 8).round() / 8)


class Mixing(nn.Module):
    """A projection without a linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight = base.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def rounded(base: nn.Linear) -> nn.Linear:
    made = Rounded(base.in_features, base.out_features, bias=False)
    made.weight = base.weight
    return made


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Adapted, "its attention module changes the output of the projection before it hands it on"),
        (Gated, "takes in something else than the heads' outputs; a gate, a norm or another step stands between"),
        (rounded, "a Rounded, is not the sum of the heads' parts and a bias"),
        (Mixing, "takes in something else than the heads' outputs"),
    ],
)
def test_what_is_no_plain_projection_is_refused(change: Any, why: str):
    model = ARCHITECTURES["llama"].build()
    for layer in model.model.layers:
        layer.self_attn.o_proj = change(layer.self_attn.o_proj)
    hooked = interp.load(model)
    with pytest.raises(
        InputError, match=rf"^layer 0: what each head writes .*{why}.* outputs=True and value_norms=True"
    ):
        hooked.capture(IDS, (), contributions=True)
    assert set(hooked.capture(IDS, (), outputs=True, value_norms=True).stats) == {"output", "value_norm"}
    assert not any(m._forward_hooks for m in model.modules())


def test_a_last_layer_without_a_projection_is_refused():
    model = ARCHITECTURES["llama"].build(num_hidden_layers=1)
    model.model.layers[0].self_attn.o_proj = Mixing(model.model.layers[0].self_attn.o_proj)
    model.model.layers[0].mlp = nn.Identity()
    with pytest.raises(InputError, match=r"^layer 0: .* no linear layer takes in the heads' outputs"):
        interp.load(model).capture(IDS, (), contributions=True)


def bitnet() -> PreTrainedModel:
    config = transformers.BitNetConfig(**GROUPED)
    return randomised(transformers.BitNetForCausalLM(config).eval())


def qwen3_next() -> PreTrainedModel:
    config = transformers.Qwen3NextConfig(
        **GROUPED | {"num_hidden_layers": 1, "head_dim": 8, "layer_types": ["full_attention"], "num_experts": 2},
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    return randomised(transformers.Qwen3NextForCausalLM(config).eval())


@pytest.mark.parametrize("build", [bitnet, qwen3_next], ids=["norm of BitNet", "gate of Qwen3-Next"])
def test_architectures_with_a_step_before_the_projection_are_refused(build):
    with pytest.raises(InputError, match=r"^layer 0: .* a gate, a norm or another step stands between"):
        interp.load(build()).capture(IDS, (), contributions="norm")


def test_nothing_of_it_is_looked_for_unasked(own_model):
    model = own_model("llama")
    counts: list[int] = []
    handle = model.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda m, *_: counts.append(len(m._forward_hooks))
    )
    try:
        hooked = interp.load(model)
        hooked.capture(IDS, outputs=True, value_norms=True)
        hooked.capture(IDS, contributions="norm")
    finally:
        handle.remove()
    assert counts == [1, 2]
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 1}, r"^outputs: expected True or False, got 1"),
        ({"contributions": "norms"}, r"^contributions: expected True, False or 'norm', got 'norms'"),
        ({"value_norms": "norm"}, r"^value_norms: expected True, False or 'written', got 'norm'"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], message: str, own_model):
    with pytest.raises(InputError, match=message):
        interp.load(own_model("llama")).capture(IDS, (), **options)


def test_a_probe_may_not_take_the_name_of_an_output(own_model):
    with pytest.raises(InputError, match=r"\['output'\] are names of outputs, .* give each probe another name="):
        interp.load(own_model("llama")).capture(IDS, [interp.Entropy(name="output")], outputs=True)
