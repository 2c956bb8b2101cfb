"""What ``norm_attention`` gives: weights and norms of chosen rows, labelled by tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.errors import InputError
from interp.naming import head_name
from interp.results.means import means, over
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FIRST = "first"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NormAttention(Result):
    """Attention weights and norms of B sequences, L layers, n positions and T tokens; NaN beyond the end of a sequence.

    layers     keys of the layers, as strings
    heads      of each layer, the query heads that are added up
    tokens     of each sequence, what is looked at
    outputs    of each sequence, the tokens that look (of an encoder-decoder the decoder's)
    positions  [B, n], which of ``outputs`` each row belongs to; -1 where a shorter sequence has fewer
    weights    [B, L, n, T], mean over heads of P[q, k]
    norms      [B, L, n, T], N[q, k] = ||sum_h P_h[q, k] f_h(x_k)||, at least 0, in units of the residual stream; rows do not sum
               to 1
    head_weights, head_norms  [B, L, n, H, T], P_h[q, k] and P_h[q, k] ||f_h(x_k)|| of each of ``heads``; None unless asked for
    classes    names of classes of keys; the first is "first", the first token of each sequence
    members    bool [C, B, T], which tokens are in each
    """

    kind: ClassVar[str] = "norm_attention"

    layers: tuple[str, ...]
    heads: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]
    positions: np.ndarray
    weights: np.ndarray
    norms: np.ndarray
    head_weights: np.ndarray | None
    head_norms: np.ndarray | None
    classes: tuple[str, ...]
    members: np.ndarray

    def row(
        self, layer: int | str | None = None, sequence: int = 0, output: int = 0, head: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights and norms of one row, [T] each. layer: its key, None for the last; output: which of ``positions``.

        head: of one head alone, where ``per_head`` was asked for; None: mean weight and norm of the sum.

        Raises:
            InputError: there is no such layer, sequence, output or head.
        """
        number = self._layer(layer)
        count, outputs = self.positions.shape
        if not 0 <= sequence < count or not -outputs <= output < outputs or self.positions[sequence, output] < 0:
            raise InputError(f"row: there are {count} sequences of up to {outputs} outputs, got {sequence}, {output}")
        length = len(self.tokens[sequence])
        if head is None:
            return self.weights[sequence, number, output, :length], self.norms[sequence, number, output, :length]
        if self.head_weights is None or self.head_norms is None:
            raise InputError("head: single heads were not kept; call norm_attention with per_head=True")
        if head not in self.heads[number]:
            raise InputError(
                f"head: layer {self.layers[number]} has the heads {list(self.heads[number])} here, got {head!r}"
            )
        at = self.heads[number].index(head)
        return self.head_weights[sequence, number, output, at, :length], self.head_norms[
            sequence, number, output, at, :length
        ]

    def shares(self) -> pd.DataFrame:
        """What part of a row's weight, and what part of its norms, falls on each class of tokens.

        A row for each layer, head and class: layer, head ("L1H0"; "" for mean weights and norms of the sum), class, tokens (how
        many are in it), weight, norm (mean over sequences of each one's mean over its rows), weight_stderr, norm_stderr, samples
        (sequences). Both in [0, 1]; rows whose sum is 0 (every visible vector is 0) do not count.
        """
        import pandas as pd

        rows = []
        for number, layer in enumerate(self.layers):
            of_heads: list[tuple[str, np.ndarray, np.ndarray]] = [("", self.weights[:, number], self.norms[:, number])]
            if self.head_weights is not None and self.head_norms is not None:
                for at, head in enumerate(self.heads[number]):
                    name = head_name(layer, head)
                    of_heads.append((name, self.head_weights[:, number, :, at], self.head_norms[:, number, :, at]))
            for name, weights, norms in of_heads:
                for label, member in zip(self.classes, self.members, strict=True):
                    weight, norm = (means(_share(each, member)) for each in (weights, norms))
                    rows.append(
                        {
                            "layer": layer,
                            "head": name,
                            "class": label,
                            "tokens": int(member.sum()),
                            "weight": float(weight.mean),
                            "norm": float(norm.mean),
                            "weight_stderr": float(weight.stderr),
                            "norm_stderr": float(norm.stderr),
                            "samples": int(norm.count),
                        }
                    )
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """A row for each sequence, output, layer, head and token: sequence, output, output_token, layer, head, position, token,
        weight, norm. head is "" for mean weights and norms of the sum, and else "L1H0"."""
        import pandas as pd

        parts = []
        for (b, n), position in np.ndenumerate(self.positions):
            if position < 0:
                continue
            for number, layer in enumerate(self.layers):
                for head in (None, *(self.heads[number] if self.head_norms is not None else ())):
                    weight, norm = self.row(layer, b, n, head)
                    parts.append(
                        pd.DataFrame(
                            {
                                "sequence": b,
                                "output": int(position),
                                "output_token": self.outputs[b][position],
                                "layer": layer,
                                "head": "" if head is None else head_name(layer, head),
                                "position": np.arange(len(weight)),
                                "token": self.tokens[b],
                                "weight": weight,
                                "norm": norm,
                            }
                        )
                    )
        return pd.concat(parts, ignore_index=True)

    def plot(
        self, layer: int | str | None = None, sequence: int = 0, output: int = 0, head: int | None = None
    ) -> go.Figure:
        """The tokens of one sequence twice, by attention weight and by norm; arguments as for ``row``.

        See ``interp.plots.token_strip`` for the marks. The framed token is the one that looks.
        """
        from interp.plots.token_strip import Strip, token_strip

        weights, norms = self.row(layer, sequence, output, head)
        key = self.layers[self._layer(layer)]
        of = f"layer {key}" if head is None else head_name(key, head)
        framed = None if key.startswith("cross.") else int(self.positions[sequence, output])
        tokens = self.tokens[sequence]
        return token_strip(
            [Strip(tokens, weights, f"attention weight, {of}", framed), Strip(tokens, norms, f"norm, {of}", framed)]
        )

    def summary(self) -> str:
        """For each layer the tokens with the largest weight and norm at the last output of the first sequence, and the shares."""
        last = int(np.flatnonzero(self.positions[0] >= 0)[-1])
        position, rows = int(self.positions[0, last]), int((self.positions >= 0).sum())
        over_rows = f"; shares are means over {rows} rows" if rows > 1 else ""
        lines = [f"from {self.outputs[0][position]!r} at {position}{over_rows}"]
        shares = self.shares()
        for layer in self.layers:
            weights, norms = self.row(layer, output=last)
            of_layer = shares[(shares["layer"] == layer) & (shares["head"] == "") & (shares["tokens"] > 0)]
            parts = [
                f"{label} {weight:.2f} of weight, {norm:.2f} of norm"
                for label, weight, norm in of_layer[["class", "weight", "norm"]].itertuples(index=False)
            ]
            w, n = int(np.argmax(weights)), int(np.argmax(norms))
            lines.append(
                f"layer {layer}: largest weight {self.tokens[0][w]!r} at {w} ({weights[w]:.3g}), largest norm "
                f"{self.tokens[0][n]!r} at {n} ({norms[n]:.3g}); {'; '.join(parts)}"
            )
        return "\n".join(lines)

    def _layer(self, layer: int | str | None) -> int:
        if layer is None:
            return len(self.layers) - 1
        if str(layer) not in self.layers:
            raise InputError(f"layer: expected one of {', '.join(self.layers)}, got {layer!r}")
        return self.layers.index(str(layer))


def _share(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Mean over rows of the part of each that falls on the members, [B]; NaN without a row that has a sum. values: [B, n, T]."""
    known = np.nan_to_num(values)
    shares = over((known * member[:, None]).sum(axis=-1), known.sum(axis=-1))  # [B, n]
    defined = ~np.isnan(shares)
    return over(np.where(defined, shares, 0).sum(axis=-1), defined.sum(axis=-1))
