"""Bootstrap intervals of what ablations do, over samples and over control sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
AT_ONCE = 2**22
"""Numbers of one block of resampled weights."""

Interval = tuple[float, float]
UNKNOWN: Interval = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals: of the found heads' effect, of the controls' mean effect, of the difference of the two."""

    found: Interval
    controls: Interval
    difference: Interval


def intervals(found: np.ndarray, controls: np.ndarray, *, level: float, seed: int, is_all: bool) -> Intervals:
    """Bootstrap percentile intervals of mean effects.

    Samples are drawn again with replacement, the same ones for all conditions, since effects are paired; control sets are drawn
    again too, by themselves, but for ``is_all``: where no other set exists, they are no sample of anything. NaN where there is
    nothing to draw from (one sample; one set).

    Args:
        found: effects, [S].
        controls: effects, [D, S].
        level: the part that an interval covers.
    """
    sets, samples = controls.shape
    rng = np.random.default_rng(seed)
    varies = not is_all and sets > 1
    block = max(1, AT_ONCE // max(samples, sets))
    means: list[np.ndarray] = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        by_sample = _weights(rng, samples, size)
        by_set = _weights(rng, sets, size) if varies else np.full((size, sets), 1 / sets)
        means.append(np.stack([by_sample @ found, np.einsum("rd,rd->r", by_sample @ controls.T, by_set)]))
    of_found, of_controls = np.concatenate(means, axis=1)
    tails = [(1 - level) / 2, (1 + level) / 2]

    def interval(values: np.ndarray, *, is_known: bool) -> Interval:
        low, high = np.quantile(values, tails)
        return (float(low), float(high)) if is_known else UNKNOWN

    return Intervals(
        interval(of_found, is_known=samples > 1),
        interval(of_controls, is_known=samples > 1 or varies),
        interval(of_found - of_controls, is_known=samples > 1 or varies),
    )


def standard_error(values: np.ndarray) -> float:
    """Of the mean of [S]; NaN of a single value."""
    return float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else float("nan")


def share_as_bad(found: float, controls: np.ndarray) -> float:
    """Share of control sets [D] whose harm is at least that of the found heads."""
    return float((controls >= found).mean())


def p_value(found: float, controls: np.ndarray) -> float:
    """(1 + controls that are at least as bad) / (1 + controls): the found set counts as one of the draws, so it is never 0.

    Source: Phipson and Smyth, Permutation p-values should never be zero (arXiv 1603.05766).
    """
    return float((1 + (controls >= found).sum()) / (1 + controls.size))


def _weights(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """[size, count]: how often each is drawn, divided by how many are."""
    return rng.multinomial(count, np.full(count, 1 / count), size=size) / count
