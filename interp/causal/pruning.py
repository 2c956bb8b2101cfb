"""What is left of a model as its heads are ablated one after the other, the least important first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from interp import edits
from interp.causal.importance import SOURCE, Importance
from interp.causal.resampling import RESAMPLES, intervals, standard_error
from interp.causal.tasks import TaskLike, as_task
from interp.errors import InputError
from interp.models.heads import Head, HeadSpec, head_counts, ordered_heads
from interp.naming import head_name
from interp.progress import Bar
from interp.results.result import Result
from interp.results.settings import settings_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

GIVEN, RANDOM = "given", "random"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PruningCurve(Result):
    """What ``pruning_curve`` found.

    task, unit, worse  the metric, its unit, and which way is worse
    heads    in the order in which they were ablated
    table    a row a point: order ("given", "random"), draw (-1 of the given order), pruned (heads that are gone), share of all
             that are pruned in the end
    values   the metric, [points, samples]
    level    that intervals cover
    seed     of the random orders and of the bootstrap
    """

    kind: ClassVar[str] = "pruning_curve"

    task: str
    unit: str
    worse: str
    heads: tuple[str, ...]
    table: pd.DataFrame
    values: np.ndarray
    level: float
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row a point of each curve: the metric, mean over samples, with its standard error."""
        frame = self.table.copy()
        frame["value"] = self.values.mean(axis=1)
        frame["stderr"] = [standard_error(each) for each in self.values]
        return frame

    def compared(self) -> pd.DataFrame:
        """One row a number of heads: the metric in the given order, in random order (mean, least, greatest), and the difference
        of given and random with its bootstrap interval over samples and orders."""
        rows = []
        for pruned in self.table.loc[self.table["order"] == GIVEN, "pruned"]:
            here = self.table["pruned"] == pruned
            given = self.values[np.flatnonzero(here & (self.table["order"] == GIVEN))[0]]
            drawn = self.values[np.flatnonzero(here & (self.table["order"] == RANDOM))]
            means = drawn.mean(axis=1)
            low, high = intervals(given, drawn, level=self.level, seed=self.seed, is_all=False).difference
            rows.append(
                {
                    "pruned": int(pruned),
                    "given": given.mean(),
                    "random": means.mean(),
                    "random_low": means.min(),
                    "random_high": means.max(),
                    "difference": given.mean() - means.mean(),
                    "difference_low": low,
                    "difference_high": high,
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The metric by the number of heads that are gone; see ``interp.plots.importance``."""
        from interp.plots.importance import pruning_figure

        return pruning_figure(self)

    def summary(self) -> str:
        rows = self.compared()
        half = rows.iloc[(rows["pruned"] - len(self.heads) / 2).abs().argmin()]
        first, last = rows.iloc[0], rows.iloc[-1]
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.task}: {first['given']:.3g}{unit} with all heads, {last['given']:.3g} without {len(self.heads)}. "
            f"With {int(half['pruned'])} ablated in the given order {half['given']:.3g}, in random order {half['random']:.3g} "
            f"({half['random_low']:.3g} to {half['random_high']:.3g}): difference {half['difference']:+.3g} "
            f"({half['difference_low']:+.3g} to {half['difference_high']:+.3g})."
        )


def pruning_curve(
    model: HookedModel,
    order: Importance | Iterable[HeadSpec],
    task: TaskLike,
    *,
    steps: int = 10,
    draws: int = 5,
    text: str | Path | None = None,
    samples: int = 8,
    worse: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> PruningCurve:
    """Ablate heads (z = 0) in the order of their importance, the least important first, and measure the task as they go.

    Beside it the same with the same heads in random order. The order is settled once, on the whole model, as in the paper;
    measure the task on other inputs than the importance.

    Cost: (steps - 1) x (1 + draws) + 2 evaluations of the metric.

    Args:
        order: an ``Importance``, or heads as people write them, the first to go first; heads that are not named stay.
        task: as for ``verify``.
        steps: the heads go in so many steps of about equal size (10 in the paper: 10 % each).
        draws: random orders.
        text, samples, worse: as for ``verify``.
        level: what intervals cover.
        seed: of the random orders, the bootstrap, and the task "induction".

    Source: Michel, Levy and Neubig, Are Sixteen Heads Really Better than One? (arXiv 1905.10650), section 4.

    Raises:
        InputError: heads, task or numbers that do not fit.
        RunError: the metric or the model gives NaN.
    """
    for name, value in (("steps", steps), ("draws", draws)):
        if type(value) is not int or value < 1:
            raise InputError(f"{name}: expected an integer of at least 1, got {value!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    if not isinstance(level, float) or not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    named = order.ranking() if isinstance(order, Importance) else order
    heads = ordered_heads(named, head_counts(model.host.layers))
    chosen = as_task(model, task, text=text, samples=samples, seed=seed, worse=worse, what="pruning_curve")
    counts = sorted({round(len(heads) * step / steps) for step in range(steps + 1)})
    orders = [heads, *(_shuffled(heads, model, seed, draw) for draw in range(draws))]
    points = [(number, pruned) for number in range(len(orders)) for pruned in counts]
    measured: dict[frozenset[Head], np.ndarray] = {}
    for number, pruned in Bar(points, unit="point", what=f"prune {model.name}", show=progress):
        gone = frozenset(orders[number][:pruned])
        if gone in measured:
            continue
        if gone:
            with model.edited(edits.ablate(*orders[number][:pruned])):
                measured[gone] = chosen.measured(model)
        else:
            measured[gone] = chosen.measured(model)
    values = [measured[frozenset(orders[number][:pruned])] for number, pruned in points]
    if len({each.size for each in values}) > 1:
        raise InputError(
            f"task {chosen.name!r}: its metric gives now more samples, now fewer; give the same ones each time"
        )
    constants: dict[str, Any] = {
        "ablation": "z' = 0",
        "steps": counts,
        "draws": draws,
        "interval": f"bootstrap percentile, {RESAMPLES} resamples of samples and of orders",
        "level": level,
        "seed": seed,
        "importance": dict(order.settings) if isinstance(order, Importance) else None,
    }
    return PruningCurve(
        settings=settings_of(
            model,
            method="the metric with the first k heads of an order ablated, for rising k, beside random orders",
            source=SOURCE,
            constants=constants,
            inputs={"task": chosen.name, **chosen.inputs},
        ),
        task=chosen.name,
        unit=chosen.unit,
        worse=chosen.worse,
        heads=tuple(head_name(*head) for head in heads),
        table=_table(points, len(heads)),
        values=np.stack(values),
        level=level,
        seed=seed,
    )


def _shuffled(heads: Sequence[Head], model: HookedModel, seed: int, draw: int) -> list[Head]:
    # From the model's order, so that curves of the same heads have the same random ones beside them.
    place = {layer: number for number, layer in enumerate(model.layers)}
    known = sorted(heads, key=lambda head: (place[head[0]], head[1]))
    return [known[i] for i in np.random.default_rng([seed, draw]).permutation(len(known))]


def _table(points: Sequence[tuple[int, int]], heads: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "order": [RANDOM if number else GIVEN for number, _ in points],
            "draw": [number - 1 for number, _ in points],
            "pruned": [pruned for _, pruned in points],
            "share": [pruned / heads for _, pruned in points],
        }
    )
