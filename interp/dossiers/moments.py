"""Counts, means and sums of squares that two groups of passages can be put together from, without the passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.results.means import over


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the passages on which a value is defined: how many, their mean (0 where none is), and sum (x - mean)^2.

    All of one shape; ``count`` is int64, the others are float64.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Over the first axis of values [P, ...]; NaN is not defined."""
        defined = ~np.isnan(values)
        count = defined.sum(axis=0)
        mean = np.nan_to_num(over(np.where(defined, values, 0).sum(axis=0), count))
        return cls(count, mean, np.where(defined, (values - mean) ** 2, 0).sum(axis=0))

    @classmethod
    def merged(cls, parts: Sequence[Moments]) -> Moments:
        """One after the other, by the rule of Chan, Golub and LeVeque (1983), which does not cancel."""
        total = parts[0]
        for part in parts[1:]:
            count = total.count + part.count
            share = np.nan_to_num(over(part.count.astype(np.float64), count))
            apart = part.mean - total.mean
            # Where one of them has no passage its mean says nothing.
            mean = np.where(total.count == 0, part.mean, total.mean + apart * share)
            squares = total.squares + part.squares + apart**2 * total.count * share
            total = cls(count, mean, squares)
        return total

    @property
    def means(self) -> np.ndarray:
        """The mean, NaN where no passage counts."""
        return np.where(self.count > 0, self.mean, np.nan)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of the mean over passages, sqrt(squares / (n (n - 1))); NaN below two."""
        return np.sqrt(over(self.squares, self.count * (self.count - 1)))
