"""Needle trials: exact lengths, known places, prompts of each kind, recall by hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2Tokenizer

import interp
from interp.errors import InputError
from interp.heads import Needle, needle_recall, needle_trials
from interp.heads.haystack import built_in_haystack, haystack_of
from interp.heads.needles import built_in_needles
from interp.heads.recall import unigram_recall
from interp.heads.trials import Trial
from interp.models.hooked import HookedModel
from tests.interp.tiny import ARCHITECTURES
from tests.interp.words import words_tokenizer

TEXT = "w5 w6 w7 w8 w9 w10 w11 w12 " * 30
NEEDLE = Needle("w50 w51 w52 w53", "w52 w53", question="w54 w55")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return interp.load("demo")


@pytest.fixture
def model(own_model) -> HookedModel:
    """A context of 256 tokens."""
    return interp.load(own_model("llama"), tokenizer=words_tokenizer())


def text_at(model: HookedModel, trial: Trial, positions: tuple[int, ...]) -> str:
    assert model.tokenizer is not None
    return str(model.tokenizer.decode(trial.ids[list(positions)].tolist()))


# Built-in trials


def test_default_trials_of_the_demo_fit_its_context(demo: HookedModel):
    trials = needle_trials(demo)
    assert len(trials) == 5 * 5 * 3
    assert max(trial.length for trial in trials) == 1024 - 50
    assert [trial.number for trial in trials] == list(range(75))
    assert [(t.depth, t.needle) for t in trials[:4]] == [(0.0, 0), (0.0, 1), (0.0, 2), (25.0, 0)]


def test_every_trial_has_its_length_and_its_needle_where_it_says(demo: HookedModel):
    needles = built_in_needles(4, seed=5)
    for trial in needle_trials(demo, needles=4, seed=5, lengths=[200, 413]):
        needle = needles[trial.needle]
        assert len(trial.ids) == trial.length
        assert text_at(demo, trial, trial.statement) == f" {needle.statement}"
        assert text_at(demo, trial, trial.answer).strip() == needle.answer == trial.asked
        assert trial.stop == ("\n", ".")
        assert text_at(demo, trial, tuple(range(trial.length))).endswith(f" {needle.cloze}")
        assert trial.ids[0] == demo.model.config.bos_token_id


def test_needles_stand_between_sentences_near_their_depth(demo: HookedModel):
    for trial in needle_trials(demo, lengths=[400], depths=[0, 10, 33.3, 50, 80, 100]):
        before = text_at(demo, trial, tuple(range(1, trial.statement[0])))
        assert before == "" or before.rstrip()[-1] in '.!?"'
        assert abs(trial.depth - trial.placed) < 10
        if trial.depth in (0, 100):
            assert trial.placed == trial.depth


def test_the_haystack_is_the_text_without_the_needle(demo: HookedModel):
    """Whatever the depth, the rest of the prompt is one stretch of the text, and ends with a sentence."""
    rests = set()
    for trial in needle_trials(demo, lengths=[300], needles=1):
        rest = [i for position, i in enumerate(trial.ids) if position not in trial.statement]
        rests.add(tuple(rest))
    assert len(rests) == 1
    assert demo.tokenizer is not None
    text = demo.tokenizer.decode(rests.pop()[1:])
    hay = text[: text.rindex(" Remember:")]
    prose = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text("utf-8")
    assert hay in prose
    assert hay[-1] in '.!?"'


def test_built_in_needles_are_numbers_and_words_about_different_people():
    needles = built_in_needles(12, seed=3)
    assert needles == built_in_needles(12, seed=3) != built_in_needles(12, seed=4)
    assert [needle.answer.isdigit() for needle in needles] == [True, False] * 6
    assert len({needle.question for needle in needles}) == 12
    for needle in needles:
        assert needle.statement.endswith(f" {needle.answer}.")
        assert needle.cloze == f"Remember: {needle.statement.removesuffix(f' {needle.answer}.')}"


def test_the_built_in_haystack_goes_on_without_repeating_itself(demo: HookedModel):
    assert demo.tokenizer is not None
    hay = built_in_haystack(demo.tokenizer, 20_000)
    assert hay.ids.size >= 20_000
    made_up = [sentence for sentence in hay.text[4000:].split(". ") if len(sentence) > 20]
    assert len(made_up) > 500
    assert len(set(made_up)) == len(made_up)
    assert built_in_haystack(demo.tokenizer, 20_000).ids.tolist() == hay.ids.tolist()
    assert built_in_haystack(demo.tokenizer, 20_000, seed=1).ids.tolist() != hay.ids.tolist()


# Texts and prompts of one's own


def test_a_text_without_sentences_is_cut_at_the_very_depth(model: HookedModel):
    trial = needle_trials(model, haystack=TEXT, needles=[NEEDLE], lengths=[47], depths=[50])[0]
    # BOS, 40 words of text, 4 of the needle, 2 of the cloze.
    assert trial.statement == (21, 22, 23, 24)
    assert trial.answer == (23, 24)
    assert trial.ids[-2:].tolist() == [50, 51]
    assert trial.placed == 50.0
    assert trial.stop == ("\n",)


def test_a_text_can_be_a_file(model: HookedModel, tmp_path: Path):
    (tmp_path / "hay.txt").write_text(TEXT)
    given = {"needles": [NEEDLE], "lengths": [60]}
    from_file = needle_trials(model, haystack=tmp_path / "hay.txt", **given)
    direct = needle_trials(model, haystack=TEXT, **given)
    assert [t.ids.tolist() for t in from_file] == [t.ids.tolist() for t in direct]
    with pytest.raises(InputError, match=r"haystack .*nowhere.txt: there is no such file"):
        needle_trials(model, haystack=tmp_path / "nowhere.txt", **given)


def test_the_window_ends_with_a_sentence():
    hay = haystack_of("w5 w6 w7 . w8 w9 . w10 w11 w12 .", words_tokenizer(), 20)
    ids, gaps = hay.window(5)
    assert ids.tolist() == hay.ids[2:7].tolist()
    assert gaps.tolist() == [0, 2, 5]


def test_chat_models_are_asked_through_their_template(own_model):
    tokenizer = words_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    trial = needle_trials(model, haystack=TEXT, needles=[NEEDLE], lengths=[60], depths=[0])[0]
    assert len(trial.ids) == 60
    assert text_at(model, trial, trial.statement) == NEEDLE.statement
    # The question's own words, then what opens the answer; neither is in the vocabulary but for the question.
    assert [i for i in trial.ids if i in (54, 55)] == [54, 55]
    cloze = needle_trials(model, haystack=TEXT, needles=[NEEDLE], lengths=[60], prompt="cloze")[0]
    assert trial.ids[-4:].tolist() != cloze.ids[-4:].tolist()
    assert trial.stop == ("\n",)


def test_a_base_model_can_be_asked_a_question(demo: HookedModel):
    trial = needle_trials(demo, needles=1, lengths=[200], prompt="question")[0]
    text = text_at(demo, trial, tuple(range(trial.length)))
    assert text.endswith(f"Question: {built_in_needles(1)[0].question}\nAnswer:")
    assert len(trial.ids) == 200


def test_needles_are_found_among_the_tokens_of_gpt2(shared_data: Path):
    """Its tokens hold several digits, and a space before the first."""
    model = interp.load(
        ARCHITECTURES["gpt2"].build(vocab_size=50_257),
        tokenizer=GPT2Tokenizer.from_pretrained(shared_data / "tokenizers" / "gpt2"),
    )
    needles = built_in_needles(6)
    for trial in needle_trials(model, needles=6, lengths=[200], depths=[0, 40]):
        assert text_at(model, trial, trial.statement) == f" {needles[trial.needle].statement}"
        assert text_at(model, trial, trial.answer).strip() == needles[trial.needle].answer
        assert len(trial.ids) == 200


# Recall


@pytest.mark.parametrize(
    ("reference", "answer", "recall"),
    [
        ("48213", " 48213.", 100.0),
        ("48213", "4821", 0.0),
        ("48213", "", 0.0),
        ("walnut saddle", "The saddle, of WALNUT", 100.0),
        ("walnut saddle", "walnut walnut", 50.0),
        ("a rose is a rose", "a rose", 40.0),  # of a, a, rose, rose, is: one a and one rose
        ("a rose is a rose", "rose rose rose a", 60.0),
        ("don't", "don", 50.0),
        ("Straße und Öl", "strasse öl", 200 / 3),
        ("秘密 数", "数", 50.0),
    ],
)
def test_recall_is_the_share_of_the_references_words(reference: str, answer: str, recall: float):
    assert unigram_recall(reference, answer) == pytest.approx(recall)


def test_recall_of_no_words_is_not_defined():
    with pytest.raises(InputError, match=r"recall of '\.\.\.' is not defined: it has no words"):
        unigram_recall("...", "word")


def test_the_demo_finds_needles_by_four_heads_together(demo: HookedModel):
    """No one of them is needed, all of them are; and so is the head of the layer before that tells them what came before."""
    trials = needle_trials(demo, lengths=[200, 300], depths=[60], needles=2, max_new_tokens=12)
    together = ("L2H2", "L2H3", "L2H4", "L2H5")

    def recall(*heads: str) -> float:
        with demo.edited(interp.edits.ablate(*heads)):
            return float(needle_recall(demo, trials).mean())

    assert needle_recall(demo, trials).tolist() == [100.0] * 4
    assert [recall(head) for head in together] == [100.0] * 4
    assert recall(*together) == 0.0
    assert recall("L2H0", "L2H1", "L3H0", "L3H1") == 100.0
    assert recall("L1H5") == 0.0


def test_an_answer_ends_where_it_should(demo: HookedModel):
    from interp.heads.recall import answer_to, written

    trial = needle_trials(demo, lengths=[200], depths=[50], needles=1)[0]
    assert written(answer_to(demo, trial)).strip() == f"{trial.asked}."
    on = answer_to(demo, replace(trial, stop=(), max_new_tokens=12))
    assert len(on.steps) == 12
    assert demo.tokenizer is not None
    one = answer_to(demo, replace(trial, stop=(trial.asked[0],)))
    assert written(one).strip() == trial.asked[0]


def test_a_model_that_ends_at_once_has_no_recall(own_model):
    """Its first token is the end of the sequence: no generated answer."""
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer())
    trials = needle_trials(model, haystack=TEXT, needles=[NEEDLE], lengths=[40], depths=[50])
    first = model.generate(trials[0].ids.tolist(), 1).ids[0, -1].item()
    before = model.model.generation_config.eos_token_id
    model.model.generation_config.eos_token_id = first
    try:
        assert needle_recall(model, trials).tolist() == [0.0]
    finally:
        model.model.generation_config.eos_token_id = before


# Bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"depths": [50, 101]}, r"depths: expected numbers from 0 to 100 \(percent of the haystack\), got 101"),
        ({"depths": [-1]}, "depths: expected numbers from 0 to 100 .*, got -1"),
        ({"depths": [float("nan")]}, "depths: expected numbers from 0 to 100 .*, got nan"),
        ({"depths": ["50"]}, "depths: expected numbers from 0 to 100 .*, got '50'"),
        ({"depths": []}, r"depths: expected at least one number from 0 to 100 \(percent\), got \[\]"),
        ({"depths": [10, 10.0]}, r"depths: \[10.0, 10.0\] holds a depth twice"),
        (
            {"lengths": [300]},
            "lengths: a prompt of 300 tokens and an answer of up to 50 .* 256; give at most 206, or fewer",
        ),
        ({"lengths": [207]}, "give at most 206, or fewer max_new_tokens; or allow it with beyond_context=True"),
        ({"lengths": [7]}, "lengths: 7 tokens have no room for needle and question, which take 7; give longer ones"),
        ({"lengths": [40.5]}, "lengths: expected integers, numbers of tokens, got 40.5"),
        ({"lengths": 40}, "lengths: expected at least one number of tokens, got 40"),
        ({"lengths": [40, 40]}, r"lengths: \[40, 40\] holds a length twice"),
        (
            {"longest": 60},
            "longest=60, and needle and question .7 tokens. and an answer of up to 50 leave no room for a hay",
        ),
        ({"longest": 60, "lengths": [40]}, "longest: expected no lengths beside it, got 60"),
        ({"longest": 300}, "longest: 300 tokens are more than the context of LlamaForCausalLM, 256"),
        ({"needles": []}, r"needles: expected at least one interp.heads.Needle, or how many, got \[\]"),
        ({"needles": 0}, "needles: expected needles, or how many from 1 to "),
        ({"needles": ["w5"]}, r"needles\[0\]: expected an interp.heads.Needle\(statement, answer\), got 'w5'"),
        ({"needles": [Needle("", "w5")]}, r"needles\[0\].statement is empty"),
        ({"needles": [NEEDLE, Needle("w5 w6", " ")]}, r"needles\[1\].answer is empty"),
        ({"needles": [Needle("w5 w6", "w6", cloze="")]}, r"needles\[0\].cloze is empty; give a text, or None"),
        ({"needles": [Needle("w5 w6", "w7")]}, r"needles\[0\].answer: 'w7' does not stand in the statement 'w5 w6'"),
        ({"needles": [Needle("w5 w6", " w6")]}, r"needles\[0\].answer: ' w6' begins or ends with white space"),
        (
            {"needles": [Needle("w5 ->", "->")]},
            r"needles\[0\].answer: '->' has no letter or digit, and recall is of words",
        ),
        ({"needles": [NEEDLE, NEEDLE]}, r"needles: 0 and 1 are the same \('w50 w51 w52 w53'\); give each needle once"),
        ({"needles": [Needle("w50 w51", "w50")]}, r"needles\[0\]: its answer begins the statement, .*; give cloze="),
        (
            {"needles": [Needle("w5 w50", "w50")], "prompt": "question"},
            r"needles\[0\].question: a question prompt asks a que",
        ),
        ({"prompt": "chat"}, "prompt: 'chat' needs a tokenizer with a chat template, and this one has none"),
        ({"prompt": "cloz"}, r"prompt: unknown 'cloz'; did you mean 'cloze'\?"),
        (
            {"haystack": "w5 w6"},
            "haystack: it has 2 tokens, and a prompt of 100 needs 93 of them; give a longer text or shorter",
        ),
        ({"haystack": " "}, "haystack: expected a text or the Path of a text file, got ' '"),
        ({"haystack": TEXT + " w52 w53"}, r"haystack: the answer of needles\[0\], 'w52 w53', stands in it already"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected an integer of at least 1, got 0"),
        ({"max_new_tokens": 250, "lengths": None}, "is made for 256 tokens, and needle and question .* leave no room"),
        ({"seed": -1}, r"seed: expected an integer from 0 to 2\*\*32 - 1, got -1"),
        ({"stop": "."}, "stop: expected a list of texts that are not empty, got '.'"),
        ({"stop": [""]}, "stop: expected a list of texts that are not empty, got"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(model: HookedModel, given: dict, said: str):
    usual = {"haystack": TEXT, "needles": [NEEDLE]}
    if not {"lengths", "longest"} & given.keys():
        usual["lengths"] = [100]
    with pytest.raises(InputError, match=said):
        needle_trials(model, **{**usual, **given})


def test_beyond_the_context_only_where_positions_are_relative(own_model, tokenizer):
    given = {"haystack": TEXT * 2, "needles": [NEEDLE], "lengths": [300], "beyond_context": True}
    rotary = interp.load(own_model("llama"), tokenizer=tokenizer)
    trials = needle_trials(rotary, **given, max_new_tokens=2)
    assert needle_recall(rotary, trials[:1]).shape == (1,)
    with pytest.raises(InputError, match=r"give at most 206, or fewer max_new_tokens$"):
        needle_trials(interp.load(own_model("gpt2"), tokenizer=tokenizer), **given)


def test_models_that_cannot_answer_are_refused(own_model, tokenizer):
    with pytest.raises(InputError, match="has no tokenizer, and needles are texts; load"):
        needle_trials(interp.load(own_model("llama")))
    with pytest.raises(InputError, match="LlamaModel cannot generate; load the model with its language-model head"):
        needle_trials(interp.load(own_model("llama").model, tokenizer=tokenizer))
    with pytest.raises(InputError, match="needles are looked for by models that read and write one text"):
        needle_trials(interp.load(own_model("bert"), tokenizer=tokenizer))


def test_no_trial(model: HookedModel):
    with pytest.raises(InputError, match="trials: there is none; make some with"):
        needle_recall(model, [])


def test_recall_is_of_float64(model: HookedModel):
    trials = needle_trials(model, haystack=TEXT, needles=[NEEDLE], lengths=[40], depths=[50], max_new_tokens=1)
    recall = needle_recall(model, trials)
    assert recall.dtype == np.float64
    assert recall.shape == (1,)
