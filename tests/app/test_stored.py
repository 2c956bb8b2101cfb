"""The folder of scans: what an address can name lies in it, and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.store import SETTINGS, TABLE
from interp_app.stored import listed, opened


@pytest.fixture
def folder(scans: Path, tmp_path: Path) -> Path:
    """A folder of its own with the scan "demo"."""
    shutil.copytree(scans / "demo", tmp_path / "scans" / "demo")
    return tmp_path / "scans"


def test_a_scan_is_listed_and_opened(folder: Path):
    row = listed(folder).iloc[0]
    assert row["scan"] == "demo"
    assert row["detectors"] == "induction, previous_token"
    assert opened(folder, "demo").detectors == ["induction", "previous_token"]


def test_the_newest_comes_first(folder: Path):
    import os

    shutil.copytree(folder / "demo", folder / "older")
    os.utime(folder / "older" / SETTINGS, (10**9, 10**9))
    assert listed(folder)["scan"].tolist() == ["demo", "older"]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "../scans/demo",
        "demo/",
        "/etc",
        "demo/../demo",
        "demo\0",
        "demo\n",
        ".hidden",
        "a" * 65,
        "..%2f",
        "C:\\x",
        "ünï",
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str):
    with pytest.raises(InputError, match="there is no stored scan"):
        opened(folder, name)


def test_a_scan_beside_the_folder_is_not_reached(folder: Path, scans: Path):
    shutil.copytree(scans / "demo", folder.parent / "outside")
    for name in ("../outside", "outside"):
        with pytest.raises(InputError, match="there is no stored scan"):
            opened(folder, name)


def test_links_are_neither_listed_nor_followed(folder: Path, scans: Path):
    shutil.copytree(scans / "demo", folder.parent / "outside")
    (folder / "link").symlink_to(folder.parent / "outside")
    assert listed(folder)["scan"].tolist() == ["demo"]
    with pytest.raises(InputError, match="there is no stored scan 'link'"):
        opened(folder, "link")


@pytest.mark.parametrize("name", [TABLE, SETTINGS])
def test_links_within_a_scan_are_not_followed(folder: Path, scans: Path, name: str):
    (folder / "demo" / name).unlink()
    (folder / "demo" / name).symlink_to(scans / "demo" / name)
    with pytest.raises(InputError, match="holds a link"):
        opened(folder, "demo")


def test_folders_with_odd_names_are_passed_over(folder: Path):
    for name in ("with space", "<img src=x>", ".hidden", "naïve"):
        shutil.copytree(folder / "demo", folder / name)
    (folder / "a file").write_text("x")
    (folder / "empty").mkdir()
    assert listed(folder)["scan"].tolist() == ["demo"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '"x"', '{"model": 5}', '{"detectors": 5}', "[" * 100_000, "\ufeff{}"]
)
def test_a_damaged_scan_is_listed_as_such_and_refused_by_its_name(folder: Path, content: str):
    (folder / "demo" / SETTINGS).write_text(content)
    frame = listed(folder)
    assert frame["scan"].tolist() == ["demo"]
    assert frame["model"].tolist() == ["cannot be read"]
    with pytest.raises(InputError) as refused:
        opened(folder, "demo")
    assert "demo" in str(refused.value)
    assert str(folder) not in str(refused.value)


def test_settings_that_are_not_utf8_are_refused(folder: Path):
    (folder / "demo" / SETTINGS).write_bytes(b"\xff\xfe{}")
    assert listed(folder)["model"].tolist() == ["cannot be read"]
    with pytest.raises(InputError, match="cannot be read"):
        opened(folder, "demo")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_damaged_table_is_refused_without_the_place_of_the_folder(folder: Path, content: bytes):
    (folder / "demo" / TABLE).write_bytes(content)
    with pytest.raises(InputError, match="demo cannot be read") as refused:
        opened(folder, "demo")
    assert str(folder) not in str(refused.value)


def test_hostile_settings_stay_text(folder: Path):
    path = folder / "demo" / SETTINGS
    settings = json.loads(path.read_text())
    settings["model"]["model"] = "<img src=x onerror=alert(1)>"
    settings["seed"] = {"a": [1]}
    path.write_text(json.dumps(settings))
    row = listed(folder).iloc[0]
    assert row["model"] == "<img src=x onerror=alert(1)>"
    assert str(row["seed"]) == "{'a': [1]}"


def test_scans_that_can_be_read_are_sorted_beside_those_that_cannot(folder: Path):
    shutil.copytree(folder / "demo", folder / "damaged")
    (folder / "damaged" / SETTINGS).write_text("{")
    assert listed(folder)["scan"].tolist() == ["demo", "damaged"]


def test_a_folder_that_is_not_there_has_no_scans(tmp_path: Path):
    assert listed(tmp_path / "none").empty
    with pytest.raises(InputError, match="there is no stored scan"):
        opened(tmp_path / "none", "demo")
