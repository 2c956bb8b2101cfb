"""Retrieval heads: scores by their definition on dense maps, a circuit made by hand, what is counted, and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads import Needle, RetrievalHeads, RetrievalResult, needle_trials, retrieval
from interp.heads.answers import copies, measured, scores_of
from interp.heads.trials import Trial
from interp.models.hooked import HookedModel
from tests.interp.circuits_retrieval import RETRIEVAL_HEAD, retrieval_circuit
from tests.interp.dense import eager_maps
from tests.interp.tiny import ARCHITECTURES, who_sees_whom
from tests.interp.words import text_of, words_tokenizer

NEEDLE = Needle("w50 w51 w52 w53 w54 w55", "w52 w53 w54 w55")
FEW_TOKENS = 11


def hay(words: int = 200, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return text_of(torch.randint(3, 40, (words,), generator=generator))


SMALL = {"lengths": [40, 80], "depths": [0, 50, 100], "needles": [NEEDLE], "haystack": hay(), "max_new_tokens": 4}


@pytest.fixture(scope="module")
def circuit() -> HookedModel:
    return interp.load(retrieval_circuit(), tokenizer=words_tokenizer())


@pytest.fixture(scope="module")
def found(circuit: HookedModel) -> RetrievalResult:
    return retrieval(circuit, **SMALL, progress=False)


@pytest.fixture
def random_model(own_model, tokenizer) -> HookedModel:
    """Finds nothing."""
    return interp.load(own_model("llama"), tokenizer=tokenizer)


# A circuit made by hand


@pytest.mark.parametrize("counting", ["code", "set"])
def test_the_retrieval_head_of_a_circuit_scores_1_and_the_others_0(circuit: HookedModel, counting: str):
    result = retrieval(circuit, **SMALL, counting=counting, progress=False)
    by_name = {f"L{row.layer}H{row.head}": row.score for row in result.to_frame().itertuples()}
    assert by_name.pop(RETRIEVAL_HEAD) >= 0.99
    assert max(by_name.values()) <= 0.01
    assert result.found() == [RETRIEVAL_HEAD]
    assert result.trials["recall"].tolist() == [100.0] * 6


def test_a_head_that_looks_into_the_needle_at_the_wrong_token_does_not_copy(circuit: HookedModel):
    """L0H1 looks at a copy of its own token; from the second step on one stands in the needle."""
    trial = needle_trials(circuit, **SMALL)[1]
    generation = circuit.generate(trial.ids.tolist(), 4, ["peak"])
    ids = generation.ids[0].tolist()
    peaks = [int(step["peak_index"][0][0, 1, 0]) for step in generation.steps]
    assert [ids[peak] for peak in peaks] == ids[trial.length - 1 : -1]
    assert set(peaks) & set(trial.answer)
    assert [int(step["peak_index"][1][0, 0, 0]) for step in generation.steps] == list(trial.answer)


def test_without_the_retrieval_head_nothing_is_found(circuit: HookedModel):
    trials = needle_trials(circuit, **SMALL)
    assert interp.heads.needle_recall(circuit, trials).tolist() == [100.0] * 6
    with circuit.edited(interp.edits.ablate(RETRIEVAL_HEAD)):
        assert interp.heads.needle_recall(circuit, trials).tolist() == [0.0] * 6
        assert retrieval(circuit, **SMALL, progress=False).trials["recall"].tolist() == [0.0] * 6
    with circuit.edited(interp.edits.ablate("L0H1", "L1H1")):
        assert interp.heads.needle_recall(circuit, trials).tolist() == [100.0] * 6


def test_a_repeated_answer_counts_twice_in_the_code_and_once_as_a_set(circuit: HookedModel):
    """The cloze follows the haystack's end, so that the circuit goes round: needle, rest of the text, cloze, needle."""
    few = {**SMALL, "lengths": [40], "depths": [100], "max_new_tokens": 11}
    code, as_set = (retrieval(circuit, **few, counting=counting, progress=False) for counting in ("code", "set"))
    assert code.trials["text"][0].split() == "w52 w53 w54 w55 w50 w51 w52 w53 w54 w55 w50".split()
    assert code.scores[1, 0] > 1.0
    assert as_set.scores[1, 0] == 1.0


def test_tokens_of_the_whole_statement_can_be_scored(circuit: HookedModel):
    result = retrieval(circuit, **SMALL, scored="statement", progress=False)
    assert result.scores[1, 0] == pytest.approx(4 / 6)


# The definition, on dense maps


def oracle(trial: Trial, new: list[int], maps: list[np.ndarray], visible: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores and chance of both countings, step by step from whole maps [H, T, T] and from who sees whom [T, T]."""
    needle = [trial.ids[j] for j in trial.answer]
    kinds = sorted(set(needle))
    heads = maps[0].shape[0]
    code, copied = np.zeros((len(maps), heads)), [[set() for _ in range(heads)] for _ in maps]
    chance, missed = np.zeros(len(maps)), np.ones((len(maps), len(kinds)))
    for n, token in enumerate(new):
        row = len(trial.ids) - 1 + n
        for layer, p in enumerate(maps):
            for head in range(heads):
                j = int(p[head, row].argmax())
                if j in trial.answer and trial.ids[j] == token:
                    code[layer, head] += 1 / len(needle)
                    copied[layer][head].add(token)
            seen = np.flatnonzero(visible[layer][row])
            share = sum(1 for j in seen if j in trial.answer and trial.ids[j] == token) / len(seen)
            chance[layer] += share / len(needle)
            if token in kinds:
                missed[layer, kinds.index(token)] *= 1 - share
    return {
        "code": code,
        "set": np.array([[len(tokens) / len(kinds) for tokens in row] for row in copied]),
        "code chance": chance,
        "set chance": (1 - missed).mean(axis=1),
    }


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2", "gpt_neox"])
def test_scores_are_those_of_the_dense_maps_over_the_final_text(name: str):
    """A needle of random places in a text of few different tokens, so that random heads copy by chance."""
    architecture = ARCHITECTURES[name]
    dense = architecture.build(kernel="eager", vocab_size=FEW_TOKENS, eos_token_id=None).double()
    model = interp.load(dense, tokenizer=words_tokenizer())
    hits = 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, FEW_TOKENS, (36,), generator=generator).numpy()
        places = tuple(sorted(torch.randperm(36, generator=generator)[:20].tolist()))
        trial = Trial(0, 36, 50.0, 50.0, 0, ids, places, places, "w3", (), 12)
        answer = measured(model, trial, "answer")
        new = list(answer.ids)
        assert len(new) == 12
        text = torch.tensor([[*ids.tolist(), *new]])
        keep = torch.ones_like(text, dtype=torch.bool)
        maps = [p[0].numpy() for p in eager_maps(dense, text, keep)]
        visible = [who_sees_whom(architecture, layer, keep)[0].numpy() for layer in range(len(maps))]
        expected = oracle(trial, new, maps, visible)
        for counting in ("code", "set"):
            np.testing.assert_allclose(answer.scores[counting], expected[counting], rtol=0, atol=1e-12)
            np.testing.assert_allclose(answer.chance[counting], expected[f"{counting} chance"], rtol=0, atol=1e-12)
        hits += int(np.count_nonzero(expected["code"]))
    assert hits >= 3


def test_a_head_copies_only_what_is_generated_and_stands_in_the_needle():
    ids, needle = np.array([7, 8, 9, 8, 5]), (2, 3)
    peaks = np.array([[2, 1, 3, -1], [3, 3, 2, 0]])  # [steps, heads]
    copied = copies(ids, needle, [9, 8], peaks)
    assert copied.tolist() == [[True, False, False, False], [True, True, False, False]]
    scores = scores_of(copied, [9, 8], np.array([9, 8]))
    assert scores["code"].tolist() == scores["set"].tolist() == [1.0, 0.5, 0.0, 0.0]


def test_a_token_that_stands_twice_in_the_needle_counts_once_as_a_set():
    copied = np.array([[True, True], [True, False], [False, False]])
    scores = scores_of(copied, [4, 4, 6], np.array([4, 6, 4]))
    assert scores["code"].tolist() == [2 / 3, 1 / 3]
    assert scores["set"].tolist() == [0.5, 0.5]


def test_scores_without_a_token_of_the_needle_are_0():
    scores = scores_of(np.zeros((1, 2), dtype=bool), [9], np.array([4, 6]))
    assert scores["code"].tolist() == scores["set"].tolist() == [0.0, 0.0]


# Results


def test_only_trials_that_found_the_needle_count(found: RetrievalResult):
    recall = np.array([100.0, 50.0, 0.0, 75.0, 100.0, 50.5])
    scores = np.arange(6, dtype=float).reshape(6, 1, 1) * np.ones((6, 2, 2))
    trials = found.trials.assign(recall=recall, counted=recall > 50)
    result = replace(found, trials=trials, trial_scores=scores, trial_chance=scores[:, :, 0] / 10)
    counted = np.array([0.0, 3.0, 4.0, 5.0])
    assert result.scores.tolist() == [[counted.mean()] * 2] * 2
    np.testing.assert_allclose(result.stderr, counted.std(ddof=1) / 2)
    np.testing.assert_allclose(result.chance, counted.mean() / 10)
    assert set(result.to_frame()["trials"]) == {4}
    assert result.summary().startswith("4 of 6 trials count (recall above 50 %); mean recall 63 %")


def test_without_a_trial_that_counts_scores_are_not_defined(random_model: HookedModel):
    result = retrieval(random_model, **SMALL, progress=False)
    assert not result.counted.any()
    assert np.isnan(result.scores).all()
    assert np.isnan(result.stderr).all()
    assert result.found() == []
    assert not result.to_frame()["is_above"].any()
    assert "0 of 6 trials count" in result.summary()
    assert "scores are not defined" in result.summary()
    heads = result.plot().data[1]
    assert np.isnan(np.array(heads.z, dtype=float)).all()


def test_one_trial_has_no_standard_error(circuit: HookedModel):
    result = retrieval(circuit, **{**SMALL, "lengths": [40], "depths": [50]}, progress=False)
    assert result.scores[1, 0] == 1.0
    assert np.isnan(result.stderr).all()


def test_tables_and_figure(found: RetrievalResult):
    assert found.recall_grid().shape == (2, 3)
    assert found.recall_grid().columns.tolist() == [0.0, 50.0, 100.0]
    frame = found.to_frame()
    assert list(frame) == ["layer", "head", "score", "stderr", "chance", "threshold", "is_above", "trials"]
    assert len(frame) == 4
    recall, heads, marks = found.plot().data
    assert np.array(recall.z).tolist() == [[100.0] * 3] * 2
    assert (recall.zmin, recall.zmax, heads.zmin, heads.zmax) == (0, 100, 0, 1)
    assert (list(marks.x), list(marks.y)) == ([0], [1])


def test_a_result_is_saved_and_read_back(found: RetrievalResult, tmp_path: Path):
    found.save(tmp_path / "kept")
    again = RetrievalResult.load(tmp_path / "kept")
    assert again.trial_scores.tobytes() == found.trial_scores.tobytes()
    assert again.trials.equals(found.trials)
    assert again.settings == found.settings
    assert again.summary() == found.summary()


def test_settings_say_how_it_was_made(found: RetrievalResult):
    constants = found.settings["constants"]
    assert constants["lengths"] == [40, 80]
    assert constants["needles"][0]["statement"] == NEEDLE.statement
    assert (constants["counting"], constants["scored"], constants["recall_above"]) == ("code", "answer", 50.0)
    assert "2404.15574" in found.settings["source"]
    assert found.settings["model"]["model"] == "GPT2LMHeadModel"
    assert len(found.settings["inputs"]["sha256"]) == 64


def test_the_same_again_gives_the_same_numbers(circuit: HookedModel, found: RetrievalResult):
    again = retrieval(circuit, **SMALL, progress=False)
    assert again.trial_scores.tobytes() == found.trial_scores.tobytes()
    assert again.trial_chance.tobytes() == found.trial_chance.tobytes()
    assert again.settings == found.settings


# The detector


def test_as_a_detector(circuit: HookedModel):
    detector = RetrievalHeads(lengths=(40, 80), depths=(0.0, 50.0, 100.0), needles=(NEEDLE,), max_new_tokens=4)
    scores = interp.scan(circuit, detector, text=hay(), progress=False)
    frame = scores.to_frame()
    assert scores.grid("retrieval").tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert set(frame["samples"]) == {6}
    assert 0.01 < frame["chance"].iloc[0] < 0.05
    assert "6 needles in the text, prompts of 40, 80 tokens" in scores.settings["inputs"]["retrieval"]


def test_a_detector_without_a_needle_found_is_not_defined(random_model: HookedModel):
    detector = RetrievalHeads(lengths=(40,), depths=(50.0,), needles=(NEEDLE,), max_new_tokens=4)
    scores = interp.scan(random_model, detector, text=hay(), progress=False)
    assert np.isnan(scores.grid("retrieval")).all()
    assert not scores.to_frame()["is_above"].any()
    assert "retrieval" in repr(scores)


def test_models_that_cannot_answer_are_refused_by_the_detector(own_model, tokenizer):
    with pytest.raises(
        InputError, match=r"detector 'retrieval' cannot be run: .* has no tokenizer, and needles are texts"
    ):
        interp.scan(interp.load(own_model("llama")), "retrieval", progress=False)
    with pytest.raises(InputError, match="'retrieval' cannot be run: it is defined for heads that look back only"):
        interp.scan(interp.load(own_model("bert"), tokenizer=tokenizer), "retrieval", progress=False)
    bare = interp.load(own_model("llama").model, tokenizer=tokenizer)
    with pytest.raises(InputError, match="'retrieval' cannot be run: LlamaModel cannot generate"):
        interp.scan(bare, "retrieval", progress=False)


def test_the_demos_retrieval_heads_are_its_induction_heads():
    demo = interp.load("demo")
    result = retrieval(demo, lengths=[200, 400], depths=[0, 50], needles=2, progress=False)
    assert result.counted.all()
    assert sorted(result.found()) == ["L2H2", "L2H3", "L2H4", "L2H5"]
    scores = result.scores
    assert scores[2, 2:].min() > 0.7
    assert np.delete(scores, 2, axis=0).max() < 0.1
    assert (result.chance > 0).all()
    assert (result.chance < 0.02).all()


# Bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"counting": "sets"}, r"counting: unknown 'sets'; did you mean 'set'\?"),
        ({"scored": "needle"}, r"scored: unknown 'needle'; known: answer, statement"),
        ({"threshold": 1.5}, "threshold: expected a number of at least 0 and below 1, got 1.5"),
        ({"threshold": -0.1}, "threshold: expected a number of at least 0 and below 1, got -0.1"),
        ({"threshold": math.nan}, "threshold: expected a number of at least 0 and below 1, got nan"),
        ({"recall_above": 100}, "recall_above: expected a number of at least 0 and below 100, got 100"),
        ({"recall_above": True}, "recall_above: expected a number of at least 0 and below 100, got True"),
    ],
)
def test_options_out_of_range_are_refused(circuit: HookedModel, given: dict, said: str):
    with pytest.raises(InputError, match=said):
        retrieval(circuit, **SMALL, **given, progress=False)
