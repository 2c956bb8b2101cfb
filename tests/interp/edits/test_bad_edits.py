"""Edits that cannot be made are refused before anything runs, in words that say what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

import interp
from interp import edits
from interp.errors import InputError
from tests.interp.edits.cases import T, case
from tests.interp.tiny import ARCHITECTURES, token_ids

IDS = token_ids((2, 20))
MASK = torch.ones(20, dtype=torch.bool)


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load(ARCHITECTURES["llama"].build())


MADE = [
    (edits.ablate, r"ablate: expected at least one head such as ablate\('L5H1'\).*layers=\[5\].*got none"),
    (lambda: edits.scale("L0H1", factor=math.nan), "scale: factor: expected a finite number, got nan"),
    (lambda: edits.scale("L0H1", factor="2"), "scale: factor: expected a finite number, got '2'"),  # type: ignore[arg-type]
    (lambda: edits.recalibrate(keys=0, factor=1.2), "recalibrate: factor: expected a number from 0 to 1, got 1.2"),
    (lambda: edits.recalibrate(keys=None), "recalibrate: expected the keys .* got None"),
    (lambda: edits.recalibrate(keys={}), "recalibrate: keys holds no layer"),
    (lambda: edits.recalibrate(keys={0: MASK}), r"recalibrate: keys\[0\]: expected a bool tensor \[B, Hq, T\]"),
    (edits.cut, "cut: expected queries=, keys= or both, or pairs="),
    (
        lambda: edits.cut(keys=[]),
        r"cut: keys: expected a position, several \(at least one\), a slice, a bool mask .* got \[\]",
    ),
    (lambda: edits.cut(keys="L0H1"), "cut: keys: expected a position"),  # type: ignore[arg-type]
    (lambda: edits.cut(keys=1.5), "cut: keys: expected a position"),  # type: ignore[arg-type]
    (lambda: edits.cut(keys=~MASK), r"cut: keys: .* got torch.bool \[20\] without a position in it"),
    (
        lambda: edits.cut(keys=torch.ones(3)),
        r"cut: keys: expected integers \[n\] or a bool mask .* got torch.float32 \[3\]",
    ),
    (
        lambda: edits.cut(queries=slice(5, 2, -1)),
        "cut: queries: expected a slice of whole numbers with a step of at least 1",
    ),
    (lambda: edits.cut(pairs=[(1, 0)], keys=[0]), "cut: give either pairs=, or queries= and keys=, not both"),
    (lambda: edits.cut(pairs=[]), r"cut: expected at least one pair of positions \(query, key\), got none"),
    (
        lambda: edits.cut(pairs=[(1, -2)]),
        r"cut: expected pairs of positions \(query, key\), both from 0 on, got \(1, -2\)",
    ),
    (lambda: edits.cut(pairs=[(1, 2, 3)]), r"cut: expected pairs of positions .* got \(1, 2, 3\)"),  # type: ignore[list-item]
    (
        lambda: edits.cut(pairs=[(1000 + key, key) for key in range(256)]),
        "cut: the keys of these pairs are cut from 256 different sets of queries, at most 255 are possible; give whole blocks",
    ),
    (lambda: edits.cut(keys=0, renormalize=0), "cut: renormalize: expected True or False, got 0"),  # type: ignore[arg-type]
    (
        lambda: edits.patch("L0H1", source=torch.ones(2)),  # type: ignore[arg-type]
        r"patch: expected a capture with outputs for source, as model.capture\(text, \[\], outputs=True\) gives; got tensor",
    ),
    (
        lambda: edits.mean_ablate("L0H1", reference=[]),
        "mean_ablate: expected at least one capture for reference, got none",
    ),
]


@pytest.mark.parametrize(("make", "message"), MADE)
def test_what_can_be_seen_when_an_edit_is_made(make: Callable[[], edits.Edit], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


ENTERED = [
    ([], "edits: expected at least one edit such as interp.edits.ablate.*, got none"),
    ("L0H1", r"edits: expected edits such as interp.edits.ablate\('L5H1'\), got 'L0H1'"),
    ([edits.ablate("L0H1"), "L0H2"], "edits: expected edits such as .*, got 'L0H2'"),
    (edits.ablate("L0H4"), "ablate: head 'L0H4' does not exist: layer 0 has 4 query heads, 0 to 3"),
    (edits.uniform("L2H0"), "uniform: head 'L2H0': layer 2 does not exist; the layers are 0 to 1"),
    (edits.uniform("decoder.L1H0"), "uniform: head 'decoder.L1H0': layer 'decoder.1' does not exist"),
    (edits.scale("head 3", factor=2), "scale: head 'head 3': expected a layer and a head counted from 0"),
    (edits.cut(keys=0, heads=[]), "cut: heads: expected at least one head"),
    (edits.cut(keys=0, layers=[]), "cut: expected at least one layer, got none"),
    (edits.cut(keys=0, layers=[5]), "layer 5 does not exist"),
    (edits.cut(keys=0, heads="L0H1", layers=[0]), "cut: heads name their layers already"),
    (
        edits.recalibrate(keys={1: torch.ones(2, 4, 20, dtype=torch.bool)}, heads="L0H1"),
        "recalibrate: keys holds no columns for layer 0, but for 1",
    ),
    (
        edits.recalibrate(keys={1: torch.ones(2, 8, 20, dtype=torch.bool)}),
        r"recalibrate: keys\[1\]: expected columns of 4 query heads, got 8",
    ),
]


@pytest.mark.parametrize(("given", "message"), ENTERED)
def test_what_can_be_seen_on_entering(model: interp.HookedModel, given: object, message: str) -> None:
    with pytest.raises(InputError, match=message), model.edited(given):  # type: ignore[arg-type]
        pytest.fail("entered")


def test_sources_of_other_shapes_are_refused_on_entering(model: interp.HookedModel) -> None:
    few = model.capture(IDS, [], heads=["L0H1"], outputs=True)
    wide = interp.load(ARCHITECTURES["qwen3"].build()).capture(IDS, [], outputs=True)
    plain = model.capture(IDS, ["entropy"])
    refused = [
        (
            lambda: edits.patch("L0H2", source=few),
            "patch: source: it holds the outputs of heads [1] of layer 0, not of [2]",
        ),
        (
            lambda: edits.resample("L1H2", source=few),
            "resample: source: it holds the outputs of layers [0], not of layer 1",
        ),
        (
            lambda: edits.mean_ablate("L1H2", reference=wide),
            "mean_ablate: reference: expected outputs of 4 query heads of width 8 for layer 1 of ",
        ),
        (lambda: edits.patch("L0H2", source=plain), "got a capture of ['entropy', ]"[:-4]),
    ]
    for make, message in refused:
        with pytest.raises(InputError, match=re.escape(message)), model.edited(make()):
            pytest.fail("entered")


def in_run(given: edits.Edit, ids: torch.Tensor = IDS) -> None:
    of = interp.load(ARCHITECTURES["llama"].build())
    with of.edited(given):
        of.capture(ids, [])


def test_positions_that_do_not_fit_the_input_are_refused_in_the_first_layer(model: interp.HookedModel) -> None:
    short, other = model.capture(IDS[:, :9], [], outputs=True), model.capture(token_ids((3, 20)), [], outputs=True)
    one = "L0H1"
    refused = [
        (edits.cut(keys=MASK[:9]), "cut: keys: expected a mask of shape [20] or [2, 20] for this input, got [9]"),
        (edits.cut(queries=MASK.expand(3, 20)), "cut: queries: expected a mask of shape [20] or [2, 20]"),
        (
            edits.patch(one, source=short),
            "patch: expected a source of 20 positions as the input, got 9; give positions=",
        ),
        (
            edits.patch(one, source=short, positions=[3, 9]),
            "patch: the source ends at position 8, and positions=[3, 9]",
        ),
        (
            edits.resample(one, source=other),
            "resample: expected a source of 2 sequences (or 1) and width 8 in layer 0, got 3",
        ),
        (
            edits.mean_ablate(one, reference=short, per_position=True),
            "mean_ablate: the reference ends at position 8, this run reaches 19",
        ),
    ]
    for given, message in refused:
        with pytest.raises(InputError, match=re.escape(message)):
            in_run(given)


def test_negative_positions_count_from_the_end_but_not_while_generating() -> None:
    hooked = case("llama").hooked
    ids = case("llama").inputs["input_ids"]
    runs = []
    for given in (edits.cut(queries=-1, keys=slice(-4, -2)), edits.cut(queries=T - 1, keys=[T - 4, T - 3])):
        with hooked.edited(given):
            runs.append(hooked.capture(ids, [], logits=True).logits)
    assert torch.equal(*runs)
    with (
        hooked.edited(edits.cut(keys=-2)),
        pytest.raises(InputError, match="-2 counts from the end of the input, which moves"),
    ):
        hooked.generate(ids, 3)


def test_too_many_classes_of_keys_in_one_layer_are_refused() -> None:
    """256 keys, each cut from a query of its own, and the class that is cut from none."""
    of = interp.load(ARCHITECTURES["llama"].build())
    halves = [edits.cut(pairs=[(key, key) for key in range(first, first + 128)], layers=[1]) for first in (0, 128)]
    ids = token_ids((1, 256))
    with of.edited(halves[0]):
        of.capture(ids, [])
    message = "layer 1: the edits sort its keys into 257 classes, at most 256 are possible; give whole blocks"
    with pytest.raises(InputError, match=message), of.edited(halves):
        of.capture(ids, [])
