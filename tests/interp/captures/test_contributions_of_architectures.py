"""Contributions in every architecture of the zoo: told and verified by the run itself, or refused where a step stands between."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import InputError
from tests.interp.zoo.entry import Entry
from tests.interp.zoo.zoo import ZOO

STANDS_BETWEEN = {
    "BitNetForCausalLM": "a gate, a norm or another step stands between",
    "JetMoeForCausalLM": "cannot be told",  # experts project the heads
    "Qwen3NextForCausalLM": "a gate, a norm or another step stands between",
    "Qwen3_5ForCausalLM": "a gate, a norm or another step stands between",
    "AlbertModel": "changes the output of the projection before it hands it on",
    "BloomForCausalLM": "changes the output of the projection before it hands it on",
}
"""Architectures whose heads' parts cannot be told, and why."""


@pytest.mark.parametrize("entry", ZOO, ids=[f"{entry.model}{entry.note}" for entry in ZOO])
def test_contributions_are_told_or_refused(entry: Entry):
    model = interp.load(entry.build())
    if entry.model in STANDS_BETWEEN:
        with pytest.raises(InputError, match=STANDS_BETWEEN[entry.model]):
            model.capture(entry.inputs(), (), contributions="norm")
        return
    found = model.capture(entry.inputs(), (), outputs=True, contributions=True)
    for layer, parts in found["contribution"].items():
        assert parts.shape[:3] == found["output"][layer].shape[:3]
        assert bool(torch.isfinite(parts).all())
