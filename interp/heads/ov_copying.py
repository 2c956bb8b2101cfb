"""Does a head raise the logit of the token that it attends to? Told from its weights, by its value-output circuit.

Whatever a head attends to, it maps each token s to logits of every token t by one matrix of V x V numbers,

    G_h = W_U A_h^T B_h W_E    G_h[t, s]: what attending to s alone adds to the logit of t

with the norms' weights folded in and their scales left out (``interp.captures.circuits``). A head that copies raises each
token's own
logit: G_h has a large trace, its eigenvalues have positive real parts. The copying score is

    sum_i Re(lambda_i) / sum_i |lambda_i|    from -1 (each direction is suppressed) over 0 (a random head) to 1 (each is copied)

The matrix is never made: B W_E W_U^T A^T has the same eigenvalues but for zeros, and is as small as the head is wide. Beside it
stands the rank of each token's own logit among all tokens', from 0 (it is raised most) to 1 (it is lowered most), on a sample
of tokens.

Source: Elhage et al., A Mathematical Framework for Transformer Circuits, 2021 (transformer-circuits.pub/2021/framework): "copying
heads" by the eigenvalues of W_U W_OV W_E; their figures show this ratio for each head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.captures.circuits import Circuits, check_plain, circuits, heads_of
from interp.errors import InputError
from interp.heads.detector import RunDetector, Scored, Setting
from interp.models.layers import LayerKey
from interp.naming import head_name
from interp.results.result import Result
from interp.results.settings import settings_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

SOURCE = "Elhage et al., A Mathematical Framework for Transformer Circuits, 2021"
CHUNK = 2**24
"""Logits that are held at once."""
SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OVCopying(Result):
    """What the value-output circuit of each head does to the token that is attended to; NaN where a layer has fewer heads.

    scores      [L, H], the copying score, from -1 to 1; NaN for a head that writes nothing
    own_rank    [L, H], mean over the sample of (tokens with a larger logit than the token itself) / (V - 1), ties in the
                middle; 0.5 by chance
    own_stderr  [L, H], its standard error over the sample
    top_share   [L, H], the share of the sample whose own logit is among the ``k`` largest; k / V by chance
    layers      of the first axis
    sample      how many tokens of ``vocabulary`` were ranked
    """

    kind: ClassVar[str] = "ov_copying"

    scores: np.ndarray
    own_rank: np.ndarray
    own_stderr: np.ndarray
    top_share: np.ndarray
    layers: tuple[LayerKey, ...]
    k: int
    sample: int
    vocabulary: int

    def to_frame(self) -> pd.DataFrame:
        """One row for each head: layer, head, score, own_rank, own_stderr, top_share."""
        import pandas as pd

        layer, head = np.indices(self.scores.shape)
        columns = {name: getattr(self, name).ravel() for name in ("own_rank", "own_stderr", "top_share")}
        named = [self.layers[at] for at in layer.ravel()]
        frame = pd.DataFrame({"layer": named, "head": head.ravel(), "score": self.scores.ravel(), **columns})
        return frame[frame["own_rank"].notna()].reset_index(drop=True)

    def plot(self) -> go.Figure:
        """Layer x head grid of the copying scores."""
        from interp.plots.circuits import copying_grid

        return copying_grid(self)

    def summary(self) -> str:
        frame = self.to_frame().sort_values("score", ascending=False, kind="stable")
        columns = zip(frame["layer"].tolist(), frame["head"].tolist(), frame["score"].tolist(), strict=True)
        named = [f"{head_name(layer, head)} {score:+.2f}" for layer, head, score in columns]
        ends = f"most: {', '.join(named[:SHOWN])}; least: {', '.join(named[::-1][:SHOWN])}"
        return f"copying scores of {len(frame)} heads, mean {np.nanmean(self.scores):+.2f}; {ends}"


def ov_copying(model: HookedModel, *, sample: int | None = 1000, k: int = 10, seed: int = 0) -> OVCopying:
    """The copying score of every head and the ranks of tokens' own logits; see the top of the file. No text is read.

    Cost: that of the circuits, and for each head a table of V x Dv against d_model and one of sample x V against Dv; memory as
    of the circuits, and 64 MB.

    Args:
        sample: how many tokens to rank, drawn without replacement; None: all.
        k: of ``top_share``.
        seed: of the sample.

    Raises:
        InputError: options out of range; a model without such circuits, see ``interp.captures.circuits``.
    """
    if sample is not None and (type(sample) is not int or sample < 2):
        raise InputError(f"sample: expected a whole number of at least 2, or None for all tokens, got {sample!r}")
    if type(k) is not int or k < 1:
        raise InputError(f"k: expected a whole number of at least 1, got {k!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    found = circuits(model)
    vocabulary = found.embedding.shape[0]
    count = vocabulary if sample is None else min(sample, vocabulary)
    chosen = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    grids = {name: _grid(found) for name in ("scores", "own_rank", "own_stderr", "top_share")}
    between = embedding_unembedding(found)
    for layer, head, b, a in heads_of(found):
        ranks = target_ranks(found, a, b, chosen, chosen)
        relative = ranks / (vocabulary - 1)
        grids["scores"][layer, head] = copying_score(a, b, between)
        grids["own_rank"][layer, head] = float(relative.mean())
        grids["own_stderr"][layer, head] = float(relative.std()) / count**0.5
        grids["top_share"][layer, head] = float((ranks < k).double().mean())
    return OVCopying(
        settings=settings_of(
            model,
            method="sum of real parts over sum of absolute values of the eigenvalues of W_U A_h^T B_h W_E",
            source=SOURCE,
            constants={"sample": count, "k": k, "seed": seed, "norms": "weights folded in, scales left out"},
            inputs={"weights": True},
        ),
        layers=tuple(found.layers),
        k=k,
        sample=count,
        vocabulary=vocabulary,
        **grids,
    )


def embedding_unembedding(found: Circuits) -> Tensor:
    """W_E W_U^T, that is sum over the tokens of e_s u_s^T, [d_embedding, d_model], float64."""
    chunk = max(1, CHUNK // max(found.embedding.shape[1], found.unembedding.shape[1]))
    total = torch.zeros(found.embedding.shape[1], found.unembedding.shape[1], dtype=torch.float64)
    for e, u in zip(found.embedding.split(chunk), found.unembedding.split(chunk), strict=True):
        total += e.double().T @ u.double()
    return total


def copying_score(a: Tensor, b: Tensor, between: Tensor) -> float:
    """The copying score of one head, of A and B [Dv, d] and W_E W_U^T; NaN where all eigenvalues are 0."""
    values = torch.linalg.eigvals(b.double() @ between @ a.double().T)
    size = float(values.abs().sum())
    return float(values.real.sum()) / size if size > 0 else float("nan")


def target_ranks(found: Circuits, a: Tensor, b: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """How many tokens have a larger entry in G[:, s] than t, for pairs of ids s and t [n]; ties count by half. [n], float64."""
    read = found.embedding[sources] @ b.T  # [n, Dv]
    write = found.unembedding @ a.T  # [V, Dv]
    ranks = []
    for rows, ids in zip(
        read.split(max(1, CHUNK // len(write))), targets.split(max(1, CHUNK // len(write))), strict=True
    ):
        logits = rows @ write.T
        own = logits.gather(1, ids[:, None])
        ranks.append((logits > own).sum(dim=1) + ((logits == own).sum(dim=1) - 1) / 2)
    return torch.cat(ranks).double()


def _grid(found: Circuits) -> np.ndarray:
    widest = max(circuit.writes.shape[0] for circuit in found.layers.values())
    return np.full((len(found.layers), widest), np.nan)


@dataclass(frozen=True)
class OVCopyingDetector(RunDetector):
    """The copying score of the value-output circuit, from -1 to 1; see the top of ``interp.heads.ov_copying``.

    It reads weights alone: there is no sample, no standard error, and no chance level by attention. A head of random weights
    that is n wide scores 0 with a standard deviation of about 1.5 / n. It says what a head would write of what it attends to
    directly; whether it attends to anything is another question, and what earlier layers have made of that token is left out.
    """

    name: str = "ov_copying"
    definition: str = (
        "from the weights: sum of real parts over sum of absolute values of the eigenvalues of W_U W_OV W_E"
    )
    source: str = "Elhage et al., A Mathematical Framework for Transformer Circuits, 2021; TransformerLens"
    threshold: float = 0.5
    threshold_source: str = (
        "ours, none is published: three quarters of the eigenvalues' size has a positive real part where they are real; a "
        "head of random weights that is 64 wide reaches 0.02"
    )
    is_causal: bool = False
    positions: int = 1
    low: float = -1.0
    high: float = 1.0

    def unfit(self, model: HookedModel) -> str | None:
        try:
            check_plain(model)
        except InputError as error:
            return str(error)
        return None

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        found = circuits(model)
        between = embedding_unembedding(found)
        scores = torch.from_numpy(_grid(found))
        for layer, head, b, a in heads_of(found):
            scores[layer, head] = copying_score(a, b, between)
        chance = torch.full((1, len(scores)), torch.nan, dtype=torch.float64)
        return Scored(scores[None], chance, f"the weights alone, over {len(found.embedding):,} tokens")
