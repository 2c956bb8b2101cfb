"""What the script of the Retrieval page shows of each step of a replay: small enough to be sent whole.

heads    names
asked    the answer in words
new      tokens that were written, white space seen
strip    tokens around the needle and the part of each: "", "needle" or "answer"; before, after: whether the text goes on
steps    of each written token
  writing, recall   the text up to it and with it, and its recall of the answer in percent
  heads             of each head, where it looks most: position, token, weight, mark; at, the token's place in the strip, -1
                    outside of it; on_answer, its weight on all of the answer's tokens; copied, how often it did so far
  shade             [place in the strip, largest weight of a head there]; weights below ``LEAST`` are left out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from interp_app.pages.retrieval_table import AROUND, mark, shown

if TYPE_CHECKING:
    from interp.heads.replay import Replay

LEAST = 0.002
"""The least weight that is sent: its root is 4 % of the full colour."""


def payload(trial: Replay) -> dict[str, Any]:
    """Of a trial that was replayed; see the top of the file."""
    first = max(0, trial.statement[0] - AROUND)
    last = min(len(trial.prompt), trial.statement[-1] + 1 + AROUND)
    recall, copied = trial.recall_by_step, trial.copied.cumsum(axis=0)
    return {
        "heads": list(trial.heads),
        "asked": trial.asked,
        "new": [shown(token) for token in trial.new],
        "strip": [[trial.prompt[at], trial.part(at).removeprefix("prompt")] for at in range(first, last)],
        "before": first > 0,
        "after": last < len(trial.prompt),
        "steps": [
            {
                "writing": trial.writing[step].strip(),
                "recall": round(float(recall[step]), 1),
                "heads": [_head(trial, step, head, first, last, copied) for head in range(len(trial.heads))],
                "shade": _shade(trial, step, first, last),
            }
            for step in range(len(trial.new))
        ],
    }


def _head(trial: Replay, step: int, head: int, first: int, last: int, copied: np.ndarray) -> dict[str, Any]:
    position = int(trial.position[step, head, 0])
    return {
        "position": position,
        "token": shown(trial.token(position)),
        "weight": round(float(trial.weight[step, head, 0]), 3),
        "mark": mark(trial, step, head),
        "at": position - first if first <= position < last else -1,
        "on_answer": round(float(trial.on_answer[step, head]), 3),
        "copied": int(copied[step, head]),
    }


def _shade(trial: Replay, step: int, first: int, last: int) -> list[list[float]]:
    weights = np.zeros(last - first)
    for at, weight in zip(trial.position[step].ravel(), trial.weight[step].ravel(), strict=True):
        if first <= at < last:
            weights[at - first] = max(weights[at - first], weight)
    needle = np.array(trial.statement) - first
    weights[needle] = np.maximum(weights[needle], trial.on_needle[step].max(axis=0))
    return [[int(at), round(float(weights[at]), 4)] for at in np.flatnonzero(weights >= LEAST)]
