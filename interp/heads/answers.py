"""One trial's answer, and which heads looked at the needle's tokens while the model wrote them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from interp.heads.recall import answer_to, unigram_recall, written
from interp.heads.trials import Trial
from interp_kernels import Mask

if TYPE_CHECKING:
    from interp.captures.capture import Capture
    from interp.models.hooked import HookedModel

Counting = Literal["code", "set"]
COUNTINGS = ("code", "set")
Scored = Literal["answer", "statement"]
SCORED = ("answer", "statement")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model wrote in one trial.

    ids     the new tokens
    text    in words
    recall  unigram recall of the needle's answer, in percent
    scores  of each counting, [L, H] float64
    chance  of each counting, [L] float64
    """

    ids: tuple[int, ...]
    text: str
    recall: float
    scores: Mapping[str, np.ndarray]
    chance: Mapping[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        return {
            "ids": list(self.ids),
            "text": self.text,
            "recall": self.recall,
            "scores": {name: values.tolist() for name, values in self.scores.items()},
            "chance": {name: values.tolist() for name, values in self.chance.items()},
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Answer:
        return cls(
            tuple(int(i) for i in content["ids"]),
            str(content["text"]),
            float(content["recall"]),
            {name: np.array(content["scores"][name], dtype=np.float64) for name in COUNTINGS},
            {name: np.array(content["chance"][name], dtype=np.float64) for name in COUNTINGS},
        )


def measured(model: HookedModel, trial: Trial, scored: Scored) -> Answer:
    """Run one trial: the answer, each head's score and the chance level. O(T) memory."""
    generation = answer_to(model, trial, ["peak"])
    new = [int(i) for i in generation.new_ids[0]]
    positions = trial.answer if scored == "answer" else trial.statement
    layers = model.layers
    peaks = np.stack(
        [
            torch.stack([step["peak_index"][layer][0, :, 0] for layer in layers]).cpu().numpy()
            for step in generation.steps
        ]
    )  # [N, L, H]
    visible = np.stack(
        [
            _chances(step, layers, trial, positions, trial.length + n - 1, new[n])
            for n, step in enumerate(generation.steps)
        ]
    )  # [N, L]
    wanted = trial.ids[list(positions)]
    return Answer(
        ids=tuple(new),
        text=written(generation),
        recall=unigram_recall(trial.asked, written(generation)),
        scores=scores_of(copies(trial.ids, positions, new, peaks), new, wanted),
        chance=chance_of(visible, new, wanted),
    )


def copies(ids: np.ndarray, positions: Sequence[int], new: Sequence[int], peaks: np.ndarray) -> np.ndarray:
    """Whether a head copies at a step: it looks most at a token of the needle, and just that token is generated.

    ids: of the prompt; positions: of the needle in it; new: [N] generated tokens; peaks: [N, ...] the position that each
    head's row gives most to, -1 for none. Returns bool [N, ...].
    """
    inside = np.isin(peaks, positions)
    looked_at = ids[np.where(inside, peaks, 0)]
    return inside & (looked_at == np.asarray(new).reshape(-1, *(1,) * (peaks.ndim - 1)))


def scores_of(copied: np.ndarray, new: Sequence[int], needle: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of both countings from what was copied at each step, [N, ...] -> [...]. needle: its token ids.

    code  steps at which the head copied / tokens of the needle: a token that is written twice counts twice
    set   different tokens that the head copied / different tokens of the needle, in [0, 1]
    """
    tokens = np.asarray(new)
    different = [copied[tokens == token].any(axis=0) for token in np.unique(needle)]
    return {"code": copied.sum(axis=0) / needle.size, "set": np.mean(different, axis=0)}


def chance_of(chances: np.ndarray, new: Sequence[int], needle: np.ndarray) -> dict[str, np.ndarray]:
    """The expected scores of a head that looks most at a key drawn uniformly, and for each step anew, from the visible ones.

    chances: [N, L], c_n = visible tokens of the needle that equal the one generated at step n / visible keys.
    code: sum_n c_n / |needle|; set: the mean over the needle's different tokens t of 1 - prod_(n: t generated) (1 - c_n).
    """
    tokens = np.asarray(new)
    different = [1 - (1 - chances[tokens == token]).prod(axis=0) for token in np.unique(needle)]
    return {"code": chances.sum(axis=0) / needle.size, "set": np.mean(different, axis=0)}


def _chances(
    step: Capture, layers: Sequence[int | str], trial: Trial, positions: Sequence[int], query: int, token: int
) -> np.ndarray:
    """c_n of each layer, [L], for the query at position ``query``. Layers that see alike share the work."""
    same = np.array([position for position in positions if trial.ids[position] == token], dtype=np.int64)
    known: dict[Any, float] = {}
    for layer in layers:
        mask = step.masks[layer]
        if _alike(mask) not in known:
            known[_alike(mask)] = _share(mask, same, query)
    return np.array([known[_alike(step.masks[layer])] for layer in layers])


def _alike(mask: Mask) -> Any:
    tensors = (None if x is None else x.data_ptr() for x in (mask.keep, mask.documents))
    return mask.is_causal, mask.window, mask.offset, *tensors, mask.predicates


def _share(mask: Mask, same: np.ndarray, query: int) -> float:
    """Keys of ``same`` that the query at that position sees / all keys that it sees; 0 where it sees none.

    A sliding-window cache holds the last keys alone: the mask counts its query and keys from the first that is held.
    """
    at = query if mask.offset is None else mask.offset
    first, keys = query - at, at + 1
    device = next((x.device for x in (mask.keep, mask.documents) if x is not None), torch.device("cpu"))
    if mask.is_per_batch:
        i, batch = torch.full((1, 1), at, device=device), torch.zeros(1, 1, dtype=torch.int64, device=device)
        seen = mask.allows(i, torch.arange(keys, device=device)[None], batch).expand(1, keys)[0].cpu().numpy()
        held = same[same >= first] - first
        return float(seen[held].sum() / max(1, seen.sum()))
    low, high = mask.key_span(at, at, keys)
    return float(((same >= low + first) & (same < high + first)).sum() / max(1, high - low))
