"""Sums whose work in the Triton kernels depends on what the tensors hold: key masses by the levels of their weights, label
matches by how often a label comes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.backends.triton.tuning import Config, fixed
from tests.kernels.cases import Case
from tests.kernels.on_device import DEVICE, needs_triton
from tests.kernels.oracle import Sight
from tests.kernels.test_rounding import check

pytestmark = [
    needs_triton,
    # In the interpreter's numpy, of cells that are hidden: rows that see no key have no maximum to be shifted by.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning:triton.runtime.interpreter"),
]

SMALL = Config(block_m=16, block_n=16, num_warps=4, num_stages=1) if DEVICE == "cpu" else None
"""In the interpreter, tiles so small that short sequences take several."""

KEYS = 300
"""Two levels of 128 keys and a part of one."""


def call(probes: tuple[ik.Probe, ...], queries: int, mask: Mask, sight: Sight, batch: int = 1) -> Case:
    torch.manual_seed(queries)
    q = torch.randn(batch, 2, queries, 8).double()
    k, v = torch.randn(2, batch, 1, KEYS, 8).double().unbind()
    return Case(q, k, v, mask, sight, probes=probes).rounded(torch.float32)


def weights_by_level(kind: str) -> Tensor:
    position = torch.arange(KEYS)
    return {
        "one key": (position == 0).float(),
        "last key": (position == KEYS - 1).float(),
        "steps": (position // 128).float() - 1,
        "equal": torch.full((KEYS,), 0.25),
        "all different": torch.randn(KEYS),
    }[kind]


def masses() -> tuple[ik.Probe, ...]:
    columns = [weights_by_level(kind) for kind in ("one key", "last key", "steps", "equal", "all different")]
    by_head = torch.stack([weights_by_level("one key"), weights_by_level("steps")])[None, :, :, None]
    return (
        ik.KeyMass(torch.stack(columns, dim=-1)),
        ik.KeyMass(weights_by_level("steps")[None, :, None], name="by_sequence"),
        ik.KeyMass(by_head, name="by_head"),
        ik.KeyMass((torch.arange(KEYS) < 128)[:, None], name="of_bools"),
    )


CAUSAL = Mask.causal(), Sight(0, causal=True)


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("window", [None, 150])
def test_key_masses_of_weights_that_are_the_same_over_many_keys(queries: int, window: int | None) -> None:
    windows = () if window is None else (window,)
    mask, sight = Mask.causal(window=window), Sight(KEYS - queries, causal=True, windows=windows)
    with fixed(SMALL, splits=3):
        check(call(masses(), queries, mask, sight), ("triton", "cpu"))


def labels_of(kind: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return {
        "all the same": torch.full((n,), 7),
        "all different": torch.randperm(n, generator=generator) + (1 << 40),
        "few": torch.randint(-1, 3, (n,), generator=generator),
        "nothing": torch.full((n,), -1),
        "runs": torch.arange(n) // 50,
    }[kind]


KINDS = ["all the same", "all different", "few", "nothing", "runs"]


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("of_keys", KINDS)
def test_label_matches_however_often_a_label_comes(of_keys: str, is_causal: bool) -> None:
    queries, windows = 70, () if is_causal else (90,)
    mask = Mask.causal() if is_causal else Mask.full(window=90)
    sight = Sight(KEYS - queries, causal=is_causal, windows=windows)
    keys = labels_of(of_keys, KEYS)
    of_queries = {
        "last": keys[-queries:],
        "other": labels_of("few", queries),
        "same": labels_of("all the same", queries),
    }
    probes = tuple(
        ik.LabelMatch(labels, keys, strict=strict, name=f"{name}{strict}")
        for name, labels in of_queries.items()
        for strict in (False, True)
    )
    with fixed(SMALL):
        check(call(probes, queries, mask, sight), ("triton", "cpu"))


@pytest.mark.parametrize("offset", [-20, 0, 250, 400])
def test_label_matches_of_queries_before_and_beyond_the_keys(offset: int) -> None:
    keys = torch.stack([labels_of("few", KEYS), labels_of("runs", KEYS)])
    queries = torch.stack([labels_of("few", 70), labels_of("runs", 70)])
    probes = (ik.LabelMatch(queries, keys), ik.LabelMatch(queries, keys, strict=True, name="strict"))
    mask, sight = Mask.causal(offset=offset), Sight(offset, causal=True)
    with fixed(SMALL):
        check(call(probes, 70, mask, sight, batch=2), ("triton", "cpu"))


@pytest.mark.parametrize("splits", [1, 4])
def test_one_query_shares_the_keys_of_its_label_out(splits: int) -> None:
    keys = labels_of("few", KEYS)
    probes = (ik.LabelMatch(keys[:1], keys), ik.LabelMatch(keys[-1:], keys, strict=True, name="strict"))
    with fixed(SMALL, splits=splits):
        check(call(probes, 1, Mask.causal(), Sight(KEYS - 1, causal=True)), ("triton", "cpu"))


def test_a_label_that_every_key_has_takes_all_the_mass_that_a_sink_leaves() -> None:
    labels = torch.zeros(KEYS, dtype=torch.int64)
    probes = (ik.LabelMatch(labels[:70], labels), ik.KeyMass(torch.ones(KEYS, 1)))
    case = replace(call(probes, 70, *CAUSAL), sinks=torch.tensor([0.5, -math.inf]))
    stats = case.attend("triton").stats
    torch.testing.assert_close(stats["label_match"], stats["key_mass"][..., 0])
    torch.testing.assert_close(stats["label_match"][:, 1], torch.ones(1, 70))


def test_a_probe_whose_tensors_were_written_to_is_looked_at_again() -> None:
    """What the kernels keep of a probe is that of its tensors as they stand."""
    given = call((), 70, *CAUSAL)
    q, k, v = (x.to(DEVICE) for x in (given.q, given.k, given.v))
    labels, weights = labels_of("few", KEYS).to(DEVICE), weights_by_level("one key")[:, None].to(DEVICE, copy=True)
    probes = (ik.LabelMatch(labels[-70:].clone(), labels), ik.KeyMass(weights))

    def measured() -> dict[str, Tensor]:
        return ik.attend(q, k, v, probes=probes, backend="triton").stats

    before = measured()
    labels.roll(1)
    assert all(torch.equal(measured()[name], value) for name, value in before.items())
    labels.copy_(labels.roll(1))
    weights.copy_(weights.roll(130, 0))
    expected = ik.attend(q, k, v, probes=probes, backend="reference").stats
    for name, value in measured().items():
        torch.testing.assert_close(value, expected[name], msg=name)
        assert not torch.allclose(value, before[name])
    weights[5] = math.nan
    with pytest.raises(ValueError, match=r"KeyMass\.weights: expected finite numbers, got NaN"):
        measured()
