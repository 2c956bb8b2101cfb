"""What is released: the wheel holds what runs, its command works from it alone, and both archives leave out what they should."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, as ``make dist`` builds them."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (the extra `dev`)")
    folder = tmp_path_factory.mktemp("dist")
    made = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    wheel.extractall(folder)
    return folder


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"interp", "interp_kernels", "interp_app", f"interp-{PROJECT['version']}.dist-info"}
    assert not [name for name in wheel.namelist() if re.search(r"(^|/)(tests?|__pycache__|\.venv)/", name)]


@pytest.mark.parametrize("room", ["interp", "kernels/interp_kernels", "app/interp_app"])
def test_every_file_of_a_package_is_in_the_wheel(wheel: zipfile.ZipFile, room: str) -> None:
    """Scripts, style sheets and the demo model too, which a build of modules alone would leave out."""
    listed = subprocess.run(["git", "ls-files", room], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not in a clone of git, which says what belongs to the project")
    files = {str(Path(name).relative_to(Path(room).parent)) for name in listed.stdout.split("\n") if name}
    assert files
    assert files <= set(wheel.namelist())


def test_it_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = wheel.read(name).decode()
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    assert extras == set(PROJECT["optional-dependencies"])
    assert re.search(rf"^Version: {re.escape(PROJECT['version'])}$", metadata, re.MULTILINE)
    assert "License-Expression: Apache-2.0" in metadata
    # What a page on the package index shows leads somewhere: no picture by a path of the repository alone.
    assert "Description-Content-Type: text/markdown" in metadata


def test_the_command_scans_the_demo_model_from_the_wheel_alone(unpacked: Path, tmp_path: Path) -> None:
    """In an isolated interpreter, far from the clone: nothing of it can be imported by chance."""
    entry = (unpacked / f"interp-{PROJECT['version']}.dist-info" / "entry_points.txt").read_text(encoding="utf-8")
    assert "interp = interp.cli:main" in entry
    script = (
        "import sys; sys.path[:0] = [sys.argv.pop(1)]; import interp, interp_kernels; "
        "print(interp.__file__, interp_kernels.__file__, file=sys.stderr); from interp.cli import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", script, str(unpacked), "scan", "demo", "--detectors", "induction", "--samples", "2",
         "--out", str(tmp_path / "out"), "--json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.split("\n")[0].split() == [
        str(unpacked / "interp" / "__init__.py"),
        str(unpacked / "interp_kernels" / "__init__.py"),
    ]
    assert json.loads(run.stdout)
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "scores.parquet").is_file()


def test_the_source_distribution_holds_what_a_build_and_the_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
    ):
        assert needed in names
    for folder in ("interp", "kernels", "app", "tests", "docs", "notebooks", "benchmarks"):
        assert any(name.startswith(f"{folder}/") for name in names)
    assert not [name for name in names if re.search(r"(^|/)(__pycache__|\.venv|out|build)/", name)]


def test_the_changelog_has_the_version_or_says_that_it_is_to_come() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = PROJECT["version"]
    assert f"## [{version}]" in changelog or f"To become {version}" in changelog
