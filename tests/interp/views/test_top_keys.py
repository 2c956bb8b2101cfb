"""The keys that get most of a head's attention, against the whole map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.plots.profile_comparison import distances_figure, entropies_figure
from interp.views.head_profile import head_profile
from interp.views.top_keys import top_keys
from interp_kernels import Mask, attend

TOKENS = 40


def test_shares_are_column_means_and_the_largest_come_first():
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, TOKENS, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    lazy = attend(q, k, v, mask=Mask.causal()).map
    scores = (q[0, 1] @ k[0, 1].T * 8**-0.5).masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf)
    weights = scores.softmax(dim=1).numpy()
    frame = top_keys(head_profile(lazy, 1), k=7)
    share = weights.mean(axis=0)
    best = np.argsort(-share, kind="stable")[:7]
    assert frame["position"].tolist() == best.tolist()
    assert frame["seen_by"].tolist() == (TOKENS - best).tolist()
    assert frame["token"].isna().all()
    # Statistics are in float32 at the least: a few of its roundings over sums of 40.
    np.testing.assert_allclose(frame["share"], share[best], rtol=1e-5)
    np.testing.assert_allclose(frame["received"], share[best] * TOKENS / (TOKENS - best), rtol=1e-5)


def test_of_fewer_keys_all_are_listed():
    x = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    assert len(top_keys(head_profile(attend(x, x, x, mask=Mask.causal()).map, 0), k=9)) == 3


@pytest.mark.parametrize("k", [0, -1, 1.5, "many", True])
def test_numbers_of_keys_that_are_none_are_refused(k: object):
    x = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    profile = head_profile(attend(x, x, x, mask=Mask.causal()).map, 0)
    with pytest.raises(InputError, match=f"k: expected a whole number of at least 1, got {k!r}"):
        top_keys(profile, k)  # pyright: ignore[reportArgumentType]


def test_what_is_no_profile_is_refused():
    x = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    lazy = attend(x, x, x, mask=Mask.causal()).map
    with pytest.raises(InputError, match=r"profile: expected one, as .* gives it, got AttentionMap"):
        top_keys(lazy)  # pyright: ignore[reportArgumentType]
    for draw in (distances_figure, entropies_figure):
        with pytest.raises(InputError, match=r"profiles: expected head profiles by name, such as .*, got "):
            draw({"a": lazy, "b": lazy})  # pyright: ignore[reportArgumentType]
