"""Help with names, versions, and the kinds of error: what users read when something is not there."""

from __future__ import annotations

import importlib.metadata

import pytest

import interp
from interp import errors
from interp.naming import head_name, nearest
from interp.versions import environment, versions


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("entrpy", ["entropy", "peak"], "did you mean 'entropy'? (known: entropy, peak)"),
        ("xyzzy", ["entropy", "peak"], "known: entropy, peak"),
        ("entropy", [], "there are none"),
    ],
)
def test_nearest(name: str, known: list[str], said: str):
    assert nearest(name, known) == said
    assert nearest(name, iter(known)) == said


def test_head_names_count_from_zero():
    assert head_name(0, 11) == "L0H11"


def test_versions_name_what_numbers_depend_on():
    found = versions()
    assert found["interp"] == interp.__version__
    for package in ("torch", "transformers", "tokenizers", "numpy", "pandas"):
        assert found[package] == importlib.metadata.version(package)
    assert all(isinstance(value, str) for value in environment().values())
    assert environment().keys() > found.keys()


def test_packages_that_are_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("interp.versions.PACKAGES", ("torch", "no-such-package"))
    assert list(versions()) == ["python", "interp", "torch"]


def test_errors_can_be_caught_as_what_they_are():
    assert issubclass(errors.InputError, (errors.InterpError, ValueError))
    assert issubclass(errors.RunError, (errors.InterpError, RuntimeError))
    assert not issubclass(errors.RunError, ValueError)
