"""The detectors that are known, what each says of itself, and names that are not."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads import Needle, RetrievalHeads
from interp.heads.detector import Detector, ProbeDetector, RunDetector
from interp.heads.lookback import Lookback
from interp.heads.pattern import Pattern, Tokens
from interp.heads.registry import chosen

BASES = (Detector, ProbeDetector, RunDetector)
MADE_BY_USERS = (Pattern,)
STANDARD = [
    "previous_token",
    "current_token",
    "next_token",
    "duplicate_token",
    "induction",
    "induction_text",
    "copying",
    "first_token_sink",
]
NAMES = [*STANDARD, "hidden_sink", "delimiter", "broad", "lookback", "retrieval", "ov_copying", "importance"]


def test_names():
    assert list(interp.detectors()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is(name: str):
    detector = interp.detectors()[name]
    assert detector.name == name
    assert 0 < detector.threshold < 1
    for text in (detector.definition, detector.source, detector.threshold_source):
        assert len(text) > 10
        assert not text.endswith(".")  # sentences are made of them
    assert re.search(r"arXiv \d{4}\.\d{5}|TransformerLens", detector.source)
    assert type(detector).__doc__ != Detector.__doc__


def test_thresholds():
    found = {name: detector.threshold for name, detector in interp.detectors().items()}
    others = {
        "next_token": 0.5,
        "first_token_sink": 0.3,
        "hidden_sink": 0.1,
        "delimiter": 0.5,
        "broad": 0.9,
        "lookback": 0.5,
        "retrieval": 0.1,
        "ov_copying": 0.5,
        "importance": 0.5**0.5,
    }
    assert found == dict.fromkeys(STANDARD, 0.4) | others


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threshold", [7, -3.0, float("nan"), float("inf"), "0.4", None, True])
def test_a_threshold_that_no_score_can_pass_is_refused(name: str, threshold: object):
    detector = interp.detectors()[name]
    said = f"detector '{name}': threshold: expected a number from {detector.low:g} to {detector.high:g}, .*got {threshold!r}"
    with pytest.raises(InputError, match=said):
        replace(detector, threshold=threshold)
    assert replace(detector, threshold=detector.low).threshold == detector.low


def test_each_says_how_it_scores_in_what_json_holds():
    for detector in interp.detectors().values():
        facts = detector.facts()
        assert facts == json.loads(json.dumps(facts))
        assert facts["threshold"] == detector.threshold
        assert facts["definition"] == detector.definition
    needle = Needle("The key is red.", "red")
    given = RetrievalHeads(counting="set", lengths=(40, 80), needles=(needle,)).facts()["options"]
    assert given["counting"] == "set"
    assert given["lengths"] == [40, 80]
    assert given["needles"][0]["answer"] == "red"
    assert "depths" not in given
    assert Lookback(prompt_tokens=64).facts()["options"] == {"prompt_tokens": 64, "new_tokens": 32}


def test_patterns_of_ones_own_are_told_apart():
    def to_even(tokens: Tokens) -> torch.Tensor:
        return tokens.ids % 2 == 0

    named = Pattern("even", keys=to_even).facts()["options"]
    assert named["keys"].endswith("to_even")
    one, other = (Pattern("p", dense=torch.eye(4) * factor).facts()["options"]["dense"] for factor in (1, 2))
    assert one["shape"] == other["shape"] == [4, 4]
    assert one["sha256"] != other["sha256"]


def test_every_detector_of_the_folder_is_registered():
    """A file that defines one and is not in the list would never be run."""
    import interp.heads as folder

    defined = set()
    for file in Path(folder.__path__[0]).glob("*.py"):
        module = importlib.import_module(f"interp.heads.{file.stem}")
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Detector) and thing not in BASES + MADE_BY_USERS:
                defined.add(thing)
    assert defined == {type(detector) for detector in interp.detectors().values()}


def test_standard_is_all_that_forward_runs_can_measure():
    assert [d.name for d in chosen("standard")] == STANDARD
    assert [d.name for d in chosen(["standard"])] == STANDARD


def test_names_keep_their_order_and_come_once():
    assert [d.name for d in chosen(["induction", "current_token", "induction"])] == ["induction", "current_token"]
    assert [d.name for d in chosen("induction")] == ["induction"]


def test_an_unknown_name_shows_the_nearest():
    with pytest.raises(InputError, match=r"unknown detector 'inducton'; did you mean 'induction'\? \(known: previous_"):
        chosen(["previous_token", "inducton"])
    with pytest.raises(InputError, match=r"unknown detector 'xyzzy'; known: previous_token, current_token"):
        chosen("xyzzy")
    with pytest.raises(InputError, match=r"detectors: expected names or detectors \(see interp.detectors\(\)\), got 3"):
        chosen(3)  # pyright: ignore[reportArgumentType]


def test_no_name():
    with pytest.raises(InputError, match="detectors: give at least one name, or 'standard'"):
        chosen([])
