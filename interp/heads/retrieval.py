"""Retrieval heads: they look at the token of a hidden fact that the model is just about to write.

Source: Wu et al., Retrieval Head Mechanistically Explains Long-Context Factuality (arXiv 2404.15574), and their code,
nightdessert/Retrieval_Head. A needle with the answer k is hidden in a long text, and the model answers by greedy decoding, w_1,
w_2, ... At step n a head copies when the key j that its row gives most to lies in k and w_n = x_j. On one trial its score is

    code   sum_n [copies at n] / |k|
    set    |g ∩ k| / |k| with g the set of tokens that it copied, of different tokens on both sides (the paper's text)

and a head's score is the mean over the trials whose answer has a unigram recall above 50 %. Above 0.1 it is a retrieval head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.errors import InputError
from interp.heads.answers import COUNTINGS, SCORED, Answer, Counting, Scored, measured
from interp.heads.detector import RunDetector, Setting
from interp.heads.detector import Scored as SampleScores
from interp.heads.needles import BUILT_IN, Needle, checked_needles
from interp.heads.prompts import Prompt, prompt_kind
from interp.heads.retrieval_folder import RunFolder, fingerprint
from interp.heads.retrieval_result import RetrievalResult
from interp.heads.trials import NEW_TOKENS, Trial, checksum_of, needle_trials, unfit
from interp.naming import nearest
from interp.progress import Bar
from interp.results.settings import settings_of

if TYPE_CHECKING:
    import pandas as pd

    from interp.models.hooked import HookedModel

THRESHOLD, RECALL_ABOVE = 0.1, 50.0
SOURCE = "Wu et al., arXiv 2404.15574; nightdessert/Retrieval_Head"
METHOD = (
    "mean over trials with recall above {recall_above:g} % of the steps at which a head's largest attention lies on a token of "
    "the needle's {scored} that is the token generated, per token of it ({counting} counting)"
)


def retrieval(
    model: HookedModel,
    *,
    lengths: Sequence[int] | None = None,
    longest: int | None = None,
    depths: Sequence[float] | None = None,
    needles: Sequence[Needle] | int | None = None,
    haystack: str | Path | None = None,
    prompt: Prompt = "auto",
    max_new_tokens: int = NEW_TOKENS,
    stop: Sequence[str] | None = None,
    counting: Counting = "code",
    scored: Scored = "answer",
    threshold: float = THRESHOLD,
    recall_above: float = RECALL_ABOVE,
    folder: str | Path | None = None,
    seed: int = 0,
    beyond_context: bool = False,
    progress: bool = True,
) -> RetrievalResult:
    """Hide needles at lengths x depths, let the model answer, and score every head by what it copied.

    Edits in force apply. Memory is O(T); a trial costs reading its prompt once and writing its answer.

    Args:
        lengths, longest, depths, needles, haystack, prompt, max_new_tokens, stop, seed, beyond_context: of the trials; see
            ``needle_trials``.
        counting: "code", the rule of the code of Wu et al.: each step counts, so that a score may exceed 1 where the answer
            repeats itself; "set", that of their paper's text: different tokens count once.
        scored: which tokens of the needle count: "answer", as in their code, or all of its "statement", of which the answer
            may be a small part.
        threshold: a head with a score above it is a retrieval head.
        recall_above: a trial counts when its recall, in percent, is above it.
        folder: keep each finished trial there. A run with the same settings does only what is missing, and gives the same
            result to the last bit; counting, threshold and recall_above may differ.
        progress: show a progress bar on stderr.

    Raises:
        InputError: what was given does not fit together, the model or the folder; said before anything is run.
        RunError: the activations hold NaN, or the folder cannot be written any more.
    """
    _check(counting, scored, threshold, recall_above)
    if folder is not None and not isinstance(folder, str | Path):
        raise InputError(f"folder: expected a path, or None to keep nothing, got {folder!r:.60}")
    given = checked_needles(needles, seed)
    trials = needle_trials(
        model,
        lengths=lengths,
        longest=longest,
        depths=depths,
        needles=given,
        haystack=haystack,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        stop=stop,
        seed=seed,
        beyond_context=beyond_context,
    )
    constants = {
        "prompt": prompt_kind(prompt, model.tokenizer),
        "max_new_tokens": max_new_tokens,
        "scored": scored,
        "seed": seed,
        "lengths": sorted({trial.length for trial in trials}),
        "depths": list(dict.fromkeys(trial.depth for trial in trials)),
        "needles": [vars(needle) for needle in given],
        "stop": [list(stops) for stops in dict.fromkeys(trial.stop for trial in trials)],
        "haystack": "built in" if haystack is None else "given",
        "beyond_context": beyond_context,
    }
    inputs = {"trials": len(trials), "tokens": sum(t.length for t in trials), "sha256": checksum_of(trials)}
    kept = None
    if folder is not None:
        same = {"constants": constants, "inputs": inputs, "model": model.facts(), "weights": fingerprint(model)}
        kept = RunFolder(Path(folder).expanduser(), same)
    answers = _answers(model, trials, scored, kept, progress)
    chosen = {"counting": counting, "threshold": float(threshold), "recall_above": float(recall_above)}
    settings = settings_of(
        model,
        method=METHOD.format(recall_above=recall_above, scored=scored, counting=counting),
        source=SOURCE,
        constants=constants | chosen,
        inputs=inputs,
    )
    return RetrievalResult(
        settings=settings,
        trials=_table(trials, answers, recall_above),
        trial_scores=np.stack([answer.scores[counting] for answer in answers]),
        trial_chance=np.stack([answer.chance[counting] for answer in answers]),
        layers=tuple(int(layer) for layer in model.layers),
        threshold=float(threshold),
    )


@dataclass(frozen=True)
class RetrievalHeads(RunDetector):
    """Retrieval scores as a detector: one sample a trial that counts, on needles in the text that is scanned.

    Without a text the built-in haystack is used. ``window`` is the longest prompt and answer together; ``samples`` says nothing
    here, as there is a trial for each length, depth and needle. Options as of ``interp.heads.retrieval``.
    """

    name: str = "retrieval"
    definition: str = (
        "needles hidden in a text: share of the tokens asked for that the head looks most at as they are generated"
    )
    source: str = SOURCE
    threshold: float = THRESHOLD
    threshold_source: str = "Wu et al., arXiv 2404.15574"
    positions: int = 64
    lengths: tuple[int, ...] | None = None
    depths: tuple[float, ...] | None = None
    needles: tuple[Needle, ...] | int = BUILT_IN
    max_new_tokens: int = NEW_TOKENS
    counting: Counting = "code"

    def unfit(self, model: HookedModel) -> str | None:
        return unfit(model)

    def measure(self, model: HookedModel, setting: Setting) -> SampleScores:
        result = retrieval(
            model,
            lengths=self.lengths,
            longest=setting.window if self.lengths is None else None,
            depths=self.depths,
            needles=self.needles,
            haystack=setting.text,
            max_new_tokens=self.max_new_tokens,
            counting=self.counting,
            seed=setting.seed,
            beyond_context=setting.beyond_context,
            threshold=self.threshold,
            progress=setting.progress,
        )
        scores = np.where(result.counted[:, None, None], result.trial_scores, np.nan)
        constants = result.settings["constants"]
        lengths = ", ".join(map(str, constants["lengths"]))
        described = (
            f"{len(result.trials)} needles in {'the text' if setting.text is not None else 'a built-in text'}, prompts of "
            f"{lengths} tokens (seed {setting.seed}); {int(result.counted.sum())} found"
        )
        return SampleScores(torch.from_numpy(scores), torch.from_numpy(result.trial_chance), described)


def _answers(
    model: HookedModel, trials: Sequence[Trial], scored: Scored, kept: RunFolder | None, progress: bool
) -> list[Answer]:
    """The answers of all trials; those that are kept are read, the others are run, one after the other."""
    # All are read before any is run: a damaged file is an error at once.
    found = {} if kept is None else {trial.number: kept.finished(trial.number) for trial in trials}
    missing = [trial for trial in trials if found.get(trial.number) is None]
    answers = {number: answer for number, answer in found.items() if answer is not None}
    with Bar(
        total=len(trials), initial=len(answers), unit="trial", what=f"retrieval {model.name}", show=progress
    ) as bar:
        for trial in missing:
            answers[trial.number] = answer = measured(model, trial, scored)
            if kept is not None:
                kept.keep(trial.number, answer)
            bar.update()
    return [answers[trial.number] for trial in trials]


def _table(trials: Sequence[Trial], answers: Sequence[Answer], recall_above: float) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "trial": trial.number,
            "length": trial.length,
            "depth": trial.depth,
            "placed": trial.placed,
            "needle": trial.needle,
            "answer": trial.asked,
            "text": answer.text,
            "new_tokens": len(answer.ids),
            "recall": answer.recall,
            "counted": answer.recall > recall_above,
        }
        for trial, answer in zip(trials, answers, strict=True)
    ]
    return pd.DataFrame(rows)


def _check(counting: str, scored: str, threshold: float, recall_above: float) -> None:
    for name, value, known in (("counting", counting, COUNTINGS), ("scored", scored, SCORED)):
        if value not in known:
            raise InputError(f"{name}: unknown {value!r}; {nearest(str(value), known)}")
    _check_range("threshold", threshold, 1)
    _check_range("recall_above", recall_above, 100)


def _check_range(name: str, value: Any, top: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < top:
        raise InputError(f"{name}: expected a number of at least 0 and below {top}, got {value!r}")
