"""The keys that get most of one head's attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd

    from interp.views.head_profile import HeadProfile


def top_keys(profile: HeadProfile, k: int = 12) -> pd.DataFrame:
    """The k keys with the largest share of the attention of all queries, larger first, equal ones by position.

    Columns: position; token (None where tokens are not known); share, sum_i P_ij / n over the n queries that see a key at all;
    received, the mean over the queries that see this key; chance, the same under uniform attention; seen_by, how many those are.

    Raises:
        InputError: k is no number from 1 on, or it is given something else than a profile.
    """
    import pandas as pd

    from interp.views.head_profile import HeadProfile

    if not isinstance(profile, HeadProfile):
        raise InputError(f"profile: expected one, as head_profile(map, head) gives it, got {type(profile).__name__}")
    count = whole(k)
    if count is None or count < 1:
        raise InputError(f"k: expected a whole number of at least 1, got {k!r}")
    queries = max(1, int((~np.isnan(profile.entropy)).sum()))
    share = np.nan_to_num(profile.received.astype(np.float64)) * profile.seen_by / queries
    seen = np.flatnonzero(profile.seen_by > 0)
    best = seen[np.argsort(-share[seen], kind="stable")[:count]]
    return pd.DataFrame(
        {
            "position": best,
            "token": [profile.keys[at] for at in best] if profile.keys else None,
            "share": share[best],
            "received": profile.received[best].astype(np.float64),
            "chance": profile.received_chance[best].astype(np.float64),
            "seen_by": profile.seen_by[best],
        }
    )
