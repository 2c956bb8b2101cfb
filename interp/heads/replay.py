"""One needle trial, token by token: where chosen heads looked in the row that produced each token of the answer.

    trials = interp.heads.needle_trials(model, lengths=[200], depths=[50])
    interp.heads.replay(model, trials[0], ["L2H5", "L1H5"])

With the trial's prompt x_1 .. x_T, a needle at positions k and greedy tokens w_1 .. w_N, step n is the row P_i of query
i = T + n - 1, which produced w_n. Of it are kept, for each head, the largest weights with their keys, and P_ij for every j of the
needle. A head copies at step n when its largest weight lies on a token of the answer and that token is w_n: the definition of
``interp.heads.retrieval``, whose scores count just these steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.answers import copies
from interp.heads.recall import answer_to, unigram_recall, written
from interp.heads.retrieval import SOURCE
from interp.heads.trials import Trial, checksum_of
from interp.models.heads import HeadSpec, head_counts, ordered_heads
from interp.naming import head_name
from interp.results.result import Result
from interp.results.settings import settings_of
from interp_kernels import KeyMass, TopK

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.generation.steps import Step
    from interp.models.hooked import HookedModel
    from interp_kernels import Probe

TOP = 5
"""Weights that are kept of a row."""
METHOD = "of the row that produced each token: the {top} largest weights, and the weight on every token of the needle"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Replay(Result):
    """A trial, replayed. T tokens of the prompt, S of the needle, N that were generated, M heads, K largest weights.

    heads      their names, in the order in which they were asked for
    prompt     T token strings
    new        N token strings
    statement  S positions of the needle's tokens
    answer     positions of those of them that are the answer
    asked      the answer in words
    text       what was generated, in words
    writing    N texts: what was generated up to each token and with it, in words; the last one is ``text``
    recall     unigram recall of the answer, in percent
    position   [N, M, K], the keys of the largest weights, largest first; from T on tokens that were generated before; -1: none
    weight     [N, M, K], these weights, in [0, 1]
    on_needle  [N, M, S], the weight on each token of the needle
    copied     [N, M], whether the largest weight lies on a token of the answer that is the token generated
    """

    kind: ClassVar[str] = "replay"

    heads: tuple[str, ...]
    prompt: tuple[str, ...]
    new: tuple[str, ...]
    statement: tuple[int, ...]
    answer: tuple[int, ...]
    asked: str
    text: str
    writing: tuple[str, ...]
    recall: float
    position: np.ndarray
    weight: np.ndarray
    on_needle: np.ndarray
    copied: np.ndarray

    @property
    def on_answer(self) -> np.ndarray:
        """The weight on all tokens of the answer together, [N, M]."""
        return self.on_needle[:, :, np.isin(self.statement, self.answer)].sum(axis=2)

    @property
    def recall_by_step(self) -> np.ndarray:
        """Unigram recall of the answer in each text of ``writing``, [N], in percent; the last one is ``recall``."""
        return np.array([unigram_recall(self.asked, text) for text in self.writing])

    def token(self, position: int) -> str:
        """The token at a position of the whole text, the prompt and what was generated; "" for -1."""
        if position < 0:
            return ""
        return self.prompt[position] if position < len(self.prompt) else self.new[position - len(self.prompt)]

    def part(self, position: int) -> str:
        """Which part of the text a position stands in: "answer", "needle", "prompt", "generated"; "" for -1."""
        if position < 0:
            return ""
        if position >= len(self.prompt):
            return "generated"
        return "answer" if position in self.answer else "needle" if position in self.statement else "prompt"

    def to_frame(self) -> pd.DataFrame:
        """One row a step, head and rank.

        step, token (generated), head, rank (0 the largest weight), position, key (its token), weight, part (where the key
        stands: answer, needle, prompt or generated), copied, on_answer and on_needle (the head's weight on all of the
        answer's and of the needle's tokens at this step).
        """
        import pandas as pd

        steps, heads, top = self.position.shape
        step, head, rank = (index.ravel() for index in np.indices((steps, heads, top)))
        position = self.position.ravel()
        return pd.DataFrame(
            {
                "step": step,
                "token": [self.new[n] for n in step],
                "head": [self.heads[m] for m in head],
                "rank": rank,
                "position": position,
                "key": [self.token(int(j)) for j in position],
                "weight": self.weight.ravel(),
                "part": [self.part(int(j)) for j in position],
                "copied": self.copied[step, head] & (rank == 0),
                "on_answer": self.on_answer[step, head],
                "on_needle": self.on_needle.sum(axis=2)[step, head],
            }
        )

    def plot(self) -> go.Figure:
        """For each head, the weight on each token of the needle at each step."""
        from interp.plots.replay import replay_figure

        return replay_figure(self)

    def summary(self) -> str:
        """What was asked for, what was written, and which heads copied it."""
        asked = f"asked for {self.asked!r}, written {self.text.strip()!r}: recall {self.recall:.0f} %"
        counts = ", ".join(
            f"{name} {int(count)} of {len(self.new)}"
            for name, count in zip(self.heads, self.copied.sum(axis=0), strict=True)
        )
        return f"{asked}\nsteps at which the head looked most at the token of the answer that was written: {counts}"


def replay(model: HookedModel, trial: Trial, heads: HeadSpec | Iterable[HeadSpec], *, top: int = TOP) -> Replay:
    """Run one trial again and keep where ``heads`` looked at every step.

    Edits in force apply. Memory is O(T): a row of attention a step, of which the largest weights and those of the needle stay.

    Args:
        trial: one of ``interp.heads.needle_trials``.
        heads: names such as "L2H5", one or several; ``RetrievalResult.found()`` gives those of the retrieval heads.
        top: how many of the largest weights to keep.

    Raises:
        InputError: it is no trial, or does not fit the model; no head, or one that does not exist; ``top`` below 1.
        RunError: the activations hold NaN.
    """
    if not isinstance(trial, Trial):
        raise InputError(f"trial: expected one of interp.heads.needle_trials, got {trial!r:.60}")
    if type(top) is not int or top < 1:
        raise InputError(f"top: expected how many weights to keep, an integer of at least 1, got {top!r}")
    assert model.tokenizer is not None
    places = ordered_heads(heads, head_counts(model.host.layers))
    positions = np.array(trial.statement)

    def probes(step: Step) -> Sequence[Probe | str]:
        # A column for each token of the needle: 1 at its position.
        each = torch.zeros(step.keys, len(positions), device=model.device)
        each[positions, torch.arange(len(positions))] = 1
        return [TopK(top, name="top"), KeyMass(each, name="needle")]

    generation = answer_to(model, trial, probes)
    new = [int(i) for i in generation.new_ids[0]]
    stacked = {name: generation.stacked(name) for name in ("top", "top_index", "needle")}

    for layer, head in places:
        # Of a layer whose module does not say how many heads it has, this is the first that is known of them.
        if head >= (present := stacked["top"][layer].shape[1]):
            raise InputError(f"heads: layer {layer} has no head {head}; its heads are 0 to {present - 1}")

    def chosen(name: str) -> np.ndarray:
        rows: list[Tensor] = [stacked[name][layer][0, head] for layer, head in places]
        return torch.stack(rows, dim=1).cpu().numpy()  # M x [N, C] -> [N, M, C]

    keys = chosen("top_index")
    constants: dict[str, Any] = {
        "heads": [head_name(layer, head) for layer, head in places],
        "top": top,
        "trial": trial.number,
        "length": trial.length,
        "depth": trial.depth,
        "placed": trial.placed,
        "needle": trial.needle,
        "max_new_tokens": trial.max_new_tokens,
        "stop": list(trial.stop),
        "beyond_context": trial.beyond_context,
    }
    return Replay(
        settings=settings_of(
            model,
            method=METHOD.format(top=top),
            source=SOURCE,
            constants=constants,
            inputs={"tokens": trial.length, "new_tokens": len(new), "sha256": checksum_of([trial])},
        ),
        heads=tuple(head_name(layer, head) for layer, head in places),
        prompt=tuple(model.token_strings(trial.ids.tolist())),
        new=tuple(model.token_strings(new)),
        statement=trial.statement,
        answer=trial.answer,
        asked=trial.asked,
        text=written(generation),
        # As the whole is decoded: a token may be half a letter.
        writing=tuple(str(model.tokenizer.decode(new[: n + 1], skip_special_tokens=True)) for n in range(len(new))),
        recall=unigram_recall(trial.asked, written(generation)),
        position=keys,
        weight=chosen("top"),
        on_needle=chosen("needle"),
        copied=copies(trial.ids, trial.answer, new, keys[:, :, 0]),
    )
