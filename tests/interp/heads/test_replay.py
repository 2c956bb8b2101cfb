"""A trial replayed: against dense maps over the final text, on a circuit made by hand, and bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads import Needle, Replay, needle_trials, replay
from interp.heads.trials import Trial
from interp.models.hooked import HookedModel
from tests.interp.circuits_retrieval import retrieval_circuit
from tests.interp.dense import eager_maps
from tests.interp.tiny import ARCHITECTURES
from tests.interp.words import text_of, words_tokenizer

NEEDLE = Needle("w50 w51 w52 w53 w54 w55", "w52 w53 w54 w55")


@pytest.fixture(scope="module")
def circuit() -> HookedModel:
    return interp.load(retrieval_circuit(), tokenizer=words_tokenizer())


@pytest.fixture(scope="module")
def trial(circuit: HookedModel) -> Trial:
    hay = text_of(torch.randint(3, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist())
    return needle_trials(circuit, lengths=[40], depths=[50], needles=[NEEDLE], haystack=hay, max_new_tokens=4)[0]


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_weights_are_those_of_the_dense_maps_over_the_final_text(name: str):
    """The library's eager softmax is taken in float32: 48 weights of at most 1 are right to 48 * 2^-24 < 3e-6 at worst."""
    dense = ARCHITECTURES[name].build(kernel="eager", eos_token_id=None).double()
    model = interp.load(dense, tokenizer=words_tokenizer())
    ids = torch.randint(3, 40, (36,), generator=torch.Generator().manual_seed(1)).numpy()
    needle, answer = (4, 5, 6, 30, 31), (6, 30)
    found = replay(model, Trial(0, 36, 50.0, 50.0, 0, ids, needle, answer, "w3", (), 12), ["L1H1", "L0H0"], top=3)
    tokenizer = words_tokenizer()
    new = [tokenizer.convert_tokens_to_ids(token.strip()) for token in found.new]
    text = torch.tensor([[*ids.tolist(), *new]])
    maps = eager_maps(dense, text, torch.ones_like(text, dtype=torch.bool))
    for m, (layer, head) in enumerate([(1, 1), (0, 0)]):
        for n, token in enumerate(new):
            row = maps[layer][0, head, 35 + n].numpy()
            order = np.argsort(-row, kind="stable")[:3]
            np.testing.assert_allclose(found.weight[n, m], row[order], rtol=0, atol=3e-6)
            np.testing.assert_allclose(row[found.position[n, m]], row[order], rtol=0, atol=3e-6)
            np.testing.assert_allclose(found.on_needle[n, m], row[list(needle)], rtol=0, atol=3e-6)
            assert found.on_answer[n, m] == pytest.approx(row[6] + row[30], abs=6e-6)
            top = int(found.position[n, m, 0])
            assert found.copied[n, m] == (top in answer and ids[top] == token)


def test_the_circuits_retrieval_head_copies_at_every_step(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, ["L1H0", "L0H1"])
    assert found.heads == ("L1H0", "L0H1")
    assert found.copied.T.tolist() == [[True] * 4, [False] * 4]
    assert found.position[:, 0, 0].tolist() == list(trial.answer)
    assert found.recall == 100.0
    assert found.on_answer[:, 0].min() > 0.99
    assert "L1H0 4 of 4, L0H1 0 of 4" in found.summary()


def test_what_was_written_grows_by_a_token_a_step_and_recall_with_it(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, "L1H0")
    assert found.writing == ("w52", "w52 w53", "w52 w53 w54", "w52 w53 w54 w55")
    assert found.recall_by_step.tolist() == [25.0, 50.0, 75.0, 100.0]
    demo = interp.load("demo")
    trial = needle_trials(demo, lengths=[200], depths=[50])[0]
    found = replay(demo, trial, "L2H5")
    assert found.writing[-1] == found.text
    assert found.recall_by_step[-1] == found.recall


def test_one_row_a_step_head_and_rank(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, ["L1H0", "L0H1"], top=2)
    frame = found.to_frame()
    assert len(frame) == 4 * 2 * 2
    first = frame[(frame["head"] == "L1H0") & (frame["rank"] == 0)]
    assert first["key"].tolist() == first["token"].tolist() == list(found.new)
    assert first["part"].tolist() == ["answer"] * 4
    assert first["copied"].all()
    assert not frame[frame["rank"] > 0]["copied"].any()


def test_parts_of_the_text(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, "L1H0")
    parts = [found.part(at) for at in (-1, 0, trial.statement[0], trial.answer[0], trial.length)]
    assert parts == ["", "prompt", "needle", "answer", "generated"]
    assert (found.token(-1), found.token(trial.length)) == ("", found.new[0])


def test_a_weight_that_does_not_exist_has_no_key(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, "L1H0", top=60)
    assert (found.position[0, 0, 40:] == -1).all()
    assert (found.weight[0, 0, 40:] == 0).all()
    assert set(found.to_frame().query("position < 0")["part"]) == {""}


def test_edits_in_force_apply(circuit: HookedModel, trial: Trial):
    with circuit.edited(interp.edits.ablate("L1H0")):
        assert replay(circuit, trial, "L1H0").recall == 0.0


def test_the_figure_frames_what_was_copied(circuit: HookedModel, trial: Trial):
    found = replay(circuit, trial, ["L1H0", "L0H1"])
    grid, frames, _other, none = found.plot().data
    assert np.array(grid.z).shape == (4, len(trial.statement) + 1)
    np.testing.assert_allclose(np.array(grid.z).sum(axis=1), 1.0, rtol=0, atol=1e-6)
    assert [trial.statement[x] for x in frames.x] == list(trial.answer)
    assert list(frames.y) == [0, 1, 2, 3]
    assert len(none.x) == 0
    assert found.plot().to_dict()["layout"]["annotations"][0]["text"] == "L1H0: copied 4 of 4"


def test_markup_in_tokens_is_text_in_the_figure(circuit: HookedModel, trial: Trial):
    from dataclasses import replace

    found = replay(circuit, trial, "L1H0")
    hostile = replace(found, new=("<b>x</b>", *found.new[1:]), prompt=("<a href='x'>",) * len(found.prompt))
    figure = hostile.plot()
    assert figure.to_dict()["layout"]["yaxis"]["ticktext"][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert "<a" not in str(figure.data[0].customdata)


def test_it_is_saved_and_read_back(circuit: HookedModel, trial: Trial, tmp_path: Path):
    found = replay(circuit, trial, "L1H0")
    found.save(tmp_path / "kept")
    again = Replay.load(tmp_path / "kept")
    assert again.to_frame().equals(found.to_frame())
    assert again.settings == found.settings
    moved = replay(circuit, replace(trial, ids=trial.ids[::-1].copy()), "L1H0")
    assert moved.settings["inputs"]["sha256"] != found.settings["inputs"]["sha256"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trial": 3}, "trial: expected one of interp.heads.needle_trials, got 3"),
        ({"heads": []}, "heads: expected at least one head"),
        ({"heads": "L9H0"}, "9"),
        ({"heads": "L1H7"}, "7"),
        ({"top": 0}, "top: expected how many weights to keep, an integer of at least 1, got 0"),
        ({"top": True}, "top: expected how many weights to keep"),
    ],
)
def test_bad_input_is_refused(circuit: HookedModel, trial: Trial, given: dict, said: str):
    with pytest.raises(InputError, match=said):
        replay(circuit, **{"trial": trial, "heads": "L1H0", **given})
