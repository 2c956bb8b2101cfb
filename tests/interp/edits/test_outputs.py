"""Edits of what heads write against the same on dense attention in float64, and the runs that they take it from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp import edits
from interp.edits.ablate import MeanAblation
from tests.interp.edits import dense_edits
from tests.interp.edits.cases import PADDED, Case, T, case
from tests.interp.edits.test_maps import assert_close
from tests.interp.tiny import token_ids

NAMES = ("llama", "gpt_oss", "bert")
HEADS = {0: (1,), 1: (0, 2)}
SPECS = ("L0H1", (1, 0), "1.2")


def other(of: Case) -> dict[str, Tensor]:
    return {"input_ids": token_ids((2, T), seed=77), "attention_mask": of.inputs["attention_mask"]}


def z_of(of: Case, inputs: dict[str, Tensor], layer: int) -> Tensor:
    run, _ = Case(of.model, of.hooked, inputs, of.layers).dense()
    return run.z[layer][:, list(HEADS[layer])]


def check(of: Case, given: edits.Edit, outputs: list) -> None:
    run, expected = of.dense(outputs=outputs)
    _, plain = of.dense()
    assert (expected - plain)[of.keep].abs().max() > 1e-2
    with of.hooked.edited(given):
        got = of.hooked(of.inputs)[0]
        capture = of.hooked.capture(of.inputs, ["entropy"])
    assert_close(got, expected, of.keep)
    for layer, p in run.maps.items():
        assert_close(capture["entropy"][layer].mT[of.keep], dense_entropy(p).mT[of.keep])


def dense_entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_zero_ablation(name: str) -> None:
    check(case(name), edits.ablate(*SPECS), [(HEADS, dense_edits.times(0.0))])


@pytest.mark.parametrize("name", NAMES)
def test_scaling(name: str) -> None:
    check(case(name), edits.scale(*SPECS, factor=-1.7), [(HEADS, dense_edits.times(-1.7))])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_position", [False, True])
def test_mean_ablation_leaves_padding_out_of_the_mean(name: str, per_position: bool) -> None:
    of, reference = case(name), other(case(name))
    outputs = []
    for layer, heads in HEADS.items():
        z = z_of(of, reference, layer)
        kept = of.keep.double()[:, None, :, None]
        if per_position:
            mean = (z * kept).sum(dim=0) / kept.sum(dim=0)
        else:
            mean = torch.cat([z[0], z[1][:, of.keep[1]]], dim=1).mean(dim=1, keepdim=True)
        outputs.append(({layer: heads}, dense_edits.put(mean)))
    held = of.hooked.capture(reference, [], heads=SPECS, outputs=True)
    check(of, edits.mean_ablate(*SPECS, reference=held, per_position=per_position), outputs)


def test_a_mean_over_several_runs_is_that_of_all_their_tokens() -> None:
    of = case("llama")
    first, second = token_ids((1, 8), seed=1), token_ids((3, 12), seed=2)
    runs = [of.hooked.capture(ids, [], layers=[1], outputs=True) for ids in (first, second)]
    bound = edits.mean_ablate("L1H3", reference=runs).on(of.hooked)
    assert isinstance(bound, MeanAblation)
    every = torch.cat([run["output"][1][:, 3].flatten(0, 1) for run in runs])
    assert every.shape == (8 + 36, 8)
    assert_close(bound.means[1], every.mean(dim=0)[None, None])


@pytest.mark.parametrize("name", NAMES)
def test_resample_ablation(name: str) -> None:
    of, source = case(name), other(case(name))
    outputs = [({layer: heads}, dense_edits.put(z_of(of, source, layer))) for layer, heads in HEADS.items()]
    check(of, edits.resample(*SPECS, source=of.hooked.capture(source, [], outputs=True)), outputs)


@pytest.mark.parametrize("name", NAMES)
def test_patching_at_some_positions(name: str) -> None:
    of, source = case(name), other(case(name))
    at = torch.zeros(2, T, dtype=torch.bool)
    at[:, [PADDED + 1, PADDED + 4]] = True
    outputs = [({layer: heads}, dense_edits.put(z_of(of, source, layer), at)) for layer, heads in HEADS.items()]
    held = of.hooked.capture(source, [], heads=SPECS, outputs=True)
    check(of, edits.patch(*SPECS, source=held, positions=[PADDED + 1, PADDED + 4]), outputs)


def test_a_source_of_one_sequence_serves_all() -> None:
    of = case("gpt2")
    ids = token_ids((1, T), seed=77)
    z = Case(of.model, of.hooked, {"input_ids": ids}, of.layers).dense()[0].z[0][:, [2]]
    held = of.hooked.capture(ids, [], heads="L0H2", outputs=True)
    check(of, edits.resample("L0H2", source=held), [({0: [2]}, dense_edits.put(z))])


def test_patching_a_run_with_itself_changes_nothing() -> None:
    of = case("llama")
    plain = of.hooked.capture(of.inputs, [], outputs=True)
    with of.hooked.edited(edits.patch("all", source=plain)):
        again = of.hooked.capture(of.inputs, [], outputs=True)
    assert torch.equal(plain.stacked("output"), again.stacked("output"))


def test_edits_of_outputs_act_in_the_order_given() -> None:
    of, source = case("llama"), other(case("llama"))
    held, z = of.hooked.capture(source, [], heads=SPECS, outputs=True), z_of(of, source, 0)
    new, doubled = dense_edits.put(z), dense_edits.times(2.0)
    pair = [edits.scale("L0H1", factor=2), edits.resample("L0H1", source=held)]
    for given, outputs in ((pair, [doubled, new]), (pair[::-1], [new, doubled])):
        _, expected = of.dense(outputs=[({0: (1,)}, each) for each in outputs])
        with of.hooked.edited(given):
            assert_close(of.hooked(of.inputs)[0], expected, of.keep)


def test_cut_ablate_and_scale_compose() -> None:
    of = case("gpt_oss")
    cut = torch.arange(T)[None] == 9
    run, expected = of.dense(
        changes=[({0: range(4), 1: range(4)}, dense_edits.cut(cut.expand(T, T), renormalize=False))],
        outputs=[({0: [1]}, dense_edits.times(0.0)), ({0: [2], 1: [2]}, dense_edits.times(3.0))],
    )
    given = [edits.scale("0.2", "1.2", factor=3), edits.ablate("L0H1"), edits.cut(keys=9, renormalize=False)]
    with of.hooked.edited(given):
        assert_close(of.hooked(of.inputs)[0], expected, of.keep)
        held = of.hooked.capture(of.inputs, [], outputs=True)
    # What is taken while edits are in force is edited.
    for layer, z in run.z.items():
        assert_close(held["output"][layer].transpose(1, 2)[of.keep], z.transpose(1, 2)[of.keep])
