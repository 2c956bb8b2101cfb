"""Every statistic of every layer against its formula on the model's own eager maps, for each architecture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp.inputs.batch import Batch
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, LAYERS, NAMES, right_padded, who_sees_whom

T = 150
LENGTHS = {"unpadded": (T, T), "right-padded": (41, T, 87)}
OFFSETS = (0, 1, 6, 7, 140, -1)
TOLERANCE = 3e-5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


KEY_WEIGHTS = torch.rand(T, 3, generator=generator())
QUERY_WEIGHTS = torch.rand(T, generator=generator())


def labels(batch: int) -> tuple[Tensor, Tensor]:
    """Query and key labels, -1 among them."""
    drawn = torch.randint(-1, 5, (2, batch, T), generator=generator())
    return drawn[0], drawn[1]


@pytest.fixture(scope="module", params=[f"{name} {padding}" for name in (*NAMES, "bert") for padding in LENGTHS])
def case(request, own_model, eager_model):
    """Architecture, capture of every statistic, the model's own maps by layer, keep, and the labels."""
    name, padding = request.param.split()
    _, ids, keep = right_padded(LENGTHS[padding], seed=3)
    a, b = labels(len(keep))
    probes = [
        interp.Entropy(),
        interp.Peak(),
        interp.KeyMass(KEY_WEIGHTS),
        interp.LabelMatch(a, b),
        interp.LabelMatch(a, b, strict=True, name="strict_match"),
        interp.OffsetMass(OFFSETS),
        interp.Distance(),
        interp.Distance(5, name="clipped_distance"),
        interp.Received(),
        interp.Received(QUERY_WEIGHTS, name="weighted"),
        interp.Received(normalize=True, name="normalized"),
        interp.Entropy(name="mean_entropy", reduce="mean"),
        interp.OffsetMass(OFFSETS, name="mean_offsets", reduce="mean"),
    ]
    capture = interp.load(own_model(name)).capture(Batch(ids, keep), probes)
    maps = dense.eager_maps(eager_model(name), ids, keep)
    return BERT if name == "bert" else ARCHITECTURES[name], capture, maps, keep, (a, b)


def assert_rows(got: dict[int, Tensor], expected: list[Tensor], keep: Tensor, scale: float = 1.0) -> None:
    """Kept rows agree and padded rows are NaN, in every layer. expected: [B, H, T, ...]."""
    assert sorted(got) == list(range(LAYERS))
    for layer, want in enumerate(expected):
        value = got[layer]
        assert value.shape == want.shape
        assert value.dtype == torch.float32
        rows = keep[:, None].expand(-1, HEADS, -1)
        torch.testing.assert_close(value[rows].double(), want[rows], rtol=0, atol=TOLERANCE * scale)
        assert bool(value[~rows].isnan().all())


def test_maps_are_far_from_uniform(case):
    """Else the tests below could not tell right from wrong."""
    architecture, _, maps, keep, _ = case
    for layer, p in enumerate(maps):
        seen = who_sees_whom(architecture, layer, keep).sum(dim=-1)[:, None].clamp(min=1).double()
        late = (keep & (torch.arange(T) > 30))[:, None].expand(-1, HEADS, -1)
        uniform = seen.log().expand(-1, HEADS, -1)[late]
        assert dense.entropy(p)[late].mean() < 0.85 * uniform.mean()


def test_maps_vanish_just_where_the_tests_say(case):
    architecture, _, maps, keep, _ = case
    for layer, p in enumerate(maps):
        visible = who_sees_whom(architecture, layer, keep)[:, None]
        kept = keep[:, None, :, None]
        assert bool((p[(~visible & kept).expand_as(p)] == 0).all())
        assert bool((p[(visible & kept).expand_as(p)] > 0).float().mean() > 0.99)


def test_entropy(case):
    _, capture, maps, keep, _ = case
    assert_rows(capture["entropy"], [dense.entropy(p) for p in maps], keep, scale=4)


def test_peak(case):
    _, capture, maps, keep, _ = case
    assert_rows(capture["peak"], [dense.peak(p) for p in maps], keep)


def test_peak_index(case):
    """The key that is named has the largest probability, within the rounding of the maps."""
    _, capture, maps, keep, _ = case
    for layer, p in enumerate(maps):
        index = capture["peak_index"][layer]
        at = p.gather(-1, index.clamp(min=0)[..., None])[..., 0]
        rows = keep[:, None].expand_as(at)
        assert bool((index[rows] >= 0).all())
        torch.testing.assert_close(at[rows], dense.peak(p)[rows], rtol=0, atol=2 * TOLERANCE)


def test_key_mass(case):
    _, capture, maps, keep, _ = case
    assert_rows(capture["key_mass"], [dense.key_mass(p, KEY_WEIGHTS) for p in maps], keep)


def test_label_match(case):
    _, capture, maps, keep, (a, b) = case
    assert_rows(capture["label_match"], [dense.label_match(p, a, b, strict=False) for p in maps], keep)
    assert_rows(capture["strict_match"], [dense.label_match(p, a, b, strict=True) for p in maps], keep)


def test_offset_mass(case):
    _, capture, maps, keep, _ = case
    assert_rows(capture["offset_mass"], [dense.offset_mass(p, OFFSETS) for p in maps], keep)


def test_distance(case):
    _, capture, maps, keep, _ = case
    assert_rows(capture["distance"], [dense.distance(p) for p in maps], keep, scale=T)
    assert_rows(capture["clipped_distance"], [dense.distance(p, 5) for p in maps], keep, scale=5)


def test_received(case):
    architecture, capture, maps, keep, _ = case
    for layer, p in enumerate(maps):
        total = dense.received(p, keep)
        torch.testing.assert_close(capture["received"][layer].double(), total, rtol=1e-4, atol=1e-4)
        weighted = dense.received(p, keep, QUERY_WEIGHTS)
        torch.testing.assert_close(capture["weighted"][layer].double(), weighted, rtol=1e-4, atol=1e-4)
        seen = dense.visible_weight(who_sees_whom(architecture, layer, keep), keep)
        mean = torch.where(seen > 0, total / seen, torch.nan)
        torch.testing.assert_close(capture["normalized"][layer].double(), mean, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_means_leave_out_padding_and_pairs_that_do_not_exist(case):
    architecture, capture, maps, keep, _ = case
    rows = keep[:, None].double()
    for layer, p in enumerate(maps):
        entropy = (dense.entropy(p) * rows).sum(-1) / rows.sum(-1)
        torch.testing.assert_close(capture["mean_entropy"][layer].double(), entropy, rtol=0, atol=4 * TOLERANCE)
        visible = who_sees_whom(architecture, layer, keep)[:, None].double()
        pairs = dense.offset_mass(visible, OFFSETS) * rows[..., None]
        masses = (dense.offset_mass(p, OFFSETS) * pairs).sum(2) / pairs.sum(2)
        torch.testing.assert_close(
            capture["mean_offsets"][layer].double(), masses, rtol=0, atol=TOLERANCE, equal_nan=True
        )
