"""A sequence has the logits and statistics that it has alone, on whichever side the batch is padded; padding has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.inputs.batch import Batch
from tests.interp import dense
from tests.interp.tiny import (
    ARCHITECTURES,
    BERT,
    COMMON,
    CONTEXT,
    HEADS,
    LAYERS,
    NAMES,
    WIDTHS,
    Architecture,
    token_ids,
)
from tests.interp.zoo.hybrids import HYBRIDS

ENCODER = {"is_rotary": False, "is_causal": False}
OTHERS = {
    each.name: each
    for each in (
        BERT,
        # These count the ids that are not padding: their positions begin after the padding id.
        Architecture("roberta", "RobertaConfig", WIDTHS | COMMON | {"type_vocab_size": 1}, "RobertaModel", **ENCODER),
        Architecture("camembert", "CamembertConfig", WIDTHS | COMMON, "CamembertModel", **ENCODER),
        # The library gives BioGPT the columns as positions, though its embedding would go by the mask.
        Architecture("biogpt", "BioGptConfig", WIDTHS | COMMON, "BioGptForCausalLM", is_rotary=False),
        Architecture(
            "gpt_bigcode",
            "GPTBigCodeConfig",
            COMMON | {"n_embd": 32, "n_inner": 48, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT},
            "GPTBigCodeForCausalLM",
            kv_heads=1,
            is_rotary=False,
        ),
        Architecture("electra", "ElectraConfig", WIDTHS | COMMON | {"embedding_size": 32}, "ElectraModel", **ENCODER),
        Architecture(
            "distilbert",
            "DistilBertConfig",
            COMMON | {"dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": HEADS},
            "DistilBertModel",
            **ENCODER,
        ),
    )
}
LENGTHS = (13, 40, 1, 27)
PROBES = [
    "entropy",
    "peak",
    "distance",
    "received",
    interp.OffsetMass((0, 1, 5)),
    interp.Entropy(name="mean", reduce="mean"),
]
TOLERANCE = 3e-5
"""Of a probability in float32; as in test_statistics, whose maps are as pointed and longer."""


@dataclass(frozen=True, eq=False)
class Run:
    """A padded run, and each of its sequences alone, by the model's own eager attention in float64."""

    capture: interp.Capture
    output: Tensor
    lists: list[list[int]]
    alone: list[Any]


def sequences() -> list[list[int]]:
    return [token_ids((n,), seed=n).tolist() for n in LENGTHS]


def built(name: str, **how: Any) -> PreTrainedModel:
    return (ARCHITECTURES | OTHERS)[name].build(**how)


@pytest.fixture(scope="module", params=[f"{name} {side}" for name in (*NAMES, *OTHERS) for side in ("left", "right")])
def run(request) -> Run:
    name, side = request.param.split()
    model = interp.load(built(name))
    batch = model.batch(sequences(), padding=side)
    assert batch.padding == side
    has_logits = "For" in type(model.model).__name__ or "LMHead" in type(model.model).__name__
    eager = built(name, kernel="eager").double()
    alone = []
    for ids in sequences():
        with torch.no_grad():
            alone.append(eager(input_ids=torch.tensor([ids]), output_attentions=True))
    capture = model.capture(batch, PROBES, logits=has_logits)
    if capture.logits is not None:
        return Run(capture, capture.logits, sequences(), alone)
    with torch.no_grad():
        return Run(capture, model(batch).last_hidden_state, sequences(), alone)


def assert_close(value: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=TOLERANCE * scale)


def test_each_sequence_stands_in_its_kept_columns(run: Run):
    for row, keep, ids in zip(run.capture.ids, run.capture.keep, run.lists, strict=True):
        assert row[keep].tolist() == ids
    assert [len(tokens) for tokens in run.capture.tokens] == list(LENGTHS)
    for row, keep in zip(run.capture.token_rows, run.capture.keep, strict=True):
        assert [token.position for token in row.tokens] == keep.nonzero()[:, 0].tolist()


def test_the_output_is_that_of_the_sequence_alone(run: Run):
    """Logits through the hooked attention; of encoders, the last hidden state of their own."""
    for number, output in enumerate(run.alone):
        exact = (output.last_hidden_state if run.capture.logits is None else output.logits)[0]
        found = run.output[number][run.capture.keep[number]]
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-5 * float(exact.abs().max()))


def test_statistics_are_those_of_the_sequence_alone(run: Run):
    for number, output in enumerate(run.alone):
        kept = run.capture.keep[number]
        for layer, p in enumerate(output.attentions):
            values = {name: of[layer][number] for name, of in run.capture.stats.items()}
            assert_close(values["entropy"][:, kept], dense.entropy(p)[0], 4)
            assert_close(values["peak"][:, kept], dense.peak(p)[0])
            assert_close(values["distance"][:, kept], dense.distance(p)[0], len(run.lists[number]))
            assert_close(values["offset_mass"][:, kept], dense.offset_mass(p, (0, 1, 5))[0])
            assert_close(values["received"][:, kept], p.sum(dim=2)[0], len(run.lists[number]))
            assert_close(values["mean"], dense.entropy(p)[0].mean(dim=-1), 4)


def test_padding_counts_in_no_statistic(run: Run):
    """Padded rows are NaN, no padded key has received anything, and none is anybody's peak."""
    padded = ~run.capture.keep
    for layer in range(LAYERS):
        for name in ("entropy", "peak", "distance", "offset_mass"):
            value = run.capture[name][layer]
            assert bool(value.transpose(1, 2)[padded].isnan().all())
            assert not bool(value.transpose(1, 2)[~padded].isnan().any())
        assert bool((run.capture["received"][layer].transpose(1, 2)[padded] == 0).all())
        peaks = run.capture["peak_index"][layer].transpose(1, 2)  # [B, T, H]
        for number, keep in enumerate(run.capture.keep):
            assert bool(keep[peaks[number][keep]].all())


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "biogpt", "distilbert", "llama", "gpt_bigcode"])
def test_a_batch_made_by_hand_gets_its_positions(name: str):
    model = interp.load(built(name))
    made = model.batch(sequences(), padding="left")
    by_hand = Batch(made.ids, made.keep)
    expected = model.capture(made, ["entropy"])
    found = model.capture(by_hand, ["entropy"])
    processed = model.capture({"input_ids": made.ids, "attention_mask": made.keep.long()}, ["entropy"])
    for layer in range(LAYERS):
        for capture in (found, processed):
            assert torch.equal(capture["entropy"][layer].nan_to_num(-1), expected["entropy"][layer].nan_to_num(-1))


def test_the_models_own_output_of_a_left_padded_batch_is_that_of_its_sequences(own_model):
    model = interp.load(own_model("gpt2"))
    batch = model.batch(sequences(), padding="left")
    with torch.no_grad():
        together = model(batch).logits
        for number, ids in enumerate(sequences()):
            alone = model(ids).logits[0]
            torch.testing.assert_close(together[number][batch.keep[number]], alone, rtol=0, atol=1e-4)


def test_positions_that_are_given_are_kept(own_model):
    model = interp.load(own_model("gpt2"))
    ids = torch.tensor([[0, 5, 6, 7]])
    keep = torch.tensor([[False, True, True, True]])
    at = torch.tensor([[0, 10, 11, 12]])
    batch = model.batch({"input_ids": ids, "attention_mask": keep.long(), "position_ids": at})
    assert torch.equal(batch.arguments["position_ids"], at)


def test_alibi_needs_no_positions():
    import transformers

    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4, pad_token_id=2)
    model = interp.load(transformers.BloomForCausalLM(config).eval())
    together = model.capture(model.batch(sequences(), padding="left"), ["entropy"])
    for number, ids in enumerate(sequences()):
        expected = model.capture(ids, ["entropy"])["entropy"][1][0]
        found = together["entropy"][1][number][:, together.keep[number]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_relative_positions_need_none():
    """T5's forward takes no positions, and its bias goes by distance."""
    import transformers

    config = transformers.T5Config(
        vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=2
    )
    torch.manual_seed(0)
    model = interp.load(transformers.T5ForConditionalGeneration(config).eval())
    together = model.capture(model.batch(sequences(), padding="left"), ["entropy"])
    for number, ids in enumerate(sequences()):
        alone = model.capture(ids, ["entropy"])
        kept = together.keep[number]
        for layer in ("encoder.0", "encoder.1"):
            expected = alone["entropy"][layer][0]
            torch.testing.assert_close(together["entropy"][layer][number][:, kept], expected, rtol=0, atol=1e-4)
        cross = together["entropy"]["cross.1"][number]
        torch.testing.assert_close(cross, alone["entropy"]["cross.1"][0], rtol=0, atol=1e-4)


def test_left_padding_is_refused_where_positions_cannot_be_given():
    import transformers

    config = transformers.BartConfig(
        vocab_size=61, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=CONTEXT,
        pad_token_id=2, bos_token_id=0, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    model = interp.load(transformers.BartModel(config).eval())
    with pytest.raises(
        InputError, match="BartModel takes no position_ids, so that its tokens would be shifted; pad on the r"
    ):
        model.batch(sequences(), padding="left")
    same = [[4, 5, 6], [7, 8, 9]]
    assert model.batch(same, padding="left").padding is None


def test_positions_of_a_model_that_counts_ids_end_before_its_table():
    model = interp.load(built("roberta"))
    most = CONTEXT - COMMON["pad_token_id"] - 1
    assert model.capture(token_ids((1, most)), ["entropy"]).ids.shape == (1, most)
    with pytest.raises(InputError, match=rf"{most + 1} tokens, RobertaModel is made for {most}, and its learned posit"):
        model.capture(token_ids((1, most + 1)))


@pytest.mark.parametrize("padding", ["both", None, 1], ids=repr)
def test_another_side(padding: Any, own_model):
    with pytest.raises(InputError, match=f"padding: expected 'right' or 'left', got {padding!r}"):
        interp.load(own_model("llama")).batch([[4], [5, 6]], padding=padding)


def test_a_row_of_padding_alone(own_model):
    model = interp.load(own_model("llama"))
    keep = torch.tensor([[True, True], [False, False]])
    for inputs in (
        Batch(torch.ones(2, 2).long(), keep),
        {"input_ids": torch.ones(2, 2).long(), "attention_mask": keep},
    ):
        with pytest.raises(InputError, match="a row of the batch is padding alone; leave it out"):
            model.capture(inputs)


@pytest.mark.parametrize(
    ("ids", "keep", "said"),
    [
        (
            torch.ones(2, 3),
            torch.ones(2, 3).bool(),
            r"input_ids: expected integers of shape \[B, T\], got torch.float32",
        ),
        (
            torch.ones(3).long(),
            torch.ones(3).bool(),
            r"input_ids: expected integers of shape \[B, T\], got torch.int64 \[3\]",
        ),
        (
            torch.full((1, 3), 61),
            torch.ones(1, 3).bool(),
            "the input holds token id 61, outside of the model's vocabulary",
        ),
        (
            torch.ones(1, 3).long(),
            torch.ones(1, 2).bool(),
            r"attention_mask: expected 0/1 of shape \[1, 3\] as input_ids",
        ),
    ],
)
def test_a_batch_made_by_hand_that_does_not_fit(ids: Tensor, keep: Tensor, said: str, own_model):
    with pytest.raises(InputError, match=said):
        interp.load(own_model("llama")).capture(Batch(ids, keep))


def test_recurrent_layers_that_read_padding_are_not_given_it_before_a_sequence() -> None:
    model = interp.load(next(each for each in HYBRIDS if each.model == "RecurrentGemmaForCausalLM").build())
    short, long = [7, 8, 9, 10], [11, 12, 13, 14, 15, 16, 17]
    with pytest.raises(InputError, match="the recurrent layers of RecurrentGemmaForCausalLM read it as text"):
        model.batch([short, long], padding="left")
    with pytest.raises(InputError, match="give sequences of one length together"):
        model.generate([short, long], 3)
    alone = model.capture([short], ["entropy"])
    padded = model.capture([short, long], ["entropy"])
    torch.testing.assert_close(padded["entropy"][2][:1, :, :4], alone["entropy"][2], rtol=1e-5, atol=1e-6)
    assert len(model.generate([short, short], 3).steps) == 3
