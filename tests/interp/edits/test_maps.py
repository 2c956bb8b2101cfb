"""Edits of the map against their definition on dense maps, for each way in which architectures attend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp import edits
from tests.interp import dense
from tests.interp.edits import dense_edits
from tests.interp.edits.cases import DECODER_T, PADDED, Case, T, case

NAMES = ("llama", "gpt2", "mistral", "gemma2", "gpt_oss", "bert")
"""Grouped heads; all heads alone; a window; a soft cap; sinks; both directions."""

TOLERANCE = 1e-11
"""Both are float64: 2e-16 at each rounding, sums of at most 64 terms, and some hundredfold amplification by two layers."""

QUERIES, KEYS = (9, 12, 14), slice(2, 7)
KEY_WEIGHTS = torch.rand(T, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.randint(0, 3, (T,), generator=torch.Generator().manual_seed(2))
OFFSETS = (0, 1, 5)


def block() -> Tensor:
    """The edges from QUERIES to KEYS, [T, T]."""
    edges = torch.zeros(T, T, dtype=torch.bool)
    for i in QUERIES:
        edges[i, KEYS] = True
    return edges


def columns(*keys: int) -> Tensor:
    flagged = torch.zeros(1, T, dtype=torch.bool)
    flagged[0, list(keys)] = True
    return flagged


def own_rows() -> Tensor:
    """What differs between the two sequences, [2, 1, T, T]: late queries to key 3, and to keys 8 and 9."""
    edges = torch.zeros(2, 1, T, T, dtype=torch.bool)
    edges[0, 0, 10:, 3] = True
    edges[1, 0, 11:, 8:10] = True
    return edges


def masks_of_sequences() -> tuple[Tensor, Tensor]:
    queries, keys = torch.zeros(2, 2, T, dtype=torch.bool)
    queries[0, 10:], queries[1, 11:] = True, True
    keys[0, 3], keys[1, 8:10] = True, True
    return queries, keys


SEQUENCES = masks_of_sequences()
PAIRS = [(9, 2), (9, 3), (12, 3), (12, 2), (13, 5), (14, 0)]


def of_pairs() -> Tensor:
    edges = torch.zeros(T, T, dtype=torch.bool)
    for i, j in PAIRS:
        edges[i, j] = True
    return edges


BLOCK = {"queries": QUERIES, "keys": KEYS}
EDITS = {
    "uniform": ([edits.uniform("L0H1", (1, 0), "1.3")], [({0: (1,), 1: (0, 3)}, dense_edits.uniform)]),
    "uniform layer": ([edits.uniform(layers=[0])], [({0: range(4)}, dense_edits.uniform)]),
    "cut": ([edits.cut(**BLOCK)], [({0: range(4), 1: range(4)}, dense_edits.cut(block()))]),
    "cut some heads": (
        [edits.cut(**BLOCK, heads=["L0H1", "L0H2", "L1H3"])],
        [({0: (1, 2), 1: (3,)}, dense_edits.cut(block()))],
    ),
    "cut after the softmax": (
        [edits.cut(**BLOCK, heads=["L0H0", "L0H1", "L1H2"], renormalize=False)],
        [({0: (0, 1), 1: (2,)}, dense_edits.cut(block(), renormalize=False))],
    ),
    "cut of each sequence": (
        [edits.cut(queries=SEQUENCES[0], keys=SEQUENCES[1], renormalize=False)],
        [({0: range(4), 1: range(4)}, dense_edits.cut(own_rows(), renormalize=False))],
    ),
    "cut pairs": (
        [edits.cut(pairs=PAIRS, heads="L1H2"), edits.cut(pairs=PAIRS, layers=[0], renormalize=False)],
        [
            ({1: (2,)}, dense_edits.cut(of_pairs())),
            ({0: range(4)}, dense_edits.cut(of_pairs(), renormalize=False)),
        ],
    ),
    "cut every key": (
        [edits.cut(queries=[9, 10], heads=["L0H1"])],
        [({0: (1,)}, dense_edits.cut(torch.isin(torch.arange(T), torch.tensor([9, 10]))[:, None].expand(T, T)))],
    ),
    "recalibrate": (
        [edits.recalibrate(keys=[0, PADDED, 9], heads=["L0H2", "L1H0", "L1H1"])],
        [({0: (2,), 1: (0, 1)}, dense_edits.recalibrate(columns(0, PADDED, 9), 0.4))],
    ),
    "recalibrate to nothing": (
        [edits.recalibrate(keys=slice(None, None, 3), factor=0)],
        [({0: range(4), 1: range(4)}, dense_edits.recalibrate(columns(*range(0, T, 3)), 0.0))],
    ),
    "heads that share keys unevenly": (
        [
            edits.recalibrate(keys=[0, 9], heads=["L0H0", "L0H1", "L0H2"]),
            edits.cut(keys=2, heads=["1.1", "1.2", "1.3"]),
        ],
        [
            ({0: (0, 1, 2)}, dense_edits.recalibrate(columns(0, 9), 0.4)),
            ({1: (1, 2, 3)}, dense_edits.cut(columns(2).expand(T, T))),
        ],
    ),
    "cut, then uniform": (
        [
            edits.cut(**BLOCK, heads=["L0H1", "L0H2"], renormalize=False),
            edits.uniform("L0H0", "L0H1"),
            edits.cut(**BLOCK, layers=[1]),
            edits.uniform(layers=[1]),
        ],
        [
            ({0: (1, 2)}, dense_edits.cut(block(), renormalize=False)),
            ({0: (0, 1)}, dense_edits.uniform),
            ({1: range(4)}, dense_edits.cut(block())),
            ({1: range(4)}, dense_edits.uniform),
        ],
    ),
    "two cuts in one head": (
        [
            edits.cut(**BLOCK, heads=["L0H1", "L1H2"], renormalize=False),
            edits.cut(keys=[1, 4], queries=slice(8, None), heads=["L0H1", "L0H2"]),
        ],
        [
            ({0: (1,), 1: (2,)}, dense_edits.cut(block(), renormalize=False)),
            ({0: (1, 2)}, dense_edits.cut(columns(1, 4) & (torch.arange(T) >= 8)[:, None])),
        ],
    ),
    "uniform, then cut": (
        [edits.uniform("L0H1", "L1H1"), edits.cut(**BLOCK, layers=[0], renormalize=False)],
        [
            ({0: (1,), 1: (1,)}, dense_edits.uniform),
            ({0: range(4)}, dense_edits.cut(block(), renormalize=False)),
        ],
    ),
    "all on one head": (
        [
            edits.cut(keys=[1], heads="L0H1"),
            edits.recalibrate(keys=[0, 3], heads=["L0H1", "L0H2"], factor=0.25),
            edits.cut(**BLOCK, heads="L0H1", renormalize=False),
            edits.recalibrate(keys=[9, 8], heads=["L0H0", "L0H1"], factor=0.9),
            edits.uniform("L0H2"),
        ],
        [
            ({0: (1,)}, dense_edits.cut(columns(1).expand(T, T))),
            ({0: (1, 2)}, dense_edits.recalibrate(columns(0, 3), 0.25)),
            ({0: (1,)}, dense_edits.cut(block(), renormalize=False)),
            ({0: (0, 1)}, dense_edits.recalibrate(columns(9, 8), 0.9)),
            ({0: (2,)}, dense_edits.uniform),
        ],
    ),
}


def compare(of: Case, given: list[edits.Edit], changes: list) -> None:
    """Logits, outputs, maps and statistics of the edited run with those of the dense one."""
    run, logits = of.dense(changes=changes)
    plain, _ = of.dense()
    assert any((run.maps[layer] - plain.maps[layer]).abs().max() > 1e-2 for layer in run.maps)
    probes = [
        interp.Entropy(),
        interp.Peak(),
        interp.KeyMass(KEY_WEIGHTS),
        interp.LabelMatch(LABELS, LABELS),
        interp.OffsetMass(OFFSETS),
        interp.Distance(),
        interp.Received(),
    ]
    with of.hooked.edited(given):
        capture = of.hooked.capture(of.inputs, probes, logits=hasattr(of.model, "lm_head"))
        maps = of.hooked.maps(of.inputs)
        output = of.hooked(of.inputs)[0]
    assert_close(output, logits, of.keep)
    if capture.logits is not None:
        assert_close(capture.logits, logits, of.keep)
    for layer, p in run.maps.items():
        keep = of.keep[:, None, :, None]
        assert_close(maps[layer].dense() * keep, p * keep)
        expected = {
            "entropy": dense.entropy(p),
            "peak": dense.peak(p),
            "key_mass": dense.key_mass(p, KEY_WEIGHTS),
            "label_match": dense.label_match(p, LABELS[None], LABELS[None], strict=False),
            "offset_mass": dense.offset_mass(p, OFFSETS),
            "distance": dense.distance(p),
        }
        for name, value in expected.items():
            got = capture[name][layer]
            kept = of.keep.reshape(2, 1, T, *(1,) * (got.ndim - 3)).expand_as(got)
            assert_close(got[kept], value[kept])
        assert_close(capture["received"][layer], dense.received(p, of.keep))


def assert_close(got: Tensor, expected: Tensor, keep: Tensor | None = None) -> None:
    if keep is not None and got.shape[:2] == keep.shape:
        got, expected = got[keep], expected[keep]
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_edited_model_is_the_one_with_dense_edits(name: str, kind: str) -> None:
    compare(case(name), *EDITS[kind])


def rectangle(queries: int, keys: int) -> Tensor:
    """The edges from queries 9 and 12 to keys 2, 3, 4."""
    edges = torch.zeros(queries, keys, dtype=torch.bool)
    edges[9, 2:5] = edges[12, 2:5] = True
    return edges


def flags(keys: int) -> Tensor:
    return torch.isin(torch.arange(keys), torch.tensor([0, 3]))[None]


T5_EDITS = {
    # Of T5, a bias of each head must go too; the cross attention has none.
    "uniform": (
        [
            edits.uniform("encoder.L0H1", "encoder.L1H2", "decoder.1.2", ("cross.1", 0)),
            edits.uniform(layers=["decoder.0"]),
        ],
        [
            ({"encoder.0": [1], "encoder.1": [2], "decoder.1": [2], "cross.1": [0]}, dense_edits.uniform),
            ({"decoder.0": range(4)}, dense_edits.uniform),
        ],
    ),
    "cut": (
        [
            edits.cut(queries=[9, 12], keys=slice(2, 5), heads=["decoder.0.1", "decoder.0.2"]),
            edits.cut(queries=[9, 12], keys=slice(2, 5), layers=["cross.0"], renormalize=False),
            edits.cut(queries=[9, 12], keys=slice(2, 5), heads="encoder.1.3", renormalize=False),
        ],
        [
            ({"decoder.0": (1, 2)}, dense_edits.cut(rectangle(DECODER_T, DECODER_T))),
            ({"cross.0": range(4)}, dense_edits.cut(rectangle(DECODER_T, T), renormalize=False)),
            ({"encoder.1": [3]}, dense_edits.cut(rectangle(T, T), renormalize=False)),
        ],
    ),
    "recalibrate": (
        [edits.recalibrate(keys=[0, 3], heads=["encoder.0.1", "decoder.1.1", "cross.0.2", "cross.0.3"])],
        [
            ({"encoder.0": [1], "cross.0": (2, 3)}, dense_edits.recalibrate(flags(T), 0.4)),
            ({"decoder.1": [1]}, dense_edits.recalibrate(flags(DECODER_T), 0.4)),
        ],
    ),
}


@pytest.mark.parametrize("kind", T5_EDITS)
def test_stacks_of_an_encoder_decoder_are_edited_each_by_itself(kind: str) -> None:
    given, changes = T5_EDITS[kind]
    of = case("t5")
    run, logits = of.dense(changes=changes)
    plain, plain_logits = of.dense()
    assert (logits - plain_logits).abs().max() > 1e-2
    with of.hooked.edited(given):
        maps, output = of.hooked.maps(of.inputs), of.hooked(of.inputs)[0]
    assert_close(output, logits)
    for layer, p in run.maps.items():
        kept = of.keep[:, None, :, None] if str(layer).startswith("encoder") else torch.ones(1)
        assert_close(maps[layer].dense() * kept, p * kept)
    touched = {layer for heads, _ in changes for layer in heads}
    assert all((run.maps[layer] - plain.maps[layer]).abs().max() > 1e-2 for layer in touched)


def test_edits_in_float32_are_as_exact_as_attention_in_float32() -> None:
    """At most twice the error of dense edits in float32, both against float64."""
    given, changes = EDITS["all on one head"]
    exact = case("gpt_oss")
    _, expected = exact.dense(changes=changes)
    narrow = Case(exact.model.float(), exact.hooked, exact.inputs, exact.layers)
    try:
        _, plain = narrow.dense(changes=changes)
        with narrow.hooked.edited(given):
            got = narrow.hooked(narrow.inputs)[0]
    finally:
        exact.model.double()
    error = (got - expected)[exact.keep].abs().max()
    assert 0 < error <= 2 * (plain - expected)[exact.keep].abs().max()
