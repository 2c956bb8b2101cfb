"""Which heads implement a relation between tokens, such as France -> Paris, told from their weights: the score of MAPS.

A head's value-output circuit maps every token s to logits of all tokens, row s of W_E B_h^T A_h W_U^T
(``interp.captures.circuits``). The score of a head for pairs (s, t) is the share of pairs with t among the k largest entries of
s's row:

    score_h = mean over the pairs of [t in top_k of row s]    from 0 to 1; k / V by chance

Source: Elhelo and Geva, Inferring Functionality of Attention Heads from their Parameters (arXiv 2412.11965), k = 10. The
weights of the norms on the way are folded in here, which changes what is largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from interp.captures.circuits import check_plain, circuits, heads_of
from interp.errors import InputError
from interp.heads.ov_copying import target_ranks
from interp.heads.targets import Tokens, target_ids
from interp.models.layers import LayerKey
from interp.naming import head_name
from interp.results.result import Result
from interp.results.settings import settings_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MapsScores(Result):
    """How strongly each head maps the sources of a relation to their targets; NaN where a layer has fewer heads.

    scores  [L, H], the share of pairs with the target among the k largest logits, from 0 to 1
    ranks   [L, H], the median rank of the target, from 0
    layers  of the first axis
    pairs   their texts
    chance  k / V
    """

    kind: ClassVar[str] = "maps"

    scores: np.ndarray
    ranks: np.ndarray
    layers: tuple[LayerKey, ...]
    pairs: tuple[tuple[str, str], ...]
    k: int
    chance: float

    def to_frame(self) -> pd.DataFrame:
        """One row for each head: layer, head, score, stderr (over the pairs; NaN of one), median_rank, chance."""
        import pandas as pd

        layer, head = np.indices(self.scores.shape)
        score, pairs = self.scores.ravel(), len(self.pairs)
        frame = pd.DataFrame(
            {
                "layer": [self.layers[at] for at in layer.ravel()],
                "head": head.ravel(),
                "score": score,
                "stderr": np.sqrt(score * (1 - score) / (pairs - 1)) if pairs > 1 else np.nan,
                "median_rank": self.ranks.ravel(),
                "chance": self.chance,
            }
        )
        return frame[frame["score"].notna()].reset_index(drop=True)

    def plot(self) -> go.Figure:
        """Layer x head grid of the scores."""
        from interp.plots.circuits import maps_grid

        return maps_grid(self)

    def summary(self) -> str:
        frame = self.to_frame().sort_values("score", ascending=False, kind="stable").head(SHOWN)
        columns = zip(frame["layer"].tolist(), frame["head"].tolist(), frame["score"].tolist(), strict=True)
        named = [f"{head_name(layer, head)} {score:.2f}" for layer, head, score in columns]
        return f"{len(self.pairs)} pairs, target in the top {self.k} (chance {self.chance:.4f}); strongest: {', '.join(named)}"


def maps_score(model: HookedModel, pairs: Iterable[tuple[Tokens, Tokens]], k: int = 10) -> MapsScores:
    """How strongly every head maps sources to targets, from the weights; see the top of the file. No text is read.

    Cost and memory: as of ``ov_copying`` with a sample of as many tokens as there are pairs.

    Args:
        pairs: (source, target), each a token's id or a text that is one token, such as [(" France", " Paris")].

    Raises:
        InputError: no pairs, or one that is none; a text that is not one token; k out of range; a model without such circuits.
    """
    check_plain(model)
    vocabulary = min(
        m.weight.shape[0] for m in (model.host.inner.get_input_embeddings(), model.host.inner.get_output_embeddings())
    )
    if type(k) is not int or not 1 <= k < vocabulary:
        raise InputError(f"k: expected a whole number from 1 to {vocabulary - 1}, got {k!r}")
    listed = [pair if isinstance(pair, tuple | list) else (pair,) for pair in (pairs if np.iterable(pairs) else ())]
    if not listed or any(len(pair) != 2 for pair in listed):
        raise InputError("pairs: expected at least one pair (source, target), such as [(' France', ' Paris')]")
    ids = [torch.cat([target_ids("pairs", model, pair[side], 1, vocabulary) for pair in listed]) for side in (0, 1)]
    found = circuits(model)
    widest = max(circuit.writes.shape[0] for circuit in found.layers.values())
    scores, medians = (np.full((len(found.layers), widest), np.nan) for _ in range(2))
    for layer, head, b, a in heads_of(found):
        ranks = target_ranks(found, a, b, *ids)
        scores[layer, head] = float((ranks < k).double().mean())
        medians[layer, head] = float(ranks.quantile(0.5))
    texts = [[model.token_strings([i])[0] for i in side.tolist()] for side in ids]
    return MapsScores(
        settings=settings_of(
            model,
            method="share of pairs (s, t) with t among the k largest of row s of W_E B_h^T A_h W_U^T",
            source="Elhelo and Geva, arXiv 2412.11965",
            constants={"k": k, "norms": "weights folded in, scales left out"},
            inputs={"pairs": [list(pair) for pair in zip(*(side.tolist() for side in ids), strict=True)]},
        ),
        scores=scores,
        ranks=medians,
        layers=tuple(found.layers),
        pairs=tuple(zip(*texts, strict=True)),
        k=k,
        chance=k / vocabulary,
    )
