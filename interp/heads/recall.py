"""Whether a needle was found: the model's answer, and how much of the needle is in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.heads.trials import Trial
from interp.progress import Bar

if TYPE_CHECKING:
    from interp.generation.result import Generation
    from interp.generation.steps import StepProbes
    from interp.models.hooked import HookedModel

WORD = re.compile(r"\w+")


def unigram_recall(reference: str, answer: str) -> float:
    """ROUGE-1 recall, 0 to 100: the share of the reference's words that are in the answer.

    100 sum_w min(n_reference(w), n_answer(w)) / sum_w n_reference(w), over words: runs of letters, digits and underscores of any
    script, in lower case, not stemmed. (The package that Wu et al. use knows a to z and digits alone, and stems words.)

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), with one reference and words of one.

    Raises:
        InputError: the reference has no words.
    """
    wanted, found = (Counter(WORD.findall(text.casefold())) for text in (reference, answer))
    if not wanted:
        raise InputError(f"recall of {reference!r} is not defined: it has no words")
    return 100 * (wanted & found).total() / wanted.total()


def answer_to(model: HookedModel, trial: Trial, probes: Sequence[str] | StepProbes = ()) -> Generation:
    """The model's answer: greedy, with the KV cache, and without the penalties that the model's own settings may hold."""
    from interp.heads.stops import StopAt

    assert model.tokenizer is not None
    return model.generate(
        trial.ids.tolist(),
        trial.max_new_tokens,
        probes,
        prefill_probes=None,
        stopping=[StopAt(trial.stop, model.tokenizer, trial.length)] if trial.stop else [],
        beyond_context=trial.beyond_context,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
    )


def needle_recall(model: HookedModel, trials: Sequence[Trial], *, progress: bool = False) -> np.ndarray:
    """Recall of each trial, in percent, under whatever edits are in force: [trials], float64.

        trials = interp.heads.needle_trials(model)
        with model.edited(interp.edits.ablate("L2H5")):
            recall = interp.heads.needle_recall(model, trials)

    Nothing but the answers is measured, so that it costs what generating them costs.

    Raises:
        InputError: there is no trial, or one that does not fit the model.
        RunError: the activations hold NaN.
    """
    if not isinstance(trials, Sequence) or not all(isinstance(trial, Trial) for trial in trials):
        raise InputError(f"trials: expected those of interp.heads.needle_trials, got {trials!r:.60}")
    if not trials:
        raise InputError("trials: there is none; make some with interp.heads.needle_trials")
    bar = Bar(trials, unit="trial", what=f"recall {model.name}", show=progress)
    return np.array([unigram_recall(trial.asked, written(answer_to(model, trial))) for trial in bar])


def written(generation: Generation) -> str:
    """The text of an answer."""
    assert isinstance(generation.text, str)
    return generation.text
