"""Maps of models with several stacks of layers: names, tokens and positions are those of the stack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import interp
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp.plots.profile_comparison import distances_figure
from interp.views import Pyramid, head_profile, top_keys
from tests.interp.tiny import COMMON, HEADS, LAYERS, randomised, tiny_t5

ENCODER = [[5, 6, 7, 8, 9, 10], [5, 6, 7]]
DECODER = [[0, 4, 8], [0, 3]]


def tiny_bart() -> transformers.PreTrainedModel:
    sizes = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", LAYERS), ("attention_heads", HEADS))
    }
    config = transformers.BartConfig(
        **COMMON, **sizes, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, decoder_start_token_id=0
    )
    return randomised(transformers.BartForConditionalGeneration(config).eval())


@pytest.fixture(scope="module", params=["t5", "bart"])
def model(request: pytest.FixtureRequest) -> HookedModel:
    return interp.load(tiny_t5() if request.param == "t5" else tiny_bart())


@pytest.fixture(scope="module")
def maps(model: HookedModel) -> dict[Any, Any]:
    return model.maps(model.batch(ENCODER, decoder=DECODER))


def test_figures_and_summaries_name_the_head_with_its_stack(maps):
    for layer, name in (("encoder.1", "encoder.L1H2"), ("decoder.0", "decoder.L0H2"), ("cross.1", "cross.L1H2")):
        lazy = maps[layer]
        shown = lazy.region(2)
        assert (shown.layer, shown.head, shown.name) == (layer, 2, name)
        assert lazy.plot(2).layout.title.text == name
        assert shown.summary().startswith(f"{name}, queries 0 to")
        assert repr(Pyramid.build(lazy, 2)).startswith(f"Pyramid({name}, ")
        profile = head_profile(lazy, 2)
        assert profile.summary().startswith(f"{name}: ")
        assert profile.plot().layout.title.text == name
    assert maps["cross.1"].difference(2, maps["cross.0"], 1).name == "cross.L1H2 less cross.L0H1"


def test_weights_are_those_that_the_model_itself_computes(model, maps):
    batch = model.batch(ENCODER, decoder=DECODER)
    eager = type(model.model)(model.model.config).eval()
    eager.load_state_dict(model.model.state_dict())
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        own = eager(**batch.arguments, output_attentions=True)
    for stack, found in (
        ("encoder", own.encoder_attentions),
        ("decoder", own.decoder_attentions),
        ("cross", own.cross_attentions),
    ):
        for number in range(LAYERS):
            shown = maps[f"{stack}.{number}"].region(3, batch=1)
            expected = found[number][1, 3, slice(*shown.rows), slice(*shown.cols)].numpy()
            np.testing.assert_allclose(np.nan_to_num(shown.values), expected, atol=1e-6)


def test_axes_of_cross_attention_say_whose_they_are(maps):
    figure: Any = maps["cross.0"].plot(0, batch=1)
    assert figure.layout.xaxis.title.text == "key token, encoder"
    assert figure.layout.yaxis.title.text == "query token, decoder"
    assert list(figure.layout.xaxis.ticktext) == ["5", "6", "7"]
    assert list(figure.layout.yaxis.ticktext) == ["0", "3"]
    assert maps["decoder.0"].plot(0).layout.xaxis.title.text == "key token"


def test_cross_attention_has_no_distances(maps):
    lazy = maps["cross.0"]
    profile = head_profile(lazy, 1)
    assert np.isnan(profile.distance).all()
    assert not profile.has_distance
    assert set(profile.to_frame()["side"]) == {"query", "key"}
    dense = lazy.dense()[0, 1].double()
    np.testing.assert_allclose(profile.received, dense.mean(dim=0), rtol=1e-5)
    assert top_keys(profile, 1)["token"].tolist() == [profile.keys[int(dense.sum(dim=0).argmax())]]
    figure: Any = profile.plot()
    assert [each.text for each in figure.layout.annotations if "two inputs" in each.text]
    with pytest.raises(InputError, match=r"'cross' has no distances, since its queries and keys are of two inputs"):
        distances_figure({"encoder": head_profile(maps["encoder.0"], 1), "cross": profile})
    # Nor has it where the two are as long as one another.
    assert head_profile(maps["decoder.0"], 1).has_distance


def test_of_as_many_tokens_on_both_sides_it_is_still_no_self_attention(model):
    batch = model.batch([[5, 6, 7]], decoder=[[0, 4, 8]])
    maps = model.maps(batch)
    assert maps["cross.0"].shape[2:] == (3, 3)
    assert not head_profile(maps["cross.0"], 0).has_distance
    rows = batch.token_rows[0]
    for source, heads in ((maps["cross.0"], [0]), ({"cross.0": maps["cross.0"]}, None), (maps, "cross.L0H1")):
        with pytest.raises(
            InputError, match=r"map: expected one row of tokens that look at one another, got layer 'cross.0'"
        ):
            interp.token_view(source, rows, heads)
    with pytest.raises(
        InputError, match=r"heads: expected heads of one stack of layers, got decoder, encoder; name those of one"
    ):
        interp.token_view(maps, rows, ["encoder.L0H1", "decoder.L0H1"])
    assert list(interp.token_view(maps, rows, "encoder.L1H3").links) == ["encoder.L1H3"]


def test_some_rows_keep_their_positions(maps):
    for layer in ("encoder.0", "decoder.0", "cross.0"):
        some = maps[layer].of_rows(slice(1, 3))
        assert some.region(0).first_query == 1, layer
        frame = head_profile(some, 0).to_frame()
        assert frame[frame["statistic"] == "entropy"]["position"].tolist() == [1, 2]
        np.testing.assert_allclose(some.region(0).values, maps[layer].region(0, rows=(1, 3)).values, rtol=1e-6)


def test_one_head_of_one_sequence_keeps_its_numbers(own_model):
    model = interp.load(own_model("llama"))
    lazy = model.maps([[7, 8, 9], [7, 8]])[1]
    one = lazy.head(1, 3)
    shown = one.region(0)
    assert (shown.name, shown.batch, shown.kv_head) == ("L1H3", 1, 1)
    assert one.plot(0).layout.title.text == "L1H3"
    assert list(one.plot(0).layout.yaxis.ticktext) == ["7", "8"]
    profile = head_profile(one, 0)
    assert (profile.name, profile.batch, profile.kv_head) == ("L1H3", 1, 1)


def test_layers_with_gaps_are_named_by_the_models_own_numbers():
    from interp.views.map_origin import Origin

    assert Origin.of(7, 4, 2).of_head(3) == Origin(7, (3,), (1,))
    assert not Origin.of("vision.7", 4, 1).is_cross
    assert Origin.of("qformer_cross.7", 4, 1).is_cross
