"""Chosen heads: their statistics are those of a whole capture, the others are not measured, the model's output stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

import interp
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp_kernels import Attended, Probe
from tests.interp.tiny import ARCHITECTURES, COMMON, randomised, token_ids

T, MANY = 30, 16
IDS = token_ids((2, T))
SEVERAL = {"num_attention_heads": MANY, "num_key_value_heads": 4, "head_dim": 8}


def hooked(name: str = "llama") -> interp.HookedModel:
    return interp.load(ARCHITECTURES[name].build(**SEVERAL))


def t5() -> interp.HookedModel:
    config = transformers.T5Config(
        **COMMON, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=MANY, decoder_start_token_id=0
    )
    return interp.load(randomised(transformers.T5ForConditionalGeneration(config).eval()))


def probes() -> list[Probe]:
    generator = torch.Generator().manual_seed(1)
    return [
        interp.Entropy(),
        interp.Peak(),
        interp.KeyMass(torch.rand(2, MANY, T, 3, generator=generator)),
        interp.Received(torch.rand(2, MANY, T, generator=generator)),
        interp.OffsetMass((0, 1), reduce="mean"),
    ]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int | str, int, int]]:
    """(layer, query heads, probes) of every pass of attention."""
    seen: list[tuple[int | str, int, int]] = []
    attend = AttentionCall.attend

    def noted(self: AttentionCall, probes: Sequence[Probe] = ()) -> Attended:
        seen.append((self.layer.key, self.q.shape[1], len(probes)))
        return attend(self, probes)

    monkeypatch.setattr(AttentionCall, "attend", noted)
    return seen


CHOICES = {
    "one of one layer": {1: (5,)},
    "in groups of one KV head": {0: (3, 7), 1: (0, 1)},
    "in unequal groups": {0: (0, 1, 4), 1: (2, 3, 9, 15)},
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2"])
def test_chosen_heads_are_rows_of_a_whole_capture(name: str, choice: dict[int, tuple[int, ...]]):
    model = hooked(name)
    whole = model.capture(IDS, probes(), outputs=True, contributions="norm", value_norms="written", logits=True)
    heads = [(layer, head) for layer, chosen in choice.items() for head in reversed(chosen)]
    part = model.capture(
        IDS, probes(), heads=heads, outputs=True, contributions="norm", value_norms="written", logits=True
    )
    assert part.layers == tuple(choice)
    assert list(part.stats) == list(whole.stats)
    assert part.logits is not None
    assert torch.equal(part.logits, whole.logits)
    for layer, chosen in choice.items():
        assert part.measured[layer].heads == chosen
        for stat, values in part.stats.items():
            axis = sorted({head // 4 for head in chosen}) if stat == "value_norm" else list(chosen)
            torch.testing.assert_close(values[layer], whole[stat][layer][:, axis], rtol=2e-5, atol=2e-6)


def test_heads_with_a_bias_of_their_own():
    model, inputs = t5(), {"input_ids": IDS, "decoder_input_ids": token_ids((2, 11), seed=1)}
    whole = model.capture(inputs)
    part = model.capture(inputs, heads=["encoder.L0H3", "decoder.1.15", ("cross.1", 0)])
    assert part.layers == ("encoder.0", "decoder.1", "cross.1")
    for layer, head in (("encoder.0", 3), ("decoder.1", 15), ("cross.1", 0)):
        torch.testing.assert_close(part["entropy"][layer][:, 0], whole["entropy"][layer][:, head], rtol=2e-5, atol=2e-6)


def test_few_heads_are_measured_in_a_pass_of_their_own(passes):
    hooked().capture(IDS, ["entropy"], heads=["L1H5", "L1H6"])
    assert passes == [(0, MANY, 0), (1, MANY, 0), (1, 2, 1)]


def test_many_heads_are_measured_together(passes):
    found = hooked().capture(IDS, ["entropy"], heads=[(1, head) for head in (4, 5, 6)])
    assert passes == [(0, MANY, 0), (1, MANY, 1)]
    value = found["entropy"][1]
    assert value.shape == (2, 3, T)
    assert value.untyped_storage().nbytes() == value.nbytes, "holds on to the heads that were not asked for"


def test_chosen_heads_of_a_compiled_model():
    model, heads = hooked(), ["L0H3", "L1H4", "L1H5", "L1H6"]
    expected = model.capture(IDS, probes(), heads=heads, outputs=True, value_norms=True)
    torch.compiler.reset()
    model.model.compile(fullgraph=True, backend="eager")
    found = model.capture(IDS, probes(), heads=heads, outputs=True, value_norms=True)
    torch.compiler.reset()
    assert found.measured == expected.measured
    for name, values in expected.stats.items():
        torch.testing.assert_close(found[name], values, rtol=2e-5, atol=2e-6)


def test_heads_of_an_edited_map():
    model = hooked()
    with model.edited([interp.edits.uniform("L1H5")]):
        found = model.capture(IDS, ["entropy"], heads="L1H5")
    expected = torch.arange(1, T + 1).log().expand(2, T)
    torch.testing.assert_close(found.of_head("entropy", "L1H5"), expected, rtol=1e-5, atol=1e-5)


def test_one_head_of_a_statistic():
    model = hooked()
    whole = model.capture(IDS, ["entropy"], value_norms=True)
    part = model.capture(IDS, ["entropy"], value_norms=True, heads=["L0H9", "L0H15"])
    for found in (whole, part):
        torch.testing.assert_close(found.of_head("entropy", "0.9"), whole["entropy"][0][:, 9], rtol=2e-5, atol=2e-6)
        assert torch.equal(found.of_head("value_norm", (0, 9)), whole["value_norm"][0][:, 2])
    with pytest.raises(InputError, match=r"^head 'L0H1' was not measured; of layer 0 these were: \[9, 15\]"):
        part.of_head("entropy", "L0H1")
    with pytest.raises(InputError, match=r"^head 'L1H9': layer 1 does not exist; the layers are 0 to 0"):
        part.of_head("entropy", "L1H9")


def test_the_kv_head_of_a_head():
    found = hooked().capture(IDS, ["entropy"])
    assert [found.kv_head(head) for head in range(MANY)] == [head // 4 for head in range(MANY)]
    assert found.kv_head("L1H15") == found.kv_head((1, 15)) == found.kv_head(15, layer=1) == 3
    with pytest.raises(InputError, match=r"^head 16 does not exist: there are 16 query heads, 0 to 15"):
        found.kv_head(16)


def test_different_numbers_of_heads_cannot_be_stacked():
    found = hooked().capture(IDS, ["entropy"], heads=["L0H1", "L1H1", "L1H2"])
    with pytest.raises(InputError, match=r"^'entropy' cannot be stacked, its shapes differ: \{0: \[2, 1, 30\], 1: "):
        found.stacked("entropy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["L0H1"], "layers": [0]}, r"^heads name their layers; give either heads= or layers="),
        ({"heads": ["L2H1"]}, r"^head 'L2H1': layer 2 does not exist; the layers are 0 to 1"),
        ({"heads": ["L1H16"]}, r"^head 'L1H16' does not exist: layer 1 has 16 query heads, 0 to 15"),
        ({"heads": []}, r"^heads: expected at least one head such as 'L5H1'"),
    ],
)
def test_heads_that_cannot_be_chosen(options: dict[str, Any], message: str, passes):
    with pytest.raises(InputError, match=message):
        hooked().capture(IDS, **options)
    assert not passes, "refused only after the model had run"
