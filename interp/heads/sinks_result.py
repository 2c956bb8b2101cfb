"""What ``sinks`` gives: sinks by position, layer and head, and the largest numbers of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.naming import head_name
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Sinks(Result):
    """Sinks by position, layer and head. Positions k count from the first token that is no padding.

    layers       their numbers
    alpha        [L, H, K], mean over the samples that have position k; NaN for heads that a layer lacks
    alpha_above  [L, H, K], share of these samples with alpha_k > threshold
    chance       [L, K], alpha of uniform attention over the visible keys, mean over the samples
    rate         [K], Sink_k: share of heads and samples with alpha_k > threshold
    rate_stderr  [K], standard error of the mean over samples; NaN with fewer than two
    samples      [K], samples that have position k
    columns      table of the columns with alpha_k > hidden_threshold that enough queries follow, one row for each sample, layer,
                 head and position. is_hidden: not the first such column of its head; value_norm: length of the value vector
                 there, mean_value_norm: mean of these lengths over the sample's tokens
    activations  table of the largest numbers of the residual stream at each place (entering block 0, 1, ..., leaving the last):
                 of each rank within a sample, the one that is the largest over the samples; empty with massive=False
    stream       table of the places: largest |x|, median (mean over samples of the median of |x|), the largest ratio of the
                 largest |x| of a sample to its median, how many are massive, in how many samples
    """

    kind: ClassVar[str] = "sinks"

    layers: tuple[int, ...]
    alpha: np.ndarray
    alpha_above: np.ndarray
    chance: np.ndarray
    rate: np.ndarray
    rate_stderr: np.ndarray
    samples: np.ndarray
    columns: pd.DataFrame
    activations: pd.DataFrame
    stream: pd.DataFrame

    @property
    def hidden(self) -> pd.DataFrame:
        """The hidden sinks among ``columns``, strongest first."""
        rows = self.columns[self.columns["is_hidden"]]
        return rows.sort_values("alpha", ascending=False, kind="stable", ignore_index=True)

    @property
    def counted(self) -> int:
        """Positions that enough queries follow for a rate to mean something: in a decoder all but the last ``min_queries``."""
        constants = self.settings["constants"]
        return max(1, len(self.rate) - (constants["min_queries"] if constants["is_causal"] else 0))

    @property
    def strongest(self) -> int:
        """The counted position with the largest Sink_k."""
        return int(self.rate[: self.counted].argmax())

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head and position k: alpha, share of samples above the threshold, chance, Sink_k of the model."""
        import pandas as pd

        layers, heads, positions = self.alpha.shape
        layer, head, k = np.meshgrid(np.array(self.layers), np.arange(heads), np.arange(positions), indexing="ij")
        frame = pd.DataFrame(
            {
                "layer": layer.ravel(),
                "head": head.ravel(),
                "position": k.ravel(),
                "alpha": self.alpha.ravel(),
                "share_above": self.alpha_above.ravel(),
                "chance": np.repeat(self.chance, heads, axis=0).ravel(),
                "rate": np.tile(self.rate, layers * heads),
                "samples": np.tile(self.samples, layers * heads),
            }
        )
        return frame[frame["alpha"].notna()].reset_index(drop=True)

    def plot(self, position: int | None = None) -> go.Figure:
        """Sink rate by position, alpha of every head at ``position`` (the one with the largest rate), the residual stream."""
        from interp.plots.sinks import sinks_figure

        return sinks_figure(self, position)

    def summary(self) -> str:
        constants = self.settings["constants"]
        best = self.strongest
        layer, head = np.unravel_index(int(np.nanargmax(self.alpha[:, :, best])), self.alpha.shape[:2])
        first = (
            f"Sink_{best} = {self.rate[best]:.1%} of heads and samples (alpha > {constants['threshold']:g}; {self.samples[best]} "
            f"samples of up to {len(self.rate)} positions); strongest {head_name(self.layers[layer], int(head))} with alpha "
            f"{self.alpha[layer, head, best]:.3f} (chance {self.chance[layer, best]:.3f})"
        )
        second = (
            f"hidden sinks (alpha > {constants['hidden_threshold']:g}, at least {constants['min_queries']} later queries): "
            f"{len(self.hidden)} columns in {len(self.hidden[['layer', 'head']].drop_duplicates())} heads"
        )
        lines = [first, second]
        if len(self.stream):
            rule = f"|x| > {constants['massive_size']:g} and >= {constants['massive_ratio']:g} times the median"
            count = int(self.stream["massive"].sum())
            top = self.stream.iloc[int(self.stream["largest_ratio"].to_numpy().argmax())]
            lines.append(
                f"massive activations ({rule}): {count or 'none'}; the largest ratio is {top['largest_ratio']:.1f}, at "
                f"place {int(top['place'])} of {len(self.stream) - 1}"
            )
        return "\n".join(lines)
