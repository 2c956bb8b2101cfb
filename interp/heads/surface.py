"""Surface statistics: where a head looks by position and by kind of token, how broadly, and how far.

The first look that Clark et al. take at BERT ("What Does BERT Look At? An Analysis of BERT's Attention", arXiv 1906.04341,
section 3): attention on the previous, the current and the next token, on delimiters and special tokens, on punctuation, and the
entropy of the rows. All of it comes from probes in one forward run, O(T) memory, at any length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.token_classes import CLASSES, TokenClass, checked_classes, members
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.inputs.windows import Windows
from interp.naming import head_name, nearest
from interp.progress import Bar
from interp.results.means import means
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of
from interp_kernels import Distance, DistanceHistogram, Entropy, KeyMass, OffsetMass, Peak, Probe

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.captures.capture import Capture
    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey

SOURCE = "Clark et al., What Does BERT Look At?, arXiv 1906.04341"
OFFSETS = (1, 0, -1)
"""The previous, the current and the next token, as i - j."""
NAMES = {1: "previous_token", 0: "current_token", -1: "next_token"}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SurfaceStatistics(Result):
    """Surface statistics of every head.

    table    one row per layer, head and statistic: layer, head, statistic, unit, value, stderr, chance, samples. value is the
             mean over sequences of each one's mean over its queries
    profile  [L, H, bins], mass by distance, mean over sequences; its bins are ``edges``
    uniform  [L, bins], the same under uniform attention
    layers   keys of the layers, as strings
    edges    left edges of the bins of distance, and the last bin's right edge (infinity as -1)
    """

    kind: ClassVar[str] = "surface"

    table: pd.DataFrame
    profile: np.ndarray
    uniform: np.ndarray
    layers: tuple[str, ...]
    edges: tuple[int, ...]

    @property
    def statistics(self) -> list[str]:
        return list(dict.fromkeys(self.table["statistic"]))

    def to_frame(self) -> pd.DataFrame:
        """The table; see the class."""
        return self.table.copy()

    def of(self, statistic: str) -> pd.DataFrame:
        """The rows of one statistic, largest first."""
        if statistic not in self.statistics:
            raise InputError(f"there is no statistic {statistic!r} here; {nearest(str(statistic), self.statistics)}")
        rows = self.table[self.table["statistic"] == statistic]
        return rows.sort_values("value", ascending=False, ignore_index=True, kind="stable")

    def plot(self, statistics: str | Sequence[str] | None = None) -> go.Figure:
        """A panel a statistic: a dot a head over its layer, and chance as a line; see ``interp.plots.surface``."""
        from interp.plots.surface import surface_panels

        given = self.statistics if statistics is None else statistics
        chosen = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
        if not chosen:
            raise InputError(f"statistics: expected at least one of {', '.join(self.statistics)}")
        return surface_panels(self, chosen)

    def plot_grid(self, statistic: str) -> go.Figure:
        """Layer x head grid of one statistic; see ``interp.plots.surface``."""
        from interp.plots.surface import statistic_grid

        return statistic_grid(self, statistic)

    def plot_profile(self, *heads: str) -> go.Figure:
        """Mass by distance of some heads ("L5H1"), the strongest at looking far by default, beside uniform attention."""
        from interp.plots.surface import distance_profiles

        return distance_profiles(self, heads)

    def summary(self) -> str:
        lines = []
        for statistic in self.statistics:
            rows = self.of(statistic)
            best = rows.iloc[0]
            if math.isnan(best["value"]):
                lines.append(f"{statistic:<16} not defined: no query has such a key")
                continue
            lines.append(
                f"{statistic:<16} largest {head_name(best['layer'], int(best['head']))} {best['value']:.3g} {best['unit']}"
                f" (chance {best['chance']:.3g}), median {rows['value'].median():.3g}"
            )
        return "\n".join(lines)


def surface(
    model: HookedModel,
    inputs: Inputs | Batch | Windows,
    *,
    classes: Mapping[str, TokenClass] = CLASSES,
    layers: Sequence[LayerKey] | None = None,
    beyond_context: bool = False,
    progress: bool = False,
) -> SurfaceStatistics:
    """Surface statistics of every head on ``inputs``; several texts, or windows of a long one, are averaged one by one.

    With P a head's map and the mean taken over the queries i that are no padding, and for which the pair exists:

        previous_token, current_token, next_token   mean_i P_i,(i-1), P_i,i, P_i,(i+1)
        <class>      mean_i sum_j P_ij [token_j is in the class], for each of ``classes``
        entropy      mean_i -sum_j P_ij ln P_ij, nats
        distance     mean_i sum_j P_ij |i - j|, tokens
        peak         mean_i max_j P_ij
        profile      mean_i of the mass at distances 0, 1, 2 to 3, 4 to 7, 8 to 15, ... tokens

    Their chance levels are the same probes under uniform attention over the visible keys. Of heads that only look back
    there is no next token.

    Args:
        inputs: as for ``HookedModel.capture``, or ``model.windows(text)``.
        classes: name -> whether a token is in that class of keys. By default what the tokenizer calls special, and punctuation.
        layers: as for ``HookedModel.capture``, of one stack whose keys are the tokens of the input.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.
        progress: show a progress bar over windows on stderr.

    Raises:
        InputError: inputs, layers or classes that do not fit.
    """
    wanted = _layers(model, layers)
    for name in checked_classes(classes):
        if name in (*NAMES.values(), "entropy", "distance", "peak", "profile"):
            raise InputError(f"classes: {name!r} is the name of another statistic; give the class another name")
    batches = _batches(model, inputs, beyond_context)
    edges = _edges(max(batch.tokens for batch in batches))
    values: dict[str, list[Tensor]] = {}
    chances: dict[str, list[Tensor]] = {}
    for batch in Bar(batches, unit="window", what=f"surface {model.name}", show=progress):
        probes = _probes(model, batch, classes, edges)
        capture = model.capture(batch, probes, wanted, beyond_context=True)
        for name, value in _statistics(capture.stats, classes).items():
            values.setdefault(name, []).append(value)
        for name, value in _statistics(_uniform(probes, capture), classes).items():
            chances.setdefault(name, []).append(value[:, :, 0])
    measured = {name: torch.cat(parts).double().numpy() for name, parts in values.items()}
    chance = {name: torch.cat(parts).double().numpy() for name, parts in chances.items()}
    if np.isnan(chance[NAMES[-1]]).all():  # nobody sees a next token
        del measured[NAMES[-1]], chance[NAMES[-1]]
    finite = tuple(int(edge) if math.isfinite(edge) else -1 for edge in edges)
    return SurfaceStatistics(
        settings=settings_of(
            model,
            method="means over queries of attention by offset and class of key, entropy, distance; mean over sequences",
            source=SOURCE,
            constants={"classes": list(classes), "edges": finite, "layers": [str(layer) for layer in wanted]},
            inputs={"sequences": len(measured["entropy"]), "batches": [inputs_of(batch) for batch in batches]},
        ),
        table=_table(wanted, measured, chance),
        profile=means(measured["profile"]).mean,
        uniform=means(chance["profile"]).mean,
        layers=tuple(str(layer) for layer in wanted),
        edges=finite,
    )


def _layers(model: HookedModel, layers: Sequence[LayerKey] | None) -> list[LayerKey]:
    chosen = model.wanted_layers(layers)
    wanted = [layer for layer in model.layers if layer in chosen]
    stacks = {str(layer).rpartition(".")[0] for layer in wanted}
    if len(stacks) != 1 or not stacks <= {"", "encoder", "text"}:
        raise InputError(
            f"layers: expected layers of one stack that attends over the input's own tokens, got {wanted}; choose some with "
            "layers=, such as those of the encoder"
        )
    return wanted


def _batches(model: HookedModel, inputs: Any, beyond_context: bool) -> list[Batch]:
    if isinstance(inputs, Windows):
        return [window.batch for window in inputs]
    batch = model.checked(inputs, beyond_context=beyond_context)
    if batch.ids is None:
        raise InputError(
            f"inputs: expected a text or token ids, got {sorted(batch.others)}; {model.name} reads no tokens here"
        )
    return [batch]


def _edges(tokens: int) -> tuple[float, ...]:
    """0, 1, 2, 4, 8, ... up to the length of the longest input."""
    return (0, *(1 << power for power in range(max(1, (tokens - 1).bit_length()))), math.inf)


def _probes(
    model: HookedModel, batch: Batch, classes: Mapping[str, TokenClass], edges: tuple[float, ...]
) -> list[Probe]:
    probes: list[Probe] = [OffsetMass((d,), name=NAMES[d], reduce="mean") for d in OFFSETS]
    for name, is_member in classes.items():
        probes.append(KeyMass(members(model, batch, is_member).float()[..., None], name=name, reduce="mean"))
    return [
        *probes,
        Entropy(reduce="mean"),
        Distance(reduce="mean"),
        Peak(reduce="mean"),
        DistanceHistogram(edges, name="profile", reduce="mean"),
    ]


def _uniform(probes: Sequence[Probe], capture: Capture) -> dict[str, dict[LayerKey, Tensor]]:
    """What the capture would hold under uniform attention, with one head."""
    assert capture.ids is not None
    keep = capture.keep
    if keep is not None and not bool(keep.all()):
        probes = [replace(probe, queries=keep) for probe in probes]
    found = uniform_stats(probes, [capture.masks[layer] for layer in capture.layers], capture.ids)
    return {name: dict(zip(capture.layers, (stats[name] for stats in found), strict=True)) for name in capture.stats}


def _statistics(stats: Mapping[str, Mapping[LayerKey, Tensor]], classes: Mapping[str, TokenClass]) -> dict[str, Tensor]:
    """Each statistic as [B, L, H], the profile as [B, L, H, bins], on the CPU."""
    stacked = {name: torch.stack([value.cpu() for value in layers.values()], dim=1) for name, layers in stats.items()}
    single = {*NAMES.values(), *classes}
    return {name: value[..., 0] if name in single else value for name, value in stacked.items()}


UNITS = {"entropy": "nats", "distance": "tokens"}


def _table(
    layers: Sequence[LayerKey], measured: Mapping[str, np.ndarray], chance: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    parts = []
    for name, values in measured.items():  # [S, L, H]
        if name == "profile":
            continue
        found, heads = means(values), values.shape[2]
        layer, head = np.meshgrid(np.arange(len(layers)), np.arange(heads), indexing="ij")
        parts.append(
            pd.DataFrame(
                {
                    "layer": [layers[number] for number in layer.ravel()],
                    "head": head.ravel(),
                    "statistic": name,
                    "unit": UNITS.get(name, "mass"),
                    "value": found.mean.ravel(),
                    "stderr": found.stderr.ravel(),
                    "chance": np.repeat(means(chance[name]).mean, heads),
                    "samples": found.count.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
