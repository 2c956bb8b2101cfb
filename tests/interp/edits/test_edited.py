"""The context: what is edited inside, and that everything is as before afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp import edits
from interp.models.call import AttentionCall
from tests.interp.edits.cases import T, case
from tests.interp.tiny import ARCHITECTURES, CONTEXT, VOCABULARY, right_padded, token_ids

IDS = token_ids((2, 20))


@pytest.fixture
def model() -> interp.HookedModel:
    return interp.load(ARCHITECTURES["llama"].build().double())


def logits(model: interp.HookedModel, ids: Tensor = IDS) -> Tensor:
    """By a plain call, which knows nothing of interp."""
    with torch.no_grad():
        return model.model(input_ids=ids, use_cache=False).logits


def captured(model: interp.HookedModel) -> Tensor:
    found = model.capture(IDS, [], logits=True).logits
    assert found is not None
    return found


def test_every_kind_of_run_inside_is_edited(model: interp.HookedModel) -> None:
    before = logits(model)
    with model.edited([edits.ablate("L0H1")]) as same:
        assert same is model
        inside = logits(model)
        assert torch.equal(logits(model), inside)  # one run after another
        capture = model.capture(IDS, ["peak"], logits=True)
        assert model.maps(IDS).keys() == {0, 1}
        assert torch.equal(logits(model), inside)  # and after a capture
        with torch.no_grad():
            assert torch.equal(model(IDS).logits, inside)
    assert (inside - before).abs().max() > 1e-2
    torch.testing.assert_close(capture.logits, inside, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits(model), before)


def test_a_capture_says_how_it_was_edited(model: interp.HookedModel) -> None:
    mask = torch.arange(20) > 15
    given = [
        edits.scale("L0H1", "1.2", factor=0.5),
        edits.cut(queries=mask, keys=slice(2), layers=[1], renormalize=False),
        edits.recalibrate(keys=3, heads=(0, 1)),
    ]
    assert "edits" not in model.capture(IDS, []).facts
    with model.edited(given):
        assert model.capture(IDS, []).facts["edits"] == [
            "scale(heads=('L0H1', '1.2'), factor=0.5)",
            "cut(heads='all', layers=(1,), edges=<queries mask [20] with 4 chosen, keys :2>, renormalize=False)",
            "recalibrate(heads=(0, 1), keys=[3], factor=0.4)",
        ]


def test_contexts_nest_and_add_up(model: interp.HookedModel) -> None:
    first, second = edits.scale("L0H1", factor=3), edits.cut(keys=[0], heads="L1H2")
    with model.edited([first, second]):
        both = logits(model)
    with model.edited(first):
        one = logits(model)
        with model.edited([second]):
            assert torch.equal(logits(model), both)
        assert torch.equal(logits(model), one)
    assert not torch.equal(one, both)


@pytest.mark.parametrize("stop", [KeyError, KeyboardInterrupt])
def test_the_model_is_as_before_whatever_happens(model: interp.HookedModel, stop: type[BaseException]) -> None:
    before = logits(model)

    def interrupt(*_: object) -> None:
        raise stop

    handle = model.model.model.layers[1].register_forward_hook(interrupt)
    with pytest.raises(stop), model.edited(edits.ablate("L0H1")):
        model.capture(IDS)
    handle.remove()
    assert torch.equal(logits(model), before)
    assert model.model.config._attn_implementation == "sdpa"
    assert "edits" not in model.facts()


def test_edits_that_do_not_fit_leave_the_model_as_it_was(model: interp.HookedModel) -> None:
    before = logits(model)
    with pytest.raises(interp.errors.InputError), model.edited([edits.ablate("L0H1"), edits.ablate("L0H9")]):
        pytest.fail("entered")
    assert torch.equal(logits(model), before)


def test_another_model_inside_is_not_edited(model: interp.HookedModel) -> None:
    other = interp.load(ARCHITECTURES["llama"].build(seed=1).double())
    before = captured(other)
    with model.edited(edits.ablate("all")):
        assert torch.equal(captured(other), before)


def test_other_threads_are_not_edited(model: interp.HookedModel) -> None:
    before, measured = logits(model), captured(model)
    found: list[Tensor] = []

    def run() -> None:
        found.append(logits(model))
        found.append(captured(model))

    with model.edited(edits.ablate("L0H1")):
        inside = logits(model)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert torch.equal(logits(model), inside)
    assert torch.equal(found[0], before)
    assert torch.equal(found[1], measured)


def test_a_model_whose_layers_share_a_module_is_edited_layer_by_layer() -> None:
    config = transformers.AlbertConfig(
        vocab_size=VOCABULARY,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=CONTEXT,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = interp.load(transformers.AlbertModel(config).eval().double())
    run = model.capture(IDS, [], outputs=True)["output"]
    with model.edited(edits.ablate("L1H2")):
        with torch.no_grad():
            plain = [model(IDS).last_hidden_state for _ in range(2)]
        edited = model.capture(IDS, [], outputs=True)["output"]
    assert torch.equal(*plain)
    assert torch.equal(edited[0], run[0])
    assert torch.equal(edited[1][:, [0, 1, 3]], run[1][:, [0, 1, 3]])
    assert not edited[1][:, 2].any()
    assert edited[2][:, 2].abs().min() > 0


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_positions_mean_the_same_tokens_while_generating(name: str) -> None:
    """Each new token's row equals that of one edited run over the whole text, with windows that let go of keys too."""
    hooked, prompt = case(name).hooked, case(name).inputs["input_ids"][:, :12]
    given = [
        edits.cut(queries=slice(12, None), keys=[9, 10, 13, 2], renormalize=False),
        edits.cut(pairs=[(11, 9), (12, 11), (14, 11), (15, 11), (15, 3)], heads=["L0H1", "L1H3"]),
        edits.recalibrate(keys=[8, 10, 14], heads="L1H0", factor=0.2),
        edits.uniform("L0H2"),
        edits.patch("L1H1", source=hooked.capture(token_ids((2, 12), seed=9), [], outputs=True), positions=[3, 11]),
    ]
    with hooked.edited(given):
        generation = hooked.generate(prompt, 5, ["entropy", "peak"], min_new_tokens=5)
        full = hooked.capture(generation.ids, ["entropy", "peak"])
    plain = hooked.capture(generation.ids, ["entropy"])
    check_steps(generation, full, plain)


def test_positions_of_a_decoder_mean_the_same_tokens_while_generating() -> None:
    of = case("t5")
    encoder = {name: of.inputs[name] for name in ("input_ids", "attention_mask")}
    layers = ["decoder.0", "cross.0", "cross.1"]
    given = [
        edits.cut(queries=[0, 2, 4], keys=slice(3, None), layers=["cross.0"], renormalize=False),
        edits.recalibrate(keys=torch.arange(T) < 4, layers=["cross.1"], factor=0.2),
        edits.cut(keys=[0], queries=slice(1, None), layers=["decoder.0"]),
    ]
    with of.hooked.edited(given):
        generation = of.hooked.generate(encoder, 5, ["entropy", "peak"], layers, min_new_tokens=5)
        full = of.hooked.capture({**encoder, "decoder_input_ids": generation.ids}, ["entropy", "peak"], layers)
    plain = of.hooked.capture({**encoder, "decoder_input_ids": generation.ids}, ["entropy"], layers)
    check_steps(generation, full, plain)


def check_steps(generation: interp.Generation, full: interp.Capture, plain: interp.Capture) -> None:
    differs = dict.fromkeys(full.layers, False)
    for number, step in enumerate(generation.steps):
        row = generation.prompt + number - 1
        for layer in full.layers:
            expected = full["entropy"][layer][:, :, row]
            torch.testing.assert_close(step["entropy"][layer][:, :, 0], expected, rtol=1e-10, atol=1e-10)
            assert torch.equal(step["peak_index"][layer][:, :, 0], full["peak_index"][layer][:, :, row])
            differs[layer] |= bool((expected - plain["entropy"][layer][:, :, row]).abs().max() > 1e-2)
    assert len(generation.steps) == 5
    assert all(differs.values())


def test_a_compiled_model_is_edited_as_the_eager_one() -> None:
    """In one graph; with the edits go their graphs. torch's C++ compiler is left out: dynamo traces."""
    torch.compiler.reset()
    model = ARCHITECTURES["gpt_oss"].build().double()
    # The library's eager experts loop over those that tokens chose, which no graph holds.
    model.config._experts_implementation = "batched_mm"
    hooked = interp.load(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _, ids, keep = right_padded((13, 9))
    given = [
        edits.cut(queries=slice(5, None), keys=[1, 2], renormalize=False, heads=["L0H1", "L1H2"]),
        edits.recalibrate(keys=[0, 3], heads=["L0H1", "L0H2"]),
        edits.uniform("L1H0", "L1H2"),
        edits.scale("L1H3", factor=2),
        edits.ablate("L0H0"),
    ]
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=keep.long(), use_cache=False).logits
        with hooked.edited(given):
            expected = model(input_ids=ids, attention_mask=keep.long(), use_cache=False).logits
            for _ in range(2):
                got = compiled(input_ids=ids, attention_mask=keep.long(), use_cache=False).logits
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
        after = compiled(input_ids=ids, attention_mask=keep.long(), use_cache=False).logits
    torch.compiler.reset()
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-11)
    assert (expected - before)[keep].abs().max() > 1e-2


def test_gradients_flow_through_an_edited_model(model: interp.HookedModel) -> None:
    """Of ablated and uniform heads none comes back."""
    weight = model.model.model.layers[0].self_attn.q_proj.weight
    with model.edited([edits.uniform("L0H1"), edits.ablate("L0H3"), edits.cut(keys=[0])]):
        (gradient,) = torch.autograd.grad(model.model(input_ids=IDS).logits.sin().sum(), weight)
    heads = gradient.unflatten(0, (4, -1)).abs().amax(dim=(1, 2))
    assert (heads > 0).tolist() == [True, False, True, False]


def test_an_edit_of_ones_own_is_a_class_with_one_method(model: interp.HookedModel) -> None:
    class Swapped(edits.Edit):
        """Two heads write what the other would."""

        name = "swapped"

        def edited_output(self, call: AttentionCall, heads: tuple[int, ...], output: Tensor) -> Tensor:
            return output.index_copy(1, torch.tensor(heads), output[:, list(heads[::-1])])

    plain = model.capture(IDS, [], layers=[0], outputs=True)["output"][0]
    with model.edited(Swapped(heads=["L0H1", "L0H3"])):
        capture = model.capture(IDS, [], layers=[0], outputs=True)
    assert torch.equal(capture["output"][0], plain[:, [0, 3, 2, 1]])
    assert capture.facts["edits"] == ["swapped(heads=('L0H1', 'L0H3'))"]
