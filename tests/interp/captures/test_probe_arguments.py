"""Arguments of probes that are wrong whatever the model are refused before it runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from tests.interp.tiny import token_ids

IDS = token_ids((1, 6))
BAD: list[tuple[Any, str]] = [
    (interp.KeyMass(torch.full((6, 1), math.nan)), r"KeyMass\.weights: expected finite numbers, got NaN"),
    (interp.KeyMass([1.0]), r"KeyMass\.weights: expected a tensor, got \[1\.0\]"),  # pyright: ignore[reportArgumentType]
    (interp.Entropy(name=""), r"Entropy\.name: expected a string that is not empty"),
    (interp.Entropy(name=5), r"Entropy\.name: expected a string that is not empty"),  # pyright: ignore[reportArgumentType]
    (interp.TopK("3"), r"TopK\.k: expected an integer of at least 1, got '3'"),  # pyright: ignore[reportArgumentType]
    (interp.Pooled("3"), r"Pooled\.block: expected an integer"),  # pyright: ignore[reportArgumentType]
    (interp.OffsetMass(1), r"OffsetMass\.offsets: expected a non-empty tuple"),  # pyright: ignore[reportArgumentType]
    (interp.DistanceHistogram(5), r"DistanceHistogram\.edges: expected two or"),  # pyright: ignore[reportArgumentType]
    ([1], r"unknown probe \[1\]"),
]


@pytest.mark.parametrize(("probe", "said"), BAD, ids=[said for _, said in BAD])
def test_a_wrong_argument_is_refused_before_the_model_runs(probe: Any, said: str, own_model):
    model = own_model("llama")
    ran: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    try:
        for measure in (lambda: interp.load(model).capture(IDS, [probe]), lambda: _generate(model, probe)):
            with pytest.raises(InputError, match=f"^{said}"):
                measure()
    finally:
        handle.remove()
    assert not ran


def _generate(model: Any, probe: Any) -> None:
    interp.load(model).generate(IDS, 2, lambda _: [probe])


def test_numbers_of_numpy_are_taken_and_written_as_plain_ones(own_model):
    model = interp.load(own_model("llama"))
    capture = model.capture(IDS, [interp.TopK(np.int64(2)), interp.OffsetMass(np.array([1, 2]))])  # pyright: ignore[reportArgumentType]
    assert capture.statistics["top_k"].definition == "TopK(k=2)"
    assert capture.statistics["offset_mass"].columns == (1, 2)
    assert capture["top_k"][0].shape == (1, 4, 6, 2)
