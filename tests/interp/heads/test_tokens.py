"""Earlier copies and previous tokens, against the plain loops."""

from __future__ import annotations

import pytest
import torch

from interp.heads.tokens import has_earlier_copy, previous_ids


@pytest.mark.parametrize("vocabulary", [1, 5, 100])
def test_has_earlier_copy(vocabulary: int):
    ids = torch.randint(0, vocabulary, (3, 40), generator=torch.Generator().manual_seed(vocabulary))
    expected = [[token in row[:i] for i, token in enumerate(row)] for row in ids.tolist()]
    assert has_earlier_copy(ids).tolist() == expected


def test_previous_ids():
    assert previous_ids(torch.tensor([[5, 6, 7], [8, 8, 9]])).tolist() == [[-1, 5, 6], [-1, 8, 8]]
