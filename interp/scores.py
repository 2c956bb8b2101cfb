"""Scores of heads: the tidy table that a scan gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import head_name, nearest
from interp.results.means import means, over

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.heads.detector import Detector

COLUMNS = {
    "layer": "int64",
    "head": "int64",
    "detector": "str",
    "score": "float64",
    "stderr": "float64",
    "chance": "float64",
    "threshold": "float64",
    "is_above": "bool",
    "samples": "int64",
    "share_above": "float64",
}
"""Columns of the table and their types. samples: how many the score is the mean of; share_above: the share of them whose own
score is above the threshold."""


@dataclass(frozen=True)
class Measured:
    """Scores of one detector, batch by batch: [B, L, H] each, and chance levels [B, L] each."""

    scores: list[Tensor]
    chance: list[Tensor]

    def add(self, scores: Tensor, chance: Tensor) -> None:
        self.scores.append(scores)
        self.chance.append(chance)


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """One row per layer, head and detector, and how it was measured.

    frame     the table, see ``COLUMNS``
    settings  detectors, inputs, seed, model, versions: what is needed to measure it again
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    @classmethod
    def from_samples(
        cls,
        measured: Mapping[str, Measured],
        detectors: Sequence[Detector],
        layers: Sequence[int | str],
        settings: Mapping[str, Any],
    ) -> HeadScores:
        """Of the layers of these numbers: means, standard errors (of the mean over samples) and shares above the threshold."""
        parts = [pd.DataFrame(score_columns(measured[detector.name], detector, layers)) for detector in detectors]
        return cls(pd.concat(parts, ignore_index=True).astype(COLUMNS), dict(settings))

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors that were run, in order."""
        return list(dict.fromkeys(self.frame["detector"]))

    def to_frame(self) -> pd.DataFrame:
        """The tidy table: one row per layer, head and detector."""
        return self.frame.copy()

    def of(self, detector: str) -> pd.DataFrame:
        """The rows of one detector, strongest head first."""
        if detector not in self.detectors:
            raise InputError(f"these scores have no detector {detector!r}; {nearest(detector, self.detectors)}")
        rows = self.frame[self.frame["detector"] == detector]
        return rows.sort_values(["score", "layer", "head"], ascending=[False, True, True], ignore_index=True)

    def grid(self, detector: str, column: str = "score") -> np.ndarray:
        """One column of one detector as [layers, heads]."""
        rows = self.of(detector)
        return rows.pivot(index="layer", columns="head", values=column).to_numpy()

    def range(self, detector: str) -> tuple[float, float]:
        """What the detector's score runs between, for colours: [0, 1] where it is not said."""
        low, high = self.settings.get("ranges", {}).get(detector, (0.0, 1.0))
        return float(low), float(high)

    def plot(self, detector: str) -> go.Figure:
        """Layer x head grid of one detector as a Plotly figure."""
        from interp.plots.heads import head_grid

        return head_grid(self, detector)

    def plot_distribution(self, detector: str) -> go.Figure:
        """How the heads' scores of one detector are spread, beside threshold and chance."""
        from interp.plots.heads import score_distribution

        return score_distribution(self, detector)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write table, settings and report into ``folder``; see ``interp.store``."""
        from interp.folders import checked_path
        from interp.store import save_scan

        return save_scan(self, checked_path("folder", folder), overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> HeadScores:
        """The scan that ``save``, or ``interp scan --out``, wrote into ``folder``; see ``interp.store``.

        Raises:
            InputError: there is none, it is damaged, or of a format that is not known.
        """
        from interp.store import load_scan

        return load_scan(folder)

    def __repr__(self) -> str:
        lines = [f"HeadScores({self.settings.get('model', {}).get('model', '?')})"]
        for detector in self.detectors:
            rows = self.of(detector)
            best = rows.iloc[0]
            name = head_name(int(best["layer"]), int(best["head"]))
            above = int(rows["is_above"].sum())
            chance = chance_text(rows.iloc[:1]["chance"])
            lines.append(
                f"  {detector:<18} {above:>3} of {len(rows)} heads above {best['threshold']:g}; "
                f"strongest {name} {best['score']:.3f} (chance {chance})"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        strongest = pd.concat([self.of(detector).head(3) for detector in self.detectors], ignore_index=True)
        return strongest.to_html(index=False, float_format=lambda x: f"{x:.3f}", escape=True)


def score_columns(measured: Measured, detector: Detector, layers: Sequence[int | str]) -> dict[str, Any]:
    """The rows of one detector as columns, arrays [L H] or one value for all of them: means over samples, standard errors of the
    mean, and shares above the threshold."""
    scores = torch.cat(measured.scores).numpy()  # [S, L, H]
    chance = torch.cat(measured.chance).numpy()  # [S, L]
    # A sample on which the score is not defined (no earlier copy in that window) is left out everywhere.
    found = means(scores)
    level = means(np.where(np.isnan(scores).all(axis=2), np.nan, chance)).mean
    above = over((scores > detector.threshold).sum(axis=0), found.count)
    heads = found.mean.shape[1]
    layer, head = np.meshgrid(np.array(layers), np.arange(heads), indexing="ij")
    return {
        "layer": layer.ravel(),
        "head": head.ravel(),
        "detector": detector.name,
        "score": found.mean.ravel(),
        "stderr": found.stderr.ravel(),
        "chance": np.repeat(level, heads),
        "threshold": detector.threshold,
        "is_above": (found.mean > detector.threshold).ravel(),
        "samples": found.count.ravel(),
        "share_above": above.ravel(),
    }


def chance_text(chance: pd.Series) -> str:
    """Chance levels of heads, or their range where layers see different keys; "–" of a score that has none."""
    low, high = chance.min(), chance.max()
    if np.isnan(low):
        return "–"
    return f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f} to {high:.3f}"
