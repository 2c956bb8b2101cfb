"""What ``logit_attribution`` gives: the parts of logits, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.models.layers import LayerKey
from interp.naming import head_name
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LogitAttribution(Result):
    """The parts of the logits of N tokens at N positions (of one token, less that of another, where ``against`` is given).

    heads      [N, L, H], what each head adds to the logit; NaN where a layer has fewer heads
    others     [N, M], the other parts: "embedding" (all that enters the first block, positions included), "mlp 3" (all that
               block 3 adds beside its attention: its MLP or experts, in a hybrid its mixer), "bias 3" (constants of block 3: of
               projections and norms), "bias" (constants after the blocks: of the final norm and of the unembedding)
    layers     of the second axis of ``heads``
    parts      names of the columns of ``others``
    logits     [N], the model's own: of the token, or the difference; before the soft cap where ``is_capped``
    sequence, position, target, against  [N], ints; against is -1 where there is none
    tokens, targets, againsts  N texts each: of the token at the position, and of those whose logits are told apart
    is_capped  the model squeezes its logits afterwards (Gemma 2): the parts are those of the logit before that
    """

    kind: ClassVar[str] = "logit_attribution"

    heads: np.ndarray
    others: np.ndarray
    layers: tuple[LayerKey, ...]
    parts: tuple[str, ...]
    logits: np.ndarray
    rounding: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    target: np.ndarray
    against: np.ndarray
    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    againsts: tuple[str, ...]
    is_capped: bool

    @property
    def remainder(self) -> np.ndarray:
        """The logit less the sum of all parts, [N]: rounding, at most ``rounding``."""
        return self.logits - np.nansum(self.heads, axis=(1, 2)) - self.others.sum(axis=1)

    def mean(self) -> np.ndarray:
        """The mean over the positions, [L, H]."""
        return self.heads.mean(axis=0)

    def stderr(self) -> np.ndarray:
        """The standard error of that mean over the positions, as if they were independent, [L, H]; NaN of a single position."""
        count = len(self.logits)
        return self.heads.std(axis=0, ddof=1) / count**0.5 if count > 1 else np.full(self.heads.shape[1:], np.nan)

    def strongest(self, k: int = SHOWN) -> list[tuple[str, float]]:
        """The k heads with the largest mean in absolute value, by name."""
        mean = self.mean()
        order = np.argsort(-np.abs(np.nan_to_num(mean)), axis=None, kind="stable")[:k]
        places = zip(*np.unravel_index(order, mean.shape), strict=True)
        return [(head_name(self.layers[layer], int(head)), float(mean[layer, head])) for layer, head in places]

    def to_frame(self) -> pd.DataFrame:
        """One row a position and part: sequence, position, token, target, against, kind, layer, head, part, attribution."""
        import pandas as pd

        n, layers, heads = self.heads.shape
        named = [
            ("head", str(self.layers[layer]), head, head_name(self.layers[layer], head))
            for layer in range(layers)
            for head in range(heads)
        ]
        named += [(*_kind_and_layer(part), -1, part) for part in self.parts]
        values = np.concatenate([self.heads.reshape(n, -1), self.others], axis=1)
        width = len(named)
        frame = pd.DataFrame(
            {
                "sequence": np.repeat(self.sequence, width),
                "position": np.repeat(self.position, width),
                "token": np.repeat(np.array(self.tokens, dtype=object), width),
                "target": np.repeat(np.array(self.targets, dtype=object), width),
                "against": np.repeat(np.array(self.againsts, dtype=object), width),
                **{name: [row[at] for row in named] * n for at, name in enumerate(("kind", "layer", "head", "part"))},
                "attribution": values.ravel(),
            }
        )
        frame = frame[frame["attribution"].notna()].reset_index(drop=True)
        frame["layer"] = pd.to_numeric(frame["layer"]).astype("Int64") if _are_numbers(self.layers) else frame["layer"]
        frame["head"] = frame["head"].astype("Int64").mask(frame["head"] < 0)
        return frame

    def plot(self) -> go.Figure:
        """Layer x head grid of the means; ``plot_parts`` shows the other parts too."""
        from interp.plots.attribution import attribution_grid

        return attribution_grid(self)

    def plot_parts(self) -> go.Figure:
        """Bars of all parts, the heads of a layer together, from the embedding to the logit."""
        from interp.plots.attribution import parts_bars

        return parts_bars(self)

    def summary(self) -> str:
        sums = {"embedding": 0.0, "mlp": 0.0, "bias": 0.0}
        for part, value in zip(self.parts, self.others.mean(axis=0), strict=True):
            sums[_kind_and_layer(part)[0]] += float(value)
        heads = float(np.nansum(self.heads, axis=(1, 2)).mean())
        what = "logit before the soft cap" if self.is_capped else "logit"
        n = len(self.logits)
        if n == 1:
            against = f" less that of {self.againsts[0]!r}" if self.against[0] >= 0 else ""
            what = f"{what} of {self.targets[0]!r}{against} at position {self.position[0]}"
        else:
            what = f"mean {what}{' difference' if self.against[0] >= 0 else ''} at {n} positions"
        strongest = ", ".join(f"{name} {value:+.2f}" for name, value in self.strongest())
        return (
            f"{what}: {self.logits.mean():.3f} = heads {heads:+.3f}, MLPs {sums['mlp']:+.3f}, "
            f"embedding {sums['embedding']:+.3f}, biases {sums['bias']:+.3f}; "
            f"rounding {np.abs(self.remainder).max():.1e}\nstrongest heads: {strongest}"
        )


def _kind_and_layer(part: str) -> tuple[str, str | None]:
    kind, _, layer = part.partition(" ")
    return kind, layer or None


def _are_numbers(layers: Sequence[LayerKey]) -> bool:
    return all(isinstance(layer, int) for layer in layers)
