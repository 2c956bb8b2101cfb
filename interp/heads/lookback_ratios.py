"""What ``lookback`` gives: every head's ratio at every new token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from interp.errors import InputError
from interp.naming import head_name
from interp.results.means import over
from interp.results.result import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

WINDOW = 8
"""New tokens that a feature of the detector is the mean over; theirs."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LookbackRatios(Result):
    """Lookback ratios of S sequences.

    ratios   float32 [S, L, H, N]: of the row that produced new token n; NaN at n = 0, where nothing was new yet, beyond a
             sequence's end, and where a head looked at neither the context nor what is new. 0.5 is uniform attention
    layers   keys of the layers, as strings
    tokens   of each sequence the new tokens
    """

    kind: ClassVar[str] = "lookback_ratios"

    ratios: np.ndarray
    layers: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]

    def windows(self, size: int = WINDOW) -> tuple[np.ndarray, pd.DataFrame]:
        """Features of every window of ``size`` new tokens: means of each head's ratio, [n, L H], layers first; and which windows.

        The table has a row a window: sequence, start, stop (new tokens start to stop - 1). Windows begin at new token 1, the
        first with a ratio; a head without one in a window has NaN.

        Raises:
            InputError: no sequence has so many new tokens.
        """
        if type(size) is not int or size < 1:
            raise InputError(f"size: expected an integer of at least 1, got {size!r}")
        parts, places = [], []
        for sequence, tokens in enumerate(self.tokens):
            flat = self.ratios[sequence].reshape(-1, self.ratios.shape[-1])  # [L H, N]
            for start in range(1, len(tokens) - size + 1):
                window = flat[:, start : start + size].astype(np.float64)
                defined = ~np.isnan(window)
                parts.append(over(np.where(defined, window, 0).sum(axis=1), defined.sum(axis=1)))
                places.append((sequence, start, start + size))
        if not parts:
            longest = max((len(tokens) for tokens in self.tokens), default=0)
            raise InputError(
                f"size: windows of {size} new tokens need {size + 1} of them, as the first has no ratio; the longest sequence "
                f"has {longest}"
            )
        return np.stack(parts), pd.DataFrame(places, columns=["sequence", "start", "stop"])

    def mean(self) -> np.ndarray:
        """Mean of each head over all sequences and new tokens, [L, H]."""
        by_head = np.moveaxis(self.ratios, (1, 2), (0, 1)).reshape(*self.ratios.shape[1:3], -1).astype(np.float64)
        defined = ~np.isnan(by_head)
        return over(np.where(defined, by_head, 0).sum(axis=-1), defined.sum(axis=-1))

    def to_frame(self) -> pd.DataFrame:
        """One row per sequence, new token, layer and head: sequence, step, token, layer, head, ratio; undefined ones left out."""
        sequence, layer, head, step = np.nonzero(~np.isnan(self.ratios))
        return pd.DataFrame(
            {
                "sequence": sequence,
                "step": step,
                "token": [self.tokens[s][n] for s, n in zip(sequence, step, strict=True)],
                "layer": [self.layers[number] for number in layer],
                "head": head,
                "ratio": self.ratios[sequence, layer, head, step],
            }
        )

    def plot(self, sequence: int = 0) -> go.Figure:
        """Every head's ratio at every new token of one sequence; see ``interp.plots.lookback``."""
        from interp.plots.lookback import ratios_by_token

        return ratios_by_token(self, sequence)

    def summary(self) -> str:
        mean = self.mean()
        order = np.argsort(np.where(np.isnan(mean), -np.inf, mean), axis=None)[::-1]
        named = [(head_name(self.layers[n // mean.shape[1]], int(n % mean.shape[1])), mean.flat[n]) for n in order]
        defined = [f"{name} {value:.3f}" for name, value in named if not np.isnan(value)]
        if not defined:
            return f"{len(self.tokens)} sequences without a ratio: each needs two new tokens or more"
        most, least = ", ".join(defined[:3]), ", ".join(defined[-3:])
        return f"{len(self.tokens)} sequences; look back most {most}; least {least} (uniform attention: 0.5)"
