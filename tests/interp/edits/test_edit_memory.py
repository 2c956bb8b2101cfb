"""No edit makes anything of T x T elements."""

from __future__ import annotations

import pytest

import interp
from interp import edits
from tests.interp.models.test_memory import SQUARE, Largest, T, long_model
from tests.interp.tiny import token_ids


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_an_edited_run_makes_nothing_of_the_size_of_the_map(name: str) -> None:
    model = interp.load(long_model(name))
    ids = token_ids((1, T))
    source = model.capture(ids[:, :2000], [], outputs=True)
    given = [
        edits.cut(queries=range(50, T, 2), keys=range(0, T, 3)),
        edits.cut(pairs=[(i, i - d) for i in range(9, T) for d in (1, 3) if i % 200 == 0], renormalize=False),
        edits.recalibrate(keys=edits.hidden_sinks(model, ids, threshold=0.01), heads="L0H0"),
        edits.uniform("L0H1"),
        edits.patch("L0H0", source=source, positions=range(1000)),
        edits.mean_ablate("L0H1", reference=source),
    ]
    with model.edited(given), Largest() as largest:
        model.capture(ids, ["entropy"])
        model(ids)
    assert 0 < largest.bytes < SQUARE, f"{largest.operation} made {largest.bytes:,} bytes"
