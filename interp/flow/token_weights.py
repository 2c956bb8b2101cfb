"""What rollout and attention flow give: for chosen outputs, a weight on every token that they can draw on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.results.result import Result
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20_000_000
"""Rows of the largest table that is made: about 1.5 GB."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TokenWeights(Result):
    """Weights of N outputs on the tokens of their sequences.

    weights         [N, levels, T]; NaN beyond the end of a sequence that is shorter than others
    levels          what the tokens stand for on each level: the inputs of the attention of that layer, or "output"; from the
                    first layer to the last
    sequence        [N], which sequence of the batch
    position        [N], which of its tokens; of an encoder-decoder, of the decoder's tokens
    tokens          of each sequence, without padding; of an encoder-decoder the encoder's, then the decoder's
    encoder_tokens  of each sequence, how many of its tokens are the encoder's; () where there is one side only
    is_causal       outputs draw on no token after their own
    """

    weights: np.ndarray
    levels: tuple[str, ...]
    sequence: np.ndarray
    position: np.ndarray
    tokens: tuple[tuple[str, ...], ...]
    encoder_tokens: tuple[int, ...]
    is_causal: bool

    def row(self, sequence: int = 0, position: int | None = None) -> int:
        """Which of the N outputs is that of a token; without ``position`` the last one of the sequence that was asked for.

        Raises:
            InputError: it was not asked for.
        """
        of_sequence = np.flatnonzero(self.sequence == sequence)
        if not of_sequence.size:
            raise InputError(f"sequence: there are {len(self.tokens)}, counted from 0; got {sequence!r}")
        if position is None:
            return int(of_sequence[-1])
        if whole(position) is None:
            raise InputError(f"position: expected the number of a token, got {position!r}")
        found = of_sequence[self.position[of_sequence] == self._own(sequence, position)]
        if not found.size:
            raise InputError(
                f"position: {position!r} of sequence {sequence} was not asked for; give it in positions= (there are "
                f"{', '.join(map(str, self.position[of_sequence][:12]))}{', ...' if of_sequence.size > 12 else ''})"
            )
        return int(found[0])

    def of(self, sequence: int = 0, position: int | None = None) -> np.ndarray:
        """Weights [T] of one output on the tokens of its sequence, at the lowest level."""
        return self.weights[self.row(sequence, position), 0, : len(self.tokens[sequence])]

    def over_positions(self, how: str = "max") -> list[np.ndarray]:
        """Of each sequence, every token's weight [T] over the outputs that were asked for: the largest, or their mean.

        The largest is how the code of Abnar and Zuidema ranks input tokens, over all outputs (positions="all").
        """
        if how not in ("max", "mean"):
            raise InputError(f"how: expected 'max' or 'mean', got {how!r}")
        reduce = np.max if how == "max" else np.mean
        return [
            reduce(self.weights[self.sequence == number, 0, : len(tokens)], axis=0)
            for number, tokens in enumerate(self.tokens)
        ]

    def output_token(self, row: int) -> str:
        """The text of the token whose output a row is of."""
        sequence = int(self.sequence[row])
        first = self.encoder_tokens[sequence] if self.encoder_tokens else 0
        return self.tokens[sequence][first + int(self.position[row])]

    def columns_of_frame(self, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """One row for each output, level and token: ``values``, [N, levels, T] each, beside what they belong to.

        Columns: sequence, position, position_token, level, side (of encoder-decoders), token_index, token. An index counts the
        tokens of its side.
        """
        import pandas as pd

        first = next(iter(values.values()))
        lengths = np.array([len(self.tokens[s]) for s in self.sequence])
        rows = int(lengths.sum()) * first.shape[1]
        if rows > MOST_ROWS:
            raise InputError(
                f"the table would have {rows:,} rows, at most {MOST_ROWS:,} are made; use fewer positions, or the array weights"
            )
        exists = np.arange(first.shape[2])[None, None] < lengths[:, None, None]
        n, level, token = np.nonzero(np.broadcast_to(exists, first.shape))
        sequence = self.sequence[n]
        texts = np.concatenate([np.array(each, dtype=object) for each in self.tokens])
        starts = np.cumsum([0, *map(len, self.tokens)])[:-1]
        of_encoder = np.array(self.encoder_tokens or [0] * len(self.tokens))[sequence]
        outputs = np.array([self.output_token(row) for row in range(len(self.sequence))], dtype=object)
        columns: dict[str, object] = {
            "sequence": sequence,
            "position": self.position[n],
            "position_token": pd.Series(outputs[n], dtype="str"),
            "level": pd.Categorical.from_codes(level, dtype=pd.CategoricalDtype(list(self.levels))),
        }
        if self.encoder_tokens:
            columns["side"] = np.where(token < of_encoder, "encoder", "decoder")
        columns["token_index"] = np.where(token < of_encoder, token, token - of_encoder)
        columns["token"] = pd.Series(texts[starts[sequence] + token], dtype="str")
        return pd.DataFrame(columns | {name: value[n, level, token] for name, value in values.items()})

    def _own(self, sequence: int, position: int) -> int:
        length = len(self.tokens[sequence]) - (self.encoder_tokens[sequence] if self.encoder_tokens else 0)
        return position % length if -length <= position < length else position
