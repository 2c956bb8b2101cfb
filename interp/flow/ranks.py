"""Spearman's rank correlation."""

from __future__ import annotations

import numpy as np

FEWEST = 3
"""Numbers below which a rank correlation says nothing: of two it is 1 or -1."""


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank: Pearson's of the ranks, in [-1, 1].

    NaN where one of them is constant, or for fewer than 3 numbers. (The source's SST script gives ties dense ranks and then
    uses the formula for ranks without ties; another of its scripts takes scipy's, and counts NaN as 0.)
    """
    import pandas as pd

    if len(x) < FEWEST:
        return float("nan")
    a, b = (ranks - ranks.mean() for ranks in (pd.Series(x).rank().to_numpy(), pd.Series(y).rank().to_numpy()))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 0 else float("nan")
