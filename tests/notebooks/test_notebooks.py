"""The notebooks run from a clean kernel, and what is committed of them is whole, small and theirs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST = 300_000
PATHS = re.compile(r"/(home|mnt|opt|root|srv|tmp|Users|work)/|site-packages|[A-Z]:\\\\")
"""What a path of a machine looks like."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in _cells(path) if cell["cell_type"] == "code"]


def test_there_are_notebooks_and_a_page_that_links_to_each() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert set(re.findall(r"\.\./notebooks/(\w+\.ipynb)", page)) == {path.name for path in NOTEBOOKS}


@each
def test_it_runs_from_a_clean_kernel_and_its_outputs_are_of_its_code(path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (the extra `dev`)")
    number = path.name.split("_")[0]
    # In a process of its own: nbclient brings an event loop, and so does playwright in other tests.
    run = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "build.py", "--check", number],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in (".", "kernels", "app"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""  # the kernel was ended, not left behind
    if "skipped: " in run.stdout:
        pytest.skip(run.stdout.strip())


def test_a_notebook_that_needs_what_is_absent_is_skipped_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (the extra `dev`)")
    script = tmp_path / "notebooks" / "build.py"
    script.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / "build.py", script)
    needs = {"no_such_module": "pip install it"}
    code = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1 / 0", "outputs": [], "execution_count": None}
    book = {"cells": [code], "metadata": {"interp": {"needs": needs}}, "nbformat": 4, "nbformat_minor": 5}
    script.with_name("1_needs.ipynb").write_text(json.dumps(book), encoding="utf-8")
    for flags in ([], ["--check"]):
        run = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=True)
        assert run.stdout == "notebooks/1_needs.ipynb: skipped: no_such_module is not installed (pip install it)\n"
    book["metadata"] = {}
    script.with_name("1_needs.ipynb").write_text(json.dumps(book), encoding="utf-8")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ZeroDivisionError" in run.stderr


@each
def test_its_outputs_were_made_by_the_code_that_is_committed(path: Path) -> None:
    code = "\n\0\n".join("".join(cell["source"]) for cell in _code(path))
    recorded = json.loads(path.read_text(encoding="utf-8"))["metadata"]["interp"]["code"]
    assert recorded == hashlib.sha256(code.encode()).hexdigest()


@each
def test_the_formatter_leaves_it_as_it_was_built(path: Path) -> None:
    command = [sys.executable, "-m", "ruff", "format", "--diff", "--quiet", path]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout


@each
def test_it_is_small_and_every_figure_has_a_picture(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    figures = [output for cell in _code(path) for output in cell["outputs"] if PLOTLY in output.get("data", {})]
    assert figures
    assert all(output["data"].get("image/png") for output in figures)


@each
def test_it_tells_nothing_of_the_machine_that_ran_it(path: Path) -> None:
    for cell in _cells(path):
        shown = [{kind: value for kind, value in o.get("data", {}).items() if kind != "image/png"} | {"text": o.get("text")}
                 for o in cell.get("outputs", [])]  # fmt: skip
        assert not PATHS.search(json.dumps([cell["source"], shown]))
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
        assert not any(output.get("name") == "stderr" for output in cell.get("outputs", []))
