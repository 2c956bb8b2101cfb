"""What ``retrieval`` gives: needles found, and the heads that copied them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.naming import head_name
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMED = 8
"""Heads that a summary names."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RetrievalResult(Result):
    """Needles found and the heads that copied them. S trials, L layers, H heads.

    trials        one row a trial: length and depth asked for, where the needle was placed (percent), needle, its answer, the
                  text that was generated and its tokens, recall in percent, and whether it counts
    trial_scores  [S, L, H], every head's score on every trial, those that do not count included
    trial_chance  [S, L], the expected score of a head that looks most at a key drawn uniformly from the visible ones
    layers        the layers' numbers
    threshold     a head with a score above it is a retrieval head
    """

    kind: ClassVar[str] = "retrieval"

    trials: pd.DataFrame
    trial_scores: np.ndarray
    trial_chance: np.ndarray
    layers: tuple[int, ...]
    threshold: float

    @property
    def counted(self) -> np.ndarray:
        """Which trials count, bool [S]."""
        return self.trials["counted"].to_numpy(dtype=bool)

    @property
    def scores(self) -> np.ndarray:
        """Mean over the trials that count, [L, H]; NaN where none does."""
        return _mean(self.trial_scores[self.counted])

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of the mean over the trials that count, [L, H]; NaN of fewer than two.

        Trials share needles and text, so that it says too little of what another needle would give.
        """
        kept = self.trial_scores[self.counted]
        if len(kept) < 2:
            return np.full(kept.shape[1:], np.nan)
        return kept.std(axis=0, ddof=1) / np.sqrt(len(kept))

    @property
    def chance(self) -> np.ndarray:
        """Chance level of the same trials, [L]."""
        return _mean(self.trial_chance[self.counted])

    def to_frame(self) -> pd.DataFrame:
        """One row a head: layer, head, score, stderr, chance, threshold, is_above, trials (those that count)."""
        import pandas as pd

        scores = self.scores
        layer, head = np.meshgrid(np.array(self.layers), np.arange(scores.shape[1]), indexing="ij")
        return pd.DataFrame(
            {
                "layer": layer.ravel(),
                "head": head.ravel(),
                "score": scores.ravel(),
                "stderr": self.stderr.ravel(),
                "chance": np.repeat(self.chance, scores.shape[1]),
                "threshold": self.threshold,
                "is_above": (scores > self.threshold).ravel(),
                "trials": int(self.counted.sum()),
            }
        )

    def found(self) -> list[str]:
        """Names of the heads above the threshold, strongest first, as edits take them: ["L2H5", ...]."""
        return [name for name, score, _ in self._ranked() if score > self.threshold]

    def _ranked(self) -> list[tuple[str, float, float]]:
        """Name, score and standard error of every head, strongest first."""
        scores, stderr = self.scores, self.stderr
        return [
            (head_name(self.layers[layer], head), float(scores[layer, head]), float(stderr[layer, head]))
            for layer, head in zip(
                *np.unravel_index(np.argsort(-scores, axis=None, kind="stable"), scores.shape), strict=True
            )
        ]

    def recall_grid(self) -> pd.DataFrame:
        """Mean recall over needles, in percent: a row a length, a column a depth."""
        return self.trials.pivot_table(index="length", columns="depth", values="recall", aggfunc="mean")

    def plot(self) -> go.Figure:
        """Recall by length and depth, beside the heads' scores."""
        from interp.plots.retrieval import retrieval_figure

        return retrieval_figure(self)

    def summary(self) -> str:
        """How much was found, and by which heads."""
        counted, total = int(self.counted.sum()), len(self.trials)
        level = self.settings["constants"]["recall_above"]
        found = f"{counted} of {total} trials count (recall above {level:g} %); mean recall {self.trials['recall'].mean():.0f} %"
        if not counted:
            return f"{found}\nscores are not defined: without a needle that was found there is nothing to say of heads"
        ranked, above = self._ranked(), len(self.found())
        said = ", ".join(f"{name} {score:.2f} ± {error:.2f}" for name, score, error in ranked[: min(above, NAMED) or 1])
        more = f" and {above - NAMED} more" if above > NAMED else ""
        lead = "" if above else "; strongest"
        return (
            f"{found}\n{above} of {len(ranked)} heads above {self.threshold:g}{lead}: {said}{more}\n"
            f"chance {float(self.chance.mean()):.4f}"
        )


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0) if len(values) else np.full(values.shape[1:], np.nan)
