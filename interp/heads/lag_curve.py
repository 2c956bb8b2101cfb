"""The lag curve: how much attention lies around the earlier copy of a token, by distance from it.

    curve(lag) = mean over queries i, of the mean over earlier copies j < i (token_j = token_i) of A[i, j + lag]

lag 0 is the copy itself (duplicate token), +1 what followed it (induction), -1 what stood before it. Of Ji-An et al., Linking
In-context Learning in Transformers to Human Episodic Memory (arXiv 2405.14992), who compare it with the recall curve of the
contextual maintenance and retrieval model of memory, on repeated random tokens, for lags from -5 to 5. That model is not
fitted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.samples import RepeatedRandom
from interp.heads.texts import batches_of, single_stack
from interp.heads.tokens import occurrence, shifted
from interp.inputs.batch import Batch
from interp.naming import head_name
from interp.results.result import Result
from interp.results.settings import checksum, settings_of
from interp_kernels import LabelMatch, OffsetMass, Probe
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.inputs.rows import Inputs
    from interp.models.hooked import HookedModel

LAGS = tuple(range(-5, 6))
LARGEST_LAG = 64


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LagCurve(Result):
    """Attention by lag around the earlier copy.

    lags     their values, ascending
    layers   their numbers
    curve    [L, H, lags], in [0, 1], mean over samples; NaN where no query of any sample has the pair
    stderr   [L, H, lags], standard error of that mean over samples; NaN with fewer than two
    chance   [L, lags], of uniform attention over the visible keys
    samples  [lags], samples in which a query has the pair
    """

    kind: ClassVar[str] = "lag_curve"

    lags: tuple[int, ...]
    layers: tuple[int, ...]
    curve: np.ndarray
    stderr: np.ndarray
    chance: np.ndarray
    samples: np.ndarray

    def at(self, lag: int) -> np.ndarray:
        """The curve at one lag, [L, H].

        Raises:
            InputError: that lag was not measured.
        """
        if whole(lag) is None or lag not in self.lags:
            raise InputError(f"lag {lag!r} was not measured; these were: {list(self.lags)}")
        return self.curve[:, :, self.lags.index(lag)]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head and lag."""
        import pandas as pd

        shape = self.curve.shape
        layer, head, lag = np.meshgrid(np.array(self.layers), np.arange(shape[1]), np.array(self.lags), indexing="ij")
        return pd.DataFrame(
            {
                "layer": layer.ravel(),
                "head": head.ravel(),
                "lag": lag.ravel(),
                "attention": self.curve.ravel(),
                "stderr": self.stderr.ravel(),
                "chance": np.broadcast_to(self.chance[:, None], shape).ravel(),
                "samples": np.broadcast_to(self.samples, shape).ravel(),
            }
        )

    def plot(self) -> go.Figure:
        """A line for each head; the heads that look most at these lags are coloured and named."""
        from interp.plots.lag_curve import lag_figure

        return lag_figure(self)

    def summary(self) -> str:
        lines = [f"attention around the earlier copy, lags {self.lags[0]} to {self.lags[-1]}:"]
        for number, lag in enumerate(self.lags):
            of_lag = self.curve[:, :, number]
            if np.isnan(of_lag).all():
                lines.append(f"  lag {lag:+d}: no query has that pair")
                continue
            layer, head = np.unravel_index(int(np.nanargmax(of_lag)), of_lag.shape)
            lines.append(
                f"  lag {lag:+d}: most in {head_name(self.layers[layer], int(head))} {of_lag[layer, head]:.3f} "
                f"(chance {self.chance[layer, number]:.3f})"
            )
        return "\n".join(lines)


def lag_curve(
    model: HookedModel,
    inputs: Inputs | Batch | None = None,
    *,
    lags: Iterable[int] = LAGS,
    window: int | None = None,
    span: int = 50,
    samples: int = 8,
    seed: int = 0,
    beyond_context: bool = False,
) -> LagCurve:
    """Attention of every head by lag around the earlier copies of the query's token; the formula is at the top of this file.

    A pair counts where the key j + lag exists, is no later than the query and no special token in front of the text. Pairs that a
    sliding window hides count as 0, as they do in the induction score. O(T) memory. On repeated random tokens lag +1 is the
    induction score and lag 0 the duplicate-token score.

    Args:
        inputs: as of ``HookedModel.capture``; None: BOS, then ``span`` random tokens, twice, in ``samples`` sequences.
        lags: whole numbers from -64 to 64.
        window: cut one text into windows of so many positions; None: it is one sequence, without a standard error.
        span, samples, seed: of the random tokens; a span that the context does not hold twice is cut to one that it does.

    Raises:
        InputError: options out of range; a model whose heads see both ways, or with several stacks of layers; inputs in which no
            token comes twice.
    """
    chosen = _checked_lags(lags)
    for name, value, least in (("span", span, 2), ("samples", samples, 1), ("seed", seed, 0), ("window", window, 2)):
        if not (name == "window" and value is None) and (type(value) is not int or value < least):
            raise InputError(f"lag_curve: {name}: expected a whole number of at least {least}, got {value!r}")
    if seed >= 2**32:
        raise InputError(f"lag_curve: seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    layers = single_stack(model, "lag_curve")
    if not model.shape.is_causal:
        raise InputError(f"lag_curve is defined for heads that look back only, and {model.name} sees both ways")
    if inputs is None:
        batches, described, span = _random(model, span, samples, seed)
    else:
        batches = list(batches_of(model, inputs, window, beyond_context=beyond_context))
        described = f"windows of {window} positions" if window and isinstance(inputs, str | Path) else "as given"
    if not any(bool((occurrence(_ids(batch)) > 0).any()) for batch in batches):
        raise InputError("lag_curve: none of the tokens comes twice, so there is no earlier copy; give a longer text")
    curves, levels = [], []
    for batch in batches:
        ids, keep = _ids(batch), batch.keep
        first = _first(model, ids)
        probes = _probes(ids, chosen, first, keep)
        capture = model.capture(batch, probes, layers=layers, beyond_context=beyond_context)
        pairs = _Pairs(ids, chosen, first)
        uniform = uniform_stats(probes, [capture.masks[layer] for layer in layers], ids)
        by_layer = [{name: values[layer] for name, values in capture.stats.items()} for layer in layers]
        curves.append(torch.stack([pairs.curve(stats) for stats in by_layer], dim=1))
        levels.append(torch.stack([pairs.curve(stats)[:, 0] for stats in uniform], dim=1))
    of_samples, chance = (torch.cat(x).double().cpu().numpy() for x in (curves, levels))  # [S, L, H, n], [S, L, n]
    count = (~np.isnan(of_samples[:, 0, 0])).sum(0)
    mean, stderr = _mean(of_samples)
    settings = settings_of(
        model,
        method="mean over queries i of the mean over earlier copies j of A[i, j + lag]",
        source="Ji-An et al., arXiv 2405.14992",
        constants={"lags": chosen, "window": window}
        | ({"span": span, "samples": samples, "seed": seed} if inputs is None else {}),
        inputs={
            "sequences": len(of_samples),
            "described": described,
            "sha256": [checksum(batch) for batch in batches],
        },
    )
    return LagCurve(
        settings=settings,
        lags=chosen,
        layers=tuple(layers),
        curve=mean,
        stderr=stderr,
        chance=_mean(chance)[0],
        samples=count,
    )


def _random(model: HookedModel, span: int, samples: int, seed: int) -> tuple[list[Batch], str, int]:
    """The sequences, what they are in words, and their span, which is shorter where the context is."""
    from interp.scan import source_of

    made = RepeatedRandom(span).make(source_of(model, samples=samples, seed=seed))
    ids = torch.stack(made.ids)
    return [model.batch(ids)], made.described, (ids.shape[1] - made.prefix) // 2


def _ids(batch: Batch) -> Tensor:
    """Token ids with -1, which matches nothing, at padding. [B, T]."""
    assert batch.ids is not None
    return batch.ids if batch.keep is None else torch.where(batch.keep, batch.ids, -1)


def _first(model: HookedModel, ids: Tensor) -> Tensor:
    """The first column of each sequence that is no padding and no BOS in front, [B, 1]."""
    from interp.scan import special_ids

    _, bos = special_ids(model)
    first = (ids >= 0).int().argmax(dim=1, keepdim=True)
    return first + (ids.gather(1, first) == bos[0]).int() if bos else first


def _labels(ids: Tensor, lag: int, first: Tensor) -> Tensor:
    """token_(k - lag) at each key k from ``first`` on, -1 before. [B, T]."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(columns >= first, shifted(ids, lag), -1)


def _probes(ids: Tensor, lags: tuple[int, ...], first: Tensor, keep: Tensor | None) -> list[Probe]:
    """For each lag the mass on keys k with token_(k - lag) = token_i, and the masses near the query.

    For a negative lag, k - lag may be the query or stand after it, which is no earlier copy; such keys are at most -lag back,
    where the masses by offset tell what to take away again.
    """
    probes: list[Probe] = [
        LabelMatch(ids, _labels(ids, lag, first), strict=lag == 0, name=f"lag{lag}", queries=keep) for lag in lags
    ]
    back = -min(lags)
    return [*probes, OffsetMass(tuple(range(back + 1)), name="near", queries=keep)] if back > 0 else probes


class _Pairs:
    """Which pairs of a query and a key j + lag there are, j an earlier copy, and the mean attention over them."""

    def __init__(self, ids: Tensor, lags: tuple[int, ...], first: Tensor) -> None:
        self.lags = lags
        self.count = {lag: _count(ids, lag, first) for lag in lags}  # [B, T] each
        columns = torch.arange(ids.shape[1], device=ids.device)
        # Keys i - d that match by the query itself or by a later copy, and are no earlier copy's neighbour.
        self.not_earlier = {
            lag: [
                (shifted(ids, d + lag) == ids) & (ids >= 0) & (columns - d >= first)
                for d in range(1 - lag if lag < 0 else 0)
            ]
            for lag in lags
        }

    def curve(self, stats: dict[str, Tensor]) -> Tensor:
        """From the probes' values the curve of each sequence and head, [B, H, lags]."""
        columns = []
        for lag in self.lags:
            mass = stats[f"lag{lag}"].double()
            for d, is_near in enumerate(self.not_earlier[lag]):
                mass = mass - stats["near"][..., d] * is_near[:, None]
            count = self.count[lag][:, None]
            of_query = torch.where(count > 0, mass.clamp(min=0) / count.clamp(min=1), torch.nan)
            columns.append(of_query.nanmean(dim=-1))
        return torch.stack(columns, dim=-1)


def _count(ids: Tensor, lag: int, first: Tensor) -> Tensor:
    """How many earlier copies j of each query's token have first <= j + lag <= i. [B, T]."""
    count = occurrence(ids)
    for d in range(1, lag):  # j = i - d, whose key would lie after the query
        count = count - ((shifted(ids, d) == ids) & (ids >= 0)).long()
    columns = torch.arange(ids.shape[1], device=ids.device)
    for n in range(max(0, -lag)):  # j = first + n, whose key would lie before the text
        j = (first + n).clamp(max=ids.shape[1] - 1)
        is_copy = (ids.gather(1, j) == ids) & (columns > first + n) & (ids >= 0)
        count = count - is_copy.long()
    return count


def _mean(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis of what is no NaN, and its standard error."""
    is_there = ~np.isnan(x)
    count = is_there.sum(0)
    mean = np.divide(np.where(is_there, x, 0).sum(0), count, out=np.full(x.shape[1:], np.nan), where=count > 0)
    spread = np.where(is_there, (x - mean) ** 2, 0).sum(0)
    pairs = count * (count - 1)
    return mean, np.sqrt(np.divide(spread, pairs, out=np.full(x.shape[1:], np.nan), where=pairs > 0))


def _checked_lags(lags: Iterable[int]) -> tuple[int, ...]:
    given = list(lags) if isinstance(lags, Iterable) else [lags]
    is_whole = all(type(lag) is int and -LARGEST_LAG <= lag <= LARGEST_LAG for lag in given)
    if not given or not is_whole or len(set(given)) < len(given):
        raise InputError(
            f"lag_curve: lags: expected different whole numbers from {-LARGEST_LAG} to {LARGEST_LAG}, got {lags!r:.80}"
        )
    return tuple(sorted(given))
