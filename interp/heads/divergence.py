"""How unlike the maps of two heads are: Jensen-Shannon divergences of all pairs, heads in the plane, and clusters.

Clark et al. ("What Does BERT Look At? An Analysis of BERT's Attention", arXiv 1906.04341, section 6): heads of one layer do
much the same. Their code (clarkkev/attention-analysis, head_distances.py) sums over all rows of all texts; ``divergence`` is
the mean over those rows, which differs by the factor ``rows``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.clusters import check_sklearn, clustered, in_plane
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec, head_counts, parse_heads
from interp.naming import head_name
from interp.progress import Bar
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey
    from interp_kernels import AttentionMap

SOURCE = "Clark et al., What Does BERT Look At?, arXiv 1906.04341; clarkkev/attention-analysis"
SMOOTHING = 0.001
CELLS = 1 << 21
"""Cells of all heads that are held at once, in float64: 16 MB, and a few times that on the way."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadDivergences(Result):
    """Divergences of N heads.

    heads       names, such as "L2H5", in the order of the axes below
    layers, numbers  the layer of each head, as a string, and its number there
    divergence  [N, N], nats, in [0, ln 2]: mean over rows of the Jensen-Shannon divergence of the two heads' rows
    place       [N, 2], the plane of metric multidimensional scaling, in nats
    stress      how much of the divergences the plane does not show: Kruskal's stress-1, in [0, 1]; below 0.1 it shows them well
    cluster     [N], number of each head's cluster, from 0 on, the largest first
    rows        how many rows the means are over
    """

    kind: ClassVar[str] = "head_divergences"

    heads: tuple[str, ...]
    layers: tuple[str, ...]
    numbers: tuple[int, ...]
    divergence: np.ndarray
    place: np.ndarray
    stress: float
    cluster: np.ndarray
    rows: int

    def to_frame(self) -> pd.DataFrame:
        """One row a head: layer, head, cluster, its place in the plane, and the nearest other head with its divergence.

        Layers are integers, as in other tables, where all of them are plain numbers.
        """
        plain = all(layer.isdecimal() for layer in self.layers)
        apart = self.divergence + np.diag(np.full(len(self.heads), np.inf))
        nearest = apart.argmin(axis=1)
        return pd.DataFrame(
            {
                "layer": [int(layer) for layer in self.layers] if plain else self.layers,
                "head": self.numbers,
                "cluster": self.cluster,
                "x": self.place[:, 0],
                "y": self.place[:, 1],
                "nearest": [self.heads[n] for n in nearest],
                "divergence": apart.min(axis=1),
            }
        )

    def pairs(self) -> pd.DataFrame:
        """One row a pair of heads, most alike first."""
        first, second = np.triu_indices(len(self.heads), k=1)
        frame = pd.DataFrame(
            {
                "first": [self.heads[n] for n in first],
                "second": [self.heads[n] for n in second],
                "divergence": self.divergence[first, second],
            }
        )
        return frame.sort_values("divergence", kind="stable", ignore_index=True)

    def plot(self) -> go.Figure:
        """The heads in the plane; see ``interp.plots.divergence``."""
        from interp.plots.divergence import heads_in_plane

        return heads_in_plane(self)

    def summary(self) -> str:
        pairs = self.pairs()
        most, least = pairs.iloc[0], pairs.iloc[-1]
        groups = [
            ", ".join(name for name, number in zip(self.heads, self.cluster, strict=True) if number == n)
            for n in range(int(self.cluster.max()) + 1)
        ]
        return "\n".join(
            [
                f"{len(self.heads)} heads over {self.rows:,} rows",
                f"most alike {most['first']} and {most['second']} ({most['divergence']:.3f} nats)",
                f"least alike {least['first']} and {least['second']} ({least['divergence']:.3f} nats)",
                *(f"cluster {n}: {members}" for n, members in enumerate(groups)),
            ]
        )


def divergences(
    model: HookedModel,
    inputs: Inputs | Batch,
    heads: HeadSpec | Iterable[HeadSpec] | None = None,
    *,
    layers: Iterable[LayerKey] | None = None,
    smoothing: float = SMOOTHING,
    rows: int | None = None,
    clusters: int | None = None,
    seed: int = 0,
    beyond_context: bool = False,
    progress: bool = False,
) -> HeadDivergences:
    """Jensen-Shannon divergence of every pair of heads, on the same rows, with the heads in the plane and in clusters.

    With P and Q the maps of two heads, smoothed to 0.999 P + 0.001 / T, and M = (P + Q) / 2, in nats:

        JS = mean over rows i of  1/2 sum_j P_ij ln(P_ij / M_ij) + 1/2 sum_j Q_ij ln(Q_ij / M_ij)

    T is the number of keys that are no padding. The maps are read row block by row block from the lazy maps, of all heads at
    once: O(N T) memory for N heads, and N^2 T / 2 logarithms a row. ``rows`` bounds the time of long inputs.

    The plane is metric multidimensional scaling of the divergences as they are (scikit-learn's MDS, four random starts); the
    clusters are agglomerative, by average linkage.

    Args:
        inputs: as for ``HookedModel.capture``.
        heads: which heads, such as ["L2H5", (3, 1)]; or all those of ``layers``, by default of every layer.
        smoothing: mass that is spread evenly over the keys, in (0, 1): without, ln 0 could stand in the formula.
        rows: at most so many rows of each sequence, evenly spread; None: all of them.
        clusters: how many; None: the number from 2 to 12 whose clusters are told apart best, by the mean silhouette.
        seed: of the random starts in the plane.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.
        progress: show a progress bar over rows on stderr.

    Raises:
        InputError: fewer than three heads, heads of stacks that see different tokens, options out of range, no scikit-learn.
    """
    _check_options(smoothing, rows, clusters, seed)
    check_sklearn()
    chosen = _chosen(model, heads, layers)
    names = [(layer, head) for layer, numbers in chosen.items() for head in numbers]
    if len(names) < 3:
        raise InputError(f"heads: expected at least three to compare, got {[head_name(*name) for name in names]}")
    if clusters is not None and clusters > len(names):
        raise InputError(f"clusters: expected at most the number of heads, {len(names)}, got {clusters}")
    batch = model.checked(inputs, beyond_context=beyond_context)
    maps = model.maps(batch, chosen, beyond_context=beyond_context)
    divergence, count = _divergence(maps, chosen, _kept(batch, maps), smoothing, rows, progress)
    place, stress = in_plane(divergence, seed)
    return HeadDivergences(
        settings=settings_of(
            model,
            method="mean over rows of the Jensen-Shannon divergence of smoothed rows; metric MDS; average linkage",
            source=SOURCE,
            constants={"smoothing": smoothing, "rows": rows, "clusters": clusters, "seed": seed},
            inputs=inputs_of(batch),
        ),
        heads=tuple(head_name(*name) for name in names),
        layers=tuple(str(layer) for layer, _ in names),
        numbers=tuple(head for _, head in names),
        divergence=divergence,
        place=place,
        stress=stress,
        cluster=clustered(divergence, clusters),
        rows=count,
    )


def _check_options(smoothing: Any, rows: Any, clusters: Any, seed: Any) -> None:
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    if not isinstance(smoothing, float) or not 0 < smoothing < 1:
        raise InputError(f"smoothing: expected a number between 0 and 1, got {smoothing!r}")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise InputError(f"rows: expected an integer of at least 1, or None for all, got {rows!r}")
    if clusters is not None and (type(clusters) is not int or clusters < 1):
        raise InputError(f"clusters: expected an integer of at least 1, or None to choose, got {clusters!r}")


def _chosen(
    model: HookedModel, heads: HeadSpec | Iterable[HeadSpec] | None, layers: Iterable[LayerKey] | None
) -> dict[LayerKey, tuple[int, ...]]:
    if heads is not None:
        if layers is not None:
            raise InputError("heads name their layers; give either heads= or layers=")
        return parse_heads(heads, head_counts(model.host.layers))
    wanted = model.wanted_layers(layers)
    counts = head_counts(model.host.layers)
    return {layer: tuple(range(counts[layer] or model.shape.heads)) for layer in model.layers if layer in wanted}


def _kept(batch: Batch, maps: Mapping[LayerKey, AttentionMap]) -> tuple[Tensor, Tensor]:
    """Which queries and which keys are no padding, [B, Tq] and [B, Tk], the same in all layers.

    Raises:
        InputError: the layers' maps are not over the same tokens.
    """
    sizes = {(each.shape[0], *each.shape[2:]) for each in maps.values()}
    stacks = {str(layer).rpartition(".")[0] for layer in maps}
    if len(sizes) > 1 or len(stacks) > 1:
        raise InputError(
            f"heads: their maps must be over the same tokens, and layers {list(maps)} are of the stacks {sorted(stacks)}; "
            "choose layers of one stack"
        )
    (b, queries, keys), stack = sizes.pop(), stacks.pop()
    of_queries, of_keys = batch.queries_kept(stack), batch.keys_kept(stack)
    return (
        torch.ones(b, queries, dtype=torch.bool) if of_queries is None else of_queries.cpu(),
        torch.ones(b, keys, dtype=torch.bool) if of_keys is None else of_keys.cpu(),
    )


def _divergence(
    maps: Mapping[LayerKey, AttentionMap],
    chosen: dict[LayerKey, tuple[int, ...]],
    kept: tuple[Tensor, Tensor],
    smoothing: float,
    rows: int | None,
    progress: bool,
) -> tuple[np.ndarray, int]:
    """Mean divergences [N, N], and over how many rows."""
    count = sum(len(numbers) for numbers in chosen.values())
    total = torch.zeros(count, count, dtype=torch.float64)
    wanted = [_rows(queries, rows) for queries in kept[0]]
    done = sum(len(index) for index in wanted)
    with Bar(total=done, unit="row", what="divergences", show=progress) as bar:
        for sequence, index in enumerate(wanted):
            keys = kept[1][sequence]
            for block in index.split(max(1, CELLS // (count * len(keys)))):
                total += _summed(_smoothed(maps, chosen, sequence, block, keys, smoothing)).cpu()
                bar.update(len(block))
    return (total / done).numpy(), done


def _rows(keep: Tensor, most: int | None) -> Tensor:
    """Indices of the rows to compare, evenly spread over those that are kept."""
    index = keep.nonzero()[:, 0]
    if most is None or len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most).round().long()]


def _smoothed(
    maps: Mapping[LayerKey, AttentionMap],
    chosen: dict[LayerKey, tuple[int, ...]],
    sequence: int,
    block: Tensor,
    keys: Tensor,
    smoothing: float,
) -> Tensor:
    """Rows of all heads, [N, rows, keys that are no padding], float64."""
    parts = []
    for layer, numbers in chosen.items():
        for head in numbers:
            p = maps[layer].head(sequence, head).rows(block.to(maps[layer].lse.device))[0, 0]
            parts.append(p[:, keys.to(p.device)].double())
    return (1 - smoothing) * torch.stack(parts) + smoothing / int(keys.sum())


def _summed(p: Tensor) -> Tensor:
    """Sums over rows of the divergence of every pair, [N, N]. p: [N, rows, keys].

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2, with the entropies of each row summed first.
    """
    count = p.shape[0]
    own = _entropy(p)
    found = torch.zeros(count, count, dtype=torch.float64, device=p.device)
    for n in range(count - 1):
        mixed = _entropy((p[n + 1 :] + p[n]) / 2)
        found[n, n + 1 :] = (mixed - (own[n + 1 :] + own[n]) / 2).clamp(min=0)
    return found + found.T


def _entropy(p: Tensor) -> Tensor:
    """-sum p ln p over rows and keys, [N]."""
    return -torch.special.xlogy(p, p).sum(dim=(1, 2))
