"""Scans on disk: what is written, read back, refused; and that a failing write spoils nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import interp
from interp.errors import InputError, RunError
from interp.heads import Pattern
from interp.scores import COLUMNS, HeadScores
from interp.store import check_folder, load_scan, save_scan

FILES = {"scores.parquet", "scan.json", "report.html"}


@pytest.fixture
def stored(scores: HeadScores, tmp_path: Path) -> Path:
    save_scan(scores, tmp_path / "stored")
    return tmp_path / "stored"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_settings(folder: Path, **changes: Any) -> None:
    path = folder / "scan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(scores: HeadScores, stored: Path):
    again = load_scan(stored)
    pd.testing.assert_frame_equal(again.to_frame(), scores.to_frame())
    assert again.settings == scores.settings
    assert again.detectors == scores.detectors
    of_class = HeadScores.load(str(stored))
    pd.testing.assert_frame_equal(of_class.to_frame(), scores.to_frame())
    assert of_class.settings == scores.settings
    with pytest.raises(InputError, match="holds no scan"):
        HeadScores.load(stored / "elsewhere")


def test_a_pattern_of_ones_own_is_read_back_with_its_definition(own_model, tokenizer, tmp_path: Path):
    pattern = Pattern("even", keys=lambda tokens: tokens.ids % 2 == 0, threshold=0.6)
    found = interp.scan(interp.load(own_model("llama"), tokenizer=tokenizer), pattern, text="w5 w6 w7", progress=False)
    found.save(tmp_path / "kept")
    again = HeadScores.load(tmp_path / "kept").settings["methods"]["even"]
    assert again == pattern.facts() == found.settings["methods"]["even"]
    assert again["threshold"] == 0.6


def test_files(scores: HeadScores, tmp_path: Path):
    report = scores.save(tmp_path / "a" / "b")
    assert report == tmp_path / "a" / "b" / "report.html"
    assert set(contents(tmp_path / "a" / "b")) == FILES


def test_the_table_has_the_stated_columns_and_types(stored: Path):
    frame = pd.read_parquet(stored / "scores.parquet")
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS
    named = ["layer", "head", "detector", "score", "stderr", "chance", "threshold", "is_above"]
    assert list(frame.columns)[:8] == named


def test_the_settings_say_how_to_measure_it_again(stored: Path):
    settings = json.loads((stored / "scan.json").read_text())
    assert (settings["format"], settings["format_version"]) == ("interp.scan", 1)
    assert {"detectors", "left_out", "inputs", "window", "samples", "seed", "beyond_context", "model"} <= set(settings)
    assert {"model", "revision", "architecture", "dtype", "device", "versions"} <= set(settings["model"])


def test_a_folder_that_holds_a_scan_is_kept(scores: HeadScores, stored: Path):
    before = contents(stored)
    with pytest.raises(
        InputError, match=rf"{stored} already holds a scan; give another folder, or overwrite it \(--over"
    ):
        scores.save(stored)
    assert contents(stored) == before


def test_overwriting(scores: HeadScores, stored: Path):
    changed = HeadScores(scores.frame.assign(score=0.125), {**scores.settings, "seed": 99})
    changed.save(stored, overwrite=True)
    again = load_scan(stored)
    assert again.settings["seed"] == 99
    assert set(again.frame["score"]) == {0.125}
    assert set(contents(stored)) == FILES


@pytest.mark.parametrize("broken", ["table", "report", "settings", "move"])
def test_a_failing_write_leaves_the_old_scan_whole(
    broken: str, scores: HeadScores, stored: Path, monkeypatch: pytest.MonkeyPatch
):
    before = contents(stored)
    changed = HeadScores(scores.frame.assign(score=0.125), {**scores.settings, "seed": 99})
    full = OSError(28, "No space left on device")

    def fail_halfway(path: Path, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half a fi")
        raise full

    if broken == "table":
        monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda self, path, **_: fail_halfway(path))
    elif broken == "move":
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(full))
    else:
        write = Path.write_text
        wanted = {"report": ".report.html.", "settings": ".scan.json."}[broken]

        def spy(self: Path, *given: Any, **options: Any) -> int:
            if self.name.startswith(wanted):
                fail_halfway(self)
            return write(self, *given, **options)

        monkeypatch.setattr(Path, "write_text", spy)
    with pytest.raises(RunError, match=rf"writing the scan into {stored} failed: .*No space left on device"):
        changed.save(stored, overwrite=True)
    monkeypatch.undo()
    assert contents(stored) == before


def test_a_failing_report_leaves_nothing(scores: HeadScores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(_: HeadScores) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("interp.report.report_html", fail)
    with pytest.raises(ZeroDivisionError):
        scores.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_check_makes_no_folder(tmp_path: Path):
    check_folder(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=rf"{tmp_path}/file is a file; give a folder"):
        check_folder(tmp_path / "file")


# The tests may run as root, whom permissions do not stop.
@pytest.mark.parametrize("place", ["file/below", "file/below/deeper", "x" * 300])
def test_an_output_folder_that_cannot_be_written(place: str, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write into .*: \S.*; give a folder that can be written"):
        check_folder(tmp_path / place)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a file system that nobody can write")
def test_a_file_system_that_cannot_be_written():
    with pytest.raises(InputError, match="cannot write into /proc/interp-scan: "):
        check_folder(Path("/proc/interp-scan"))


def test_no_scan(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            InputError, match=rf"{folder} holds no scan \(no scan\.json\); give a folder that interp scan"
        ):
            load_scan(folder)


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", '{"format": "other"}', b"\xff\xfe"], ids=repr)
def test_settings_that_no_scan_wrote(content: str | bytes, stored: Path):
    (stored / "scan.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"scan\.json was not written by interp scan|cannot be read"):
        load_scan(stored)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_format_version(version: Any, stored: Path):
    change_settings(stored, format_version=version)
    with pytest.raises(InputError, match=rf"has format version {version}, this interp reads 1"):
        load_scan(stored)


@pytest.mark.parametrize("change", [{"model": None}, {"model": "x"}, {"inputs": []}, {"left_out": "all"}], ids=repr)
def test_damaged_settings(change: dict[str, Any], stored: Path):
    change_settings(stored, **change)
    with pytest.raises(InputError, match=rf"scan\.json is damaged: '{next(iter(change))}' holds "):
        load_scan(stored)


def test_a_scan_without_its_table(stored: Path):
    (stored / "scores.parquet").unlink()
    with pytest.raises(InputError, match=rf"the scan in {stored} cannot be read: .*scores\.parquet"):
        load_scan(stored)


def test_a_table_cut_short(stored: Path):
    table = stored / "scores.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"the scan in {stored} cannot be read: \S"):
        load_scan(stored)


def rewrite_table(folder: Path, frame: pd.DataFrame) -> None:
    frame.to_parquet(folder / "scores.parquet", index=False)


def test_a_table_of_another_shape(scores: HeadScores, stored: Path):
    rewrite_table(stored, scores.frame.drop(columns=["chance", "stderr"]))
    with pytest.raises(InputError, match=r"scores\.parquet lacks the columns stderr, chance"):
        load_scan(stored)
    rewrite_table(stored, scores.frame.iloc[:0])
    with pytest.raises(InputError, match=r"scores\.parquet has no rows"):
        load_scan(stored)
    rewrite_table(stored, scores.frame.assign(layer=float("nan")))
    with pytest.raises(InputError, match=rf"the scan in {stored} cannot be read: \S"):
        load_scan(stored)
    rewrite_table(stored, scores.frame.assign(score="high"))
    with pytest.raises(InputError, match=rf"the scan in {stored} cannot be read: \S"):
        load_scan(stored)


def test_columns_that_a_later_version_adds_are_left_out(scores: HeadScores, stored: Path):
    rewrite_table(stored, scores.frame.assign(later=1))
    assert list(load_scan(stored).frame.columns) == list(COLUMNS)


def test_undefined_errors_are_kept(own_model, tmp_path: Path):
    one = interp.scan(interp.load(own_model("llama")), ["induction"], samples=1, progress=False)
    one.save(tmp_path)
    assert load_scan(tmp_path).frame["stderr"].isna().all()
