"""Results: what is saved is read back equal; what is damaged, of another kind or hostile is refused or escaped."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.errors import InputError
from interp.results.result import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Tried(Result):
    kind: ClassVar[str] = "tried"

    grid: np.ndarray
    seen: np.ndarray
    table: pd.DataFrame
    tokens: tuple[str, ...]
    level: float
    nested: tuple[tuple[int, float], ...] = ()

    def to_frame(self) -> pd.DataFrame:
        return self.table

    def plot(self) -> go.Figure:
        return go.Figure()

    def summary(self) -> str:
        return f"{len(self.tokens)} tokens"


class Other(Tried):
    kind: ClassVar[str] = "other"


class Newer(Tried):
    version: ClassVar[int] = 2


HOSTILE = "</script><img src=x onerror=alert(1)>"


def made(**changed: object) -> Tried:
    given = {
        "settings": {"method": "tried", "constants": {"at": Path("here"), 3: (1, 2)}, "model": {"model": HOSTILE}},
        "grid": np.array([[0.5, np.nan], [np.inf, -0.0]], dtype=np.float64),
        "seen": np.array([True, False]),
        "table": pd.DataFrame({"token": [HOSTILE, "b"] * 10, "score": np.arange(20.0)}),
        "tokens": ("a", "ü", "\n"),
        "level": math.nan,
        "nested": ((1, 0.5), (2, -math.inf)),
    }
    return Tried(**{**given, **changed})  # pyright: ignore[reportArgumentType]


def test_a_result_is_read_back_equal(tmp_path: Path):
    result = made()
    back = Tried.load(result.save(tmp_path / "new"))
    assert back.grid.tobytes() == result.grid.tobytes()
    assert back.grid.dtype == result.grid.dtype
    assert back.seen.tolist() == [True, False]
    assert back.seen.dtype == bool
    pd.testing.assert_frame_equal(back.table, result.table)
    assert back.tokens == result.tokens
    assert math.isnan(back.level)
    assert back.nested == result.nested
    assert back.settings == result.settings
    assert back.settings["constants"] == {"at": "here", "3": [1, 2]}


def test_the_same_result_is_the_same_bytes(tmp_path: Path):
    first, second = made().save(tmp_path / "a"), made().save(tmp_path / "b")
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}


def test_the_json_is_json(tmp_path: Path):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((made().save(tmp_path) / "result.json").read_text("utf-8"), parse_constant=refuse)


def test_nothing_is_overwritten_unasked(tmp_path: Path):
    made().save(tmp_path)
    with pytest.raises(
        InputError, match=r"already holds a result; give another folder, or overwrite it \(overwrite=True\)"
    ):
        made().save(tmp_path)
    assert Tried.load(made(tokens=()).save(tmp_path, overwrite=True)).tokens == ()


def test_another_kind_and_version_are_refused(tmp_path: Path):
    made().save(tmp_path)
    with pytest.raises(InputError, match="holds a result of the kind 'tried', expected 'other'"):
        Other.load(tmp_path)
    with pytest.raises(InputError, match=r"format version 1\.1, this interp reads 1\.2"):
        Newer.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no result \(no result.json\); give a folder that Tried.save wrote"):
        Tried.load(tmp_path)


@pytest.mark.parametrize("name", ["arrays.safetensors", "table.parquet"])
def test_files_of_two_results_never_mix(tmp_path: Path, name: str):
    folder = made().save(tmp_path / "a")
    other = made(grid=np.zeros((2, 2)), table=pd.DataFrame({"token": ["c"]})).save(tmp_path / "b")
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(InputError, match=f"{name} does not belong to result.json beside it: the result is damaged"):
        Tried.load(folder)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "interp.result"}', '{"format": "interp.capture"}'])
def test_damaged_files_are_refused(tmp_path: Path, damage: str):
    (made().save(tmp_path) / "result.json").write_text(damage)
    with pytest.raises(InputError, match=r"cannot be read|was not written by interp|holds a result of the kind None"):
        Tried.load(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path):
    path = made().save(tmp_path) / "result.json"
    content = json.loads(path.read_text("utf-8"))
    del content["values"]["level"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="cannot be read: it lacks 'level'"):
        Tried.load(tmp_path)


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="nested: a result cannot hold set"):
        made(nested=({1},)).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_shows_itself_and_runs_nothing():
    page = made()._repr_html_()
    assert "<img" not in page
    assert "3 tokens" in page
    assert "20 rows; to_frame() gives all of them" in page
    assert repr(made()).endswith("3 tokens")
