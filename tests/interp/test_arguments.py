"""Values of the wrong kind, wherever a user gives one: one sentence that names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import edits
from interp.errors import InputError

TEXT = "The ferryman of Port Halow said"
SINGLE = [np.array(1), torch.tensor(1), torch.tensor(1, device="meta")]
"""Numbers that say they can be iterated."""
UNREADABLE = [torch.tensor([0, 1], device="meta"), torch.tensor([0, 1]).to_sparse()]
"""Tensors whose numbers are not there, or not one after another."""
TRUTHLESS = [np.array([0, 1]), torch.tensor([]), torch.tensor([True, False]), "no", 1, None]
"""Neither True nor False, and not all of them with a truth value."""


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load("demo")


@pytest.fixture(scope="module")
def capture(model: interp.HookedModel) -> interp.Capture:
    return model.capture(TEXT, ["entropy"], outputs=True)


def check(call: Callable[[Any], Any], value: Any, *said: str) -> None:
    with pytest.raises(InputError) as error:
        call(value)
    message = str(error.value)
    assert all(part in message for part in said), message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("value", SINGLE)
def test_a_single_number_is_not_several(model: interp.HookedModel, value: Any) -> None:
    check(lambda each: model.capture(TEXT, each), value, "probes: expected probes")
    check(lambda each: model.capture(TEXT, ["entropy"], each), value, "layers: expected layers")
    check(lambda each: model.capture(TEXT, ["entropy"], heads=each), value, "heads: expected heads")
    check(lambda each: model.edited(each).__enter__(), value, "edits: expected edits")
    check(lambda each: model.edited(edits.cut(keys=0, heads=each)).__enter__(), value, "cut: heads: expected")
    check(lambda each: model.edited(edits.ablate(layers=each)).__enter__(), value, "layers: expected layers")
    check(model.token_strings, value, "ids: expected token ids")


@pytest.mark.parametrize("value", UNREADABLE)
def test_tensors_that_cannot_be_read(model: interp.HookedModel, value: torch.Tensor) -> None:
    check(lambda each: model.capture(each, ["entropy"]), value, "token ids: expected a")
    check(lambda each: model.capture({"input_ids": each[None]}, ["entropy"]), value, "inputs['input_ids']: expected a")
    check(lambda each: edits.cut(queries=each), value, "cut: queries: expected a")
    check(lambda each: edits.cut(pairs=each), value, "cut: pairs: expected a")
    check(model.token_strings, value, "ids: expected token ids")
    mass = interp.KeyMass(value[:, None].float())
    check(lambda each: model.capture([5, 6], each), [mass], "KeyMass.weights: expected a")


def test_heads_and_layers_on_the_device_meta(model: interp.HookedModel) -> None:
    value = UNREADABLE[0]
    check(lambda each: model.capture(TEXT, ["entropy"], each), value, "layer tensor(", "does not exist")
    check(
        lambda each: model.edited(edits.ablate(each)).__enter__(), value, "ablate: head", "expected a layer and a head"
    )
    factor = torch.tensor(0.5, device="meta")
    check(lambda each: edits.scale("L0H0", factor=each), factor, "scale: factor: expected a finite number")


@pytest.mark.parametrize("value", TRUTHLESS)
def test_switches_are_true_or_false(model: interp.HookedModel, capture: interp.Capture, value: Any) -> None:
    ways: dict[str, Callable[[Any], Any]] = {
        "logits": lambda each: model.capture(TEXT, ["entropy"], logits=each),
        "outputs": lambda each: model.capture(TEXT, ["entropy"], outputs=each),
        "contributions": lambda each: model.capture(TEXT, ["entropy"], contributions=each),
        "value_norms": lambda each: model.capture(TEXT, ["entropy"], value_norms=each),
        "beyond_context": lambda each: model.capture(TEXT, ["entropy"], beyond_context=each),
        "special": lambda each: model.windows(TEXT, 8, special=each),
        "overwrite": lambda each: capture.save("nowhere", overwrite=each),
        "progress": lambda each: model.generate(TEXT, 2, progress=each),
        "hidden_sinks: keep_first": lambda each: edits.hidden_sinks(model, TEXT, keep_first=each),
        "cut: renormalize": lambda each: edits.cut(keys=0, renormalize=each),
        "mean_ablate: per_position": lambda each: edits.mean_ablate("L0H0", reference=capture, per_position=each),
        "Received.normalize": lambda each: model.capture(TEXT, [interp.Received(normalize=each)]),
        "LabelMatch.strict": lambda each: model.capture(
            [5, 6], [interp.LabelMatch(torch.tensor([5, 6]), torch.tensor([5, 6]), strict=each)]
        ),
    }
    for name, way in ways.items():
        check(way, value, name, "expected True")


def test_numpy_says_true_too(model: interp.HookedModel) -> None:
    assert model.capture(TEXT, ["entropy"], logits=np.True_).logits is not None  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [10**30, -(2**63), slice(0, 10**30), [0, 2**63], [(2**63, 0)]])
def test_positions_that_no_text_has(value: Any) -> None:
    way = (lambda each: edits.cut(pairs=each)) if isinstance(value, list) and isinstance(value[0], tuple) else None
    check(way or (lambda each: edits.cut(queries=each)), value, "cut: ", "expected")


@pytest.mark.parametrize("name", [None, 3, ["entropy"], slice(None), torch.tensor(1)])
def test_names_of_statistics(capture: interp.Capture, name: Any) -> None:
    check(lambda each: capture[each], name, "this capture has no statistic", "known: entropy")
    if name is not None:
        check(capture.to_frame, name, "this capture has no statistic")


@pytest.mark.parametrize("layer", [None, True, 1.0, [0], {}, torch.tensor([0, 1]), torch.tensor(1, device="meta")])
def test_layers_of_a_capture(capture: interp.Capture, layer: Any) -> None:
    for way in (capture.layer, capture.keys, capture.queries):
        check(way, layer, "was not captured; these were: [0, 1, 2, 3]")


@pytest.mark.parametrize("path", [None, 3, b"x", ["a"], "\x00", "\ud800", "a" * 3000])
def test_paths(capture: interp.Capture, path: Any) -> None:
    check(capture.save, path, "folder: ")
    check(interp.Capture.load, path, "folder: ")


def test_names_that_are_no_paths_and_devices_that_are_no_numbers() -> None:
    with pytest.raises(InputError):
        interp.load("a" * 3000)
    check(lambda each: interp.load("demo", device=each), 10**30, "device 1000", "cannot be used here")


@pytest.mark.parametrize("ids", [None, 3, "text", [None], [-1], [1.5], [2**32], {"a": 1}])
def test_token_ids_to_be_read(model: interp.HookedModel, ids: Any) -> None:
    check(model.token_strings, ids, "ids: expected token ids, integers from 0 on")


def test_white_space_alone_is_told_from_nothing(model: interp.HookedModel) -> None:
    check(model.batch, " " * 1000, "the text is empty but for white space (1,000 characters)")


def test_a_class_in_the_place_of_a_probe(model: interp.HookedModel) -> None:
    for given in (interp.Entropy, [interp.Entropy]):
        check(lambda each: model.capture(TEXT, each), given, "Entropy is a class; give a probe of it, Entropy()")
        check(lambda each: model.generate(TEXT, 2, each), given, "Entropy is a class; give a probe of it, Entropy()")
    check(lambda each: model.capture(TEXT, each), [interp.OffsetMass], "OffsetMass(offsets=...)")


def test_what_is_no_hooked_model(model: interp.HookedModel) -> None:
    check(lambda each: edits.hidden_sinks(each, TEXT), model.model, "hidden_sinks: model: expected a HookedModel")
