"""What is worked out of a probe is kept for it, and for no other and no later state of its tensors."""

from __future__ import annotations

import gc
from functools import partial

import torch

from interp_kernels import KeyMass
from interp_kernels.once import Once


def test_a_result_is_made_once_for_each_probe_and_key() -> None:
    once, made = Once(keeps_tensors=True), []
    one, other = KeyMass(torch.ones(3, 1)), KeyMass(torch.ones(3, 1))
    for probe, key in ((one, 1), (one, 1), (one, 2), (other, 1), (one, 1)):
        once.of(probe, key, partial(made.append, key))
    assert made == [1, 2, 1]


def test_writing_to_a_tensor_makes_it_again() -> None:
    once, weights = Once(keeps_tensors=True), torch.ones(3, 1)
    probe = KeyMass(weights)
    assert once.of(probe, None, weights.sum) == 3
    weights[0] = 5
    assert once.of(probe, None, weights.sum) == 7
    assert once.of(probe, None, lambda: torch.tensor(0)) == 7


def test_what_fails_is_tried_again() -> None:
    once, probe = Once(keeps_tensors=True), KeyMass(torch.ones(3, 1))
    for _ in range(2):
        try:
            once.of(probe, None, lambda: 1 / 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("the error was swallowed")
    assert once.of(probe, None, lambda: 4) == 4


def test_nothing_is_kept_of_a_probe_that_is_gone_or_whose_writes_are_not_counted() -> None:
    once = Once(keeps_tensors=True)
    probe = KeyMass(torch.ones(3, 1))
    once.of(probe, None, lambda: 1)
    assert len(once._kept) == 1
    del probe
    gc.collect()
    assert len(once._kept) == 0
    with torch.inference_mode():
        uncounted = KeyMass(torch.ones(3, 1))
    assert once.of(uncounted, None, lambda: 1) == 1
    assert once.of(uncounted, None, lambda: 2) == 2
