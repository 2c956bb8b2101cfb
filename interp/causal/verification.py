"""Whether heads do what is claimed of them: what their ablation changes, beside that of as many others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from interp.causal.resampling import Interval, intervals, p_value, share_as_bad, standard_error
from interp.errors import InputError
from interp.results.result import Result
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLAIN, FOUND, CONTROL = "plain", "found", "control"


@dataclass(frozen=True)
class Comparison:
    """The found heads against control sets of as many others, for one number of heads.

    Effects are metric(ablated) - metric(plain), means over samples; harm is the effect, its sign turned where lower is worse.

    size                  heads ablated together
    heads                 the found ones
    effect, stderr        of the found heads; the standard error is over samples, paired
    interval              of the effect
    control_mean          mean effect of the control sets
    control_interval      of that mean
    control_low, control_high  the least and the greatest effect of a control set
    difference            effect - control_mean
    difference_interval   of the difference
    controls              how many sets there are
    is_all                no other sets exist by the rule they are drawn by
    share                 of the sets whose harm is at least that of the found heads
    p_value               (1 + sets that are at least as bad) / (1 + sets)
    least_p_value         1 / (1 + sets): no smaller one can come out
    borrowed              layer -> heads that the sets have from its nearest layers, since it has too few others
    """

    size: int
    heads: tuple[str, ...]
    effect: float
    stderr: float
    interval: Interval
    control_mean: float
    control_interval: Interval
    control_low: float
    control_high: float
    difference: float
    difference_interval: Interval
    controls: int
    is_all: bool
    share: float
    p_value: float
    least_p_value: float
    borrowed: Mapping[str, int]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Verification(Result):
    """What ``verify`` found.

    task      name of the metric, with its unit and what a sample is
    worse     "higher" or "lower"
    ablation  "zero", "mean" or "uniform"
    heads     the found heads, in the order given
    table     a row a condition: condition ("plain", "found", "control"), size, draw, heads (names with spaces between),
              in_layers (how many of them have a counterpart among the found ones in their own layer)
    values    the metric, [conditions, samples]
    is_all    size -> the control sets of that size are all there are
    borrowed  size -> layer -> heads that control sets have from the nearest layers instead
    level     that intervals cover
    seed      of the control sets and of the bootstrap
    """

    kind: ClassVar[str] = "verification"

    task: str
    unit: str
    sample: str
    worse: str
    ablation: str
    heads: tuple[str, ...]
    table: pd.DataFrame
    values: np.ndarray
    is_all: Mapping[str, bool]
    borrowed: Mapping[str, Mapping[str, int]]
    level: float
    seed: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many found heads were ablated together: the first of the order given."""
        return tuple(self.table.loc[self.table["condition"] == FOUND, "size"].astype(int))

    @property
    def plain(self) -> float:
        """The metric without ablation."""
        return float(self.values[0].mean())

    def of_size(self, size: int | None = None) -> Comparison:
        """The found heads against controls, for one number of heads (None: the largest).

        Raises:
            InputError: that size was not run.
        """
        size = max(self.sizes) if size is None else size
        if whole(size) is None or size not in self.sizes:
            raise InputError(f"size {size!r} was not run; there are {', '.join(map(str, self.sizes))}")
        here = self.table["size"] == size
        effects = self.values - self.values[0]
        found = effects[np.flatnonzero(here & (self.table["condition"] == FOUND))[0]]
        controls = effects[np.flatnonzero(here & (self.table["condition"] == CONTROL))]
        key, sign = str(size), 1 if self.worse == "higher" else -1
        means = controls.mean(axis=1)
        drawn = intervals(found, controls, level=self.level, seed=self.seed, is_all=self.is_all[key])
        effect, harm = float(found.mean()), sign * found.mean()
        return Comparison(
            size=size,
            heads=self.heads[:size],
            effect=effect,
            stderr=standard_error(found),
            interval=drawn.found,
            control_mean=float(means.mean()),
            control_interval=drawn.controls,
            control_low=float(means.min()),
            control_high=float(means.max()),
            difference=effect - float(means.mean()),
            difference_interval=drawn.difference,
            controls=len(means),
            is_all=self.is_all[key],
            share=share_as_bad(harm, sign * means),
            p_value=p_value(harm, sign * means),
            least_p_value=1 / (1 + len(means)),
            borrowed=self.borrowed[key],
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a condition: what was ablated, the metric (mean over samples), its change, and their standard errors."""
        effects = self.values - self.values[0]
        frame = self.table.copy()
        frame["value"] = self.values.mean(axis=1)
        frame["stderr"] = [standard_error(each) for each in self.values]
        frame["effect"] = effects.mean(axis=1)
        frame["effect_stderr"] = [standard_error(each) for each in effects]
        frame["samples"] = self.values.shape[1]
        frame.insert(0, "task", self.task)
        return frame

    def compared(self) -> pd.DataFrame:
        """One row a number of heads: the fields of ``Comparison``, intervals as two columns each."""
        rows = []
        for size in self.sizes:
            row: dict[str, Any] = asdict(self.of_size(size))
            row["heads"] = " ".join(row["heads"])
            row["borrowed"] = sum(row["borrowed"].values())
            for name in ("interval", "control_interval", "difference_interval"):
                low, high = row.pop(name)
                row[f"{name}_low"], row[f"{name}_high"] = low, high
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The found heads' effect beside those of the control sets, by number of heads; see ``interp.plots.verification``."""
        from interp.plots.verification import verification_figure

        return verification_figure(self)

    def summary(self) -> str:
        c = self.of_size()
        unit = f" {self.unit}" if self.unit else ""
        samples = self.values.shape[1]
        many = f"{samples} {self.sample}{'s' if samples > 1 else ''}"
        names = ", ".join(c.heads) if c.size <= 8 else f"{', '.join(c.heads[:8])}, ..."
        verb = "raises" if c.effect > 0 else "lowers" if c.effect < 0 else "leaves"
        first = (
            f"Ablating ({self.ablation}) {_heads(c.size)} ({names}) {verb} the {self.task} from {self.plain:.3g} to "
            f"{self.plain + c.effect:.3g}{unit}: {c.effect:+.3g}{_between(c.interval)} over {many}."
        )
        sets = (
            f"{'All ' if c.is_all else ''}{c.controls} control set{'s' if c.controls > 1 else ''} of {_heads(c.size)}"
        )
        second = (
            f"{sets} change it by {c.control_mean:+.3g} on average{_between(c.control_interval)}, from {c.control_low:+.3g} to "
            f"{c.control_high:+.3g}; {round(c.share * c.controls)} of them at least as bad, p = {c.p_value:.3g} (no less than "
            f"{c.least_p_value:.3g} could come out)."
        )
        third = f"Difference {c.difference:+.3g}{_between(c.difference_interval)}; intervals cover {self.level:.0%}."
        lines = [first, second, third]
        if c.borrowed:
            lacking = ", ".join(f"{n} of layer {layer}" for layer, n in c.borrowed.items())
            lines.append(
                f"Not all controls are of the same layers: for want of others, {lacking} came from the nearest layers."
            )
        return "\n".join(lines)


def _heads(count: int) -> str:
    return f"{count} head{'s' if count > 1 else ''}"


def _between(interval: Interval) -> str:
    low, high = interval
    return "" if math.isnan(low) else f" ({low:+.3g} to {high:+.3g})"
