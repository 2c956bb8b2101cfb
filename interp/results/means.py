"""Means over samples and their standard errors, where some samples may have no value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Means:
    """Of the samples that are not NaN: their mean (NaN without any), its standard error (NaN below two), and their count."""

    mean: np.ndarray
    stderr: np.ndarray
    count: np.ndarray


def means(values: np.ndarray) -> Means:
    """Mean over the first axis: values [S, ...]. The standard error is sqrt(sum (x - mean)^2 / (n (n - 1)))."""
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    mean = over(np.where(defined, values, 0).sum(axis=0), count)
    squares = np.where(defined, (values - mean) ** 2, 0).sum(axis=0)
    return Means(mean, np.sqrt(over(squares, count * (count - 1))), count)


def over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where there is nothing to count."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def give_or_take(stderr: float, spec: str = ".2f") -> str:
    """ " ± 0.05" for a summary; nothing where the standard error is not known, as of a single sample."""
    return "" if np.isnan(stderr) else f" ± {stderr:{spec}}"
