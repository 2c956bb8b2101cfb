"""The demo model has the heads that its card promises, found by a scan through the hooked attention."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

import interp
from interp.heads.registry import detectors


@pytest.fixture(scope="module")
def demo() -> interp.HookedModel:
    return interp.load("demo")


@pytest.fixture(scope="module")
def prose() -> str:
    return resources.files("interp").joinpath("demo/prose.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scores(demo: interp.HookedModel, prose: str) -> interp.HeadScores:
    return interp.scan(demo, text=prose, window=512, progress=False)


def test_every_standard_detector_runs_on_the_demo_model(demo: interp.HookedModel, scores: interp.HeadScores) -> None:
    assert scores.detectors == [name for name, detector in detectors().items() if detector.is_standard_for(demo)]
    assert not scores.settings["left_out"]


def test_there_is_a_previous_token_head(scores: interp.HeadScores) -> None:
    assert scores.of("previous_token")["score"].iloc[0] > 0.5


def test_there_are_two_induction_heads(scores: interp.HeadScores) -> None:
    strongest = scores.of("induction").head(2)
    assert (strongest["score"] > 0.5).all()
    assert (strongest["score"] - 3 * strongest["stderr"] > 10 * strongest["chance"]).all()


def test_heads_sink_to_the_first_token(scores: interp.HeadScores) -> None:
    rows = scores.of("first_token_sink")
    assert rows["score"].iloc[0] > rows["threshold"].iloc[0]
    assert rows["share_above"].iloc[0] > 0.5


def test_induction_heads_lie_above_the_previous_token_heads_that_they_need(scores: interp.HeadScores) -> None:
    previous, induction = scores.of("previous_token"), scores.of("induction")
    assert previous.loc[previous["score"] > 0.5, "layer"].min() < induction.loc[induction["is_above"], "layer"].min()


def test_the_second_copy_of_a_random_span_is_predicted_and_the_first_is_not(demo: interp.HookedModel) -> None:
    generator = torch.Generator().manual_seed(7)
    span = torch.stack([torch.randperm(demo.shape.vocabulary - 2, generator=generator)[:50] + 2 for _ in range(8)])
    bos = torch.full((8, 1), demo.model.config.bos_token_id)
    ids = torch.cat([bos, span, span], dim=1)
    logits = demo.capture(ids, [], logits=True).logits
    assert logits is not None
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")
    assert loss[:, :50].mean() > 5
    assert loss[:, 51:].mean() < 1


def test_without_its_previous_token_heads_the_model_has_no_induction_heads(demo: interp.HookedModel) -> None:
    # Negative control: a detector that found induction here would measure something else.
    model = type(demo.model)(demo.model.config)
    model.load_state_dict(demo.model.state_dict())
    with torch.no_grad():
        for layer in model.model.layers[:2]:
            layer.self_attn.o_proj.weight.zero_()
    broken = interp.load(model.eval(), tokenizer=demo.tokenizer)
    assert interp.scan(broken, ["induction"], progress=False).of("induction")["score"].iloc[0] < 0.2


def test_the_whole_folder_is_at_most_sixteen_megabytes() -> None:
    folder = resources.files("interp").joinpath("demo/model")
    assert sum(len(file.read_bytes()) for file in folder.iterdir() if file.is_file()) <= 16_000_000
