"""What ``relevance`` gives: rows of R, labelled by tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from interp.errors import InputError
from interp.results.result import Result
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Relevance(Result):
    """Relevance of input tokens to outputs. At least 0, no unit: it grows with F and is compared within a row.

    tokens     of each sequence, what was read: the columns
    outputs    of each sequence, the tokens on whose positions outputs stand (of an encoder-decoder the decoder's)
    positions  [B, n], which of ``outputs`` each row belongs to; -1 where a shorter sequence has fewer
    values     [B, n, T], R; NaN beyond the end of a sequence. An output's own token holds the 1 of the identity that R starts
               as, beside what came back to it. Of an encoder-decoder R^de, over the encoder's tokens, without that 1
    decoder    [B, n, T_decoder], of an encoder-decoder R^dd, over the tokens that the decoder read; else None
    targets    of each sequence the token or class that was explained; () of a function
    scores     F of each sequence; of a function its value
    """

    kind: ClassVar[str] = "relevance"

    tokens: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]
    positions: np.ndarray
    values: np.ndarray
    decoder: np.ndarray | None
    targets: tuple[str, ...]
    scores: tuple[float, ...]

    def row(self, sequence: int = 0, output: int = 0, side: Literal["read", "decoder"] = "read") -> np.ndarray:
        """Relevance of each token of one sequence to one of its outputs, [T].

        output: which of ``positions``; side: the tokens that were read, or those that the decoder read.

        Raises:
            InputError: there is no such sequence, output or side.
        """
        if side not in ("read", "decoder"):
            raise InputError(f"side: expected 'read' or 'decoder', got {side!r}")
        count, outputs = self.positions.shape
        if whole(sequence) is None or whole(output) is None:
            raise InputError(f"row: expected the numbers of a sequence and of an output, got {sequence!r}, {output!r}")
        if not 0 <= sequence < count or not -outputs <= output < outputs or self.positions[sequence, output] < 0:
            raise InputError(f"row: there are {count} sequences of up to {outputs} outputs, got {sequence}, {output}")
        if side == "decoder" and self.decoder is None:
            raise InputError("side: the model has no decoder beside its encoder; leave side out")
        values, tokens = (self.values, self.tokens) if side == "read" else (self.decoder, self.outputs)
        assert values is not None
        return values[sequence, output, : len(tokens[sequence])]

    def to_frame(self) -> pd.DataFrame:
        """A row for each sequence, output and token: its value, and whether it is the output's own token."""
        import pandas as pd

        parts = []
        for side in ("read",) if self.decoder is None else ("read", "decoder"):
            for (b, n), position in np.ndenumerate(self.positions):
                if position < 0:
                    continue
                tokens = (self.tokens if side == "read" else self.outputs)[b]
                own = np.arange(len(tokens)) == position
                parts.append(
                    pd.DataFrame(
                        {
                            "sequence": b,
                            "output": int(position),
                            "output_token": self.outputs[b][position],
                            "side": side,
                            "position": np.arange(len(tokens)),
                            "token": tokens,
                            "value": self.row(b, n, side),
                            "is_own": own & (side == "decoder" or self.decoder is None),
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)

    def plot(self, sequence: int = 0, output: int = 0) -> go.Figure:
        """The tokens of one sequence, each with its relevance to one output, without the 1 of the identity at its own token.

        See ``interp.plots.token_strip`` for the marks.
        """
        from interp.plots.token_strip import Strip, token_strip

        of_read = self.row(sequence, output)
        position = int(self.positions[sequence, output])
        if self.decoder is None:
            strips = [
                Strip(self.tokens[sequence], self._without_identity(sequence, output, "read"), "relevance", position)
            ]
        else:
            own = self._without_identity(sequence, output, "decoder")
            strips = [
                Strip(self.tokens[sequence], of_read, "relevance"),
                Strip(self.outputs[sequence], own, "relevance, decoder", position),
            ]
        return token_strip(strips)

    def summary(self) -> str:
        """The three tokens of the largest relevance to the first output of the first sequence."""
        values = self._without_identity(0, 0, "read")
        top = np.argsort(-values, kind="stable")[:3]
        named = ", ".join(f"{self.tokens[0][i]!r} at {i} ({values[i]:.3g})" for i in top)
        what = f"target {self.targets[0]!r}, " if self.targets else ""
        position = int(self.positions[0, 0])
        return f"{what}output at {position} ({self.outputs[0][position]!r}); largest relevance: {named}"

    def _without_identity(self, sequence: int, output: int, side: Literal["read", "decoder"]) -> np.ndarray:
        values = self.row(sequence, output, side).copy()
        if side == "decoder" or self.decoder is None:
            values[self.positions[sequence, output]] -= 1
        return values
