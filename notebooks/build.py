"""Run the notebooks from a clean kernel, and write them with small, normal outputs.

    python notebooks/build.py                # all of them
    python notebooks/build.py 2 5            # those that begin with these numbers
    python notebooks/build.py --check 2      # run, write nothing; fails where the committed outputs are not of this code

The code is formatted by ruff before it runs, so that the formatter of the project leaves it alone afterwards.

A figure is kept twice in one output: as Plotly's JSON (interactive in JupyterLab and VS Code) and as a PNG, which GitHub shows.
Times, counters of execution, metadata and other traces of a machine are left out. Pictures need chromium (or Chrome) on the PATH.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
SECONDS = 300
"""Of one cell; the longest of them trains a model."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
SKIPPED = "skipped: "
NEEDS = "needs"
"""Key of a notebook's metadata, under "interp": modules that may be absent, each with the command that installs it."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the notebooks from a clean kernel.")
    parser.add_argument("numbers", nargs="*", help="numbers of the notebooks; all without")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where committed outputs are stale")
    given = parser.parse_args()
    problems = []
    for path in notebooks(given.numbers):
        against = style(path, mend=not given.check)
        if against and not given.check:
            sys.exit(f"{path.name}: {against[0]}")
        problems += [f"{path.name}: {problem}" for problem in against]
        book = nbformat.read(path, as_version=4)
        lacking = missing(book)
        if lacking:
            print(f"{path.relative_to(ROOT)}: {SKIPPED}{lacking}")
            continue
        before = shape_of(book) if given.check else None
        began = time.perf_counter()
        fresh = executed(book)
        seconds = time.perf_counter() - began
        if given.check:
            print(f"{path.relative_to(ROOT)}: {seconds:.0f} s")
            problems += [f"{path.name}: {problem}" for problem in stale(book, before, fresh)]
            continue
        add_pictures(fresh)
        kept = {NEEDS: book.metadata["interp"][NEEDS]} if needs(book) else {}
        fresh.metadata = nbformat.from_dict({**METADATA, "interp": {"code": code_hash(fresh), **kept}})
        path.write_text(nbformat.writes(fresh) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB, {seconds:.0f} s")
    if problems:
        sys.exit("\n".join([*problems, "build them again: python notebooks/build.py"]))


def notebooks(numbers: list[str]) -> list[Path]:
    """The notebooks with these numbers, in order; all of them without."""
    found = sorted(FOLDER.glob("[0-9]_*.ipynb"))
    wanted = [path for path in found if not numbers or path.name.split("_")[0] in numbers]
    unknown = set(numbers) - {path.name.split("_")[0] for path in found}
    if unknown:
        sys.exit(
            f"there is no notebook {', '.join(sorted(unknown))}; there are {', '.join(path.name for path in found)}"
        )
    return wanted


def needs(book: NotebookNode) -> dict[str, str]:
    """What the notebook needs beyond the project's own dependencies: module -> command that installs it."""
    return dict(book.metadata.get("interp", {}).get(NEEDS, {}))


def missing(book: NotebookNode) -> str:
    """Why the notebook cannot run here; empty where it can."""
    absent = {module: command for module, command in needs(book).items() if importlib.util.find_spec(module) is None}
    return "; ".join(f"{module} is not installed ({command})" for module, command in absent.items())


def style(path: Path, *, mend: bool) -> list[str]:
    """What ruff has against the code of this notebook; with ``mend`` it first writes the file as its formatter would."""
    found = []
    for words in (["format", *([] if mend else ["--check"])], ["check", "--output-format=concise"]):
        command = [sys.executable, "-m", "ruff", *words, "--quiet", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if run.returncode:
            found.append(f"ruff {words[0]} is not content with it\n{run.stdout}{run.stderr}".strip())
    return found


def executed(book: NotebookNode) -> NotebookNode:
    """The notebook run from the root of the project by this interpreter, whatever kernels are registered.

    Exits with the error of a cell that fails or takes more than ``SECONDS``, and where one writes to stderr, as warnings do.
    """
    fresh = deepcopy(book)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "IPYTHONDIR": folder,  # no start-up files of the user
            "JUPYTER_RUNTIME_DIR": folder,
            "PLOTLY_RENDERER": "plotly_mimetype",
            "TQDM_DISABLE": "1",  # transformers' bars
            # tqdm says so at its import where ipywidgets is not installed.
            "PYTHONWARNINGS": "ignore:IProgress not found",
            "HF_HUB_OFFLINE": "1",
            # Models this small gain nothing by more threads, and where cores are shared they wait for one another.
            "OMP_NUM_THREADS": "1",
        }
        # Without folders to look in, the kernel is ipykernel under sys.executable.
        specs = KernelSpecManager(kernel_dirs=[])
        # Sockets in the folder: several may run at once, where TCP ports are taken from one another.
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=specs,
            connection_file=f"{folder}/kernel.json",
            transport="ipc",
            ip=f"{folder}/kernel",
        )
        client = NotebookClient(
            fresh, km=manager, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(ROOT)}}
        )
        try:
            # A client that is given its manager leaves the kernel running unless it is told otherwise.
            client.execute(env=environment, cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError) as error:
            sys.exit(str(error))
    for cell in code_cells(fresh):
        cell.execution_count = None
        cell.metadata = nbformat.from_dict({})
        for output in cell.outputs:
            if output.get("name") == "stderr":
                sys.exit(f"a cell wrote to stderr:\n{cell.source}\n\n{output.text}")
            if "execution_count" in output:
                output.execution_count = None
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return fresh


def add_pictures(book: NotebookNode) -> None:
    """A PNG beside the JSON of every figure, drawn by the browser of the system."""
    shown = [o for cell in code_cells(book) for o in cell.outputs if PLOTLY in o.get("data", {})]
    if not shown:
        return
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    binary = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if binary is None:
        sys.exit(f"a browser is needed to draw: one of {', '.join(BROWSERS)} on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<!doctype html><meta charset=utf-8>")
        page.add_script_tag(content=get_plotlyjs())
        for output in shown:
            figure = output.data[PLOTLY]
            layout = figure.setdefault("layout", {})
            size = {"width": layout.get("width") or 760, "height": layout.get("height") or 420}
            given = {"figure": {"data": figure["data"], "layout": {**layout, "paper_bgcolor": "#ffffff"}}, **size}
            url = page.evaluate(
                "({figure, width, height}) => Plotly.toImage(figure, {format: 'png', width, height})", given
            )
            output.data[PNG] = url.split(",", 1)[1]
        browser.close()


def stale(book: NotebookNode, before: Any, fresh: NotebookNode) -> list[str]:
    """What shows that the committed outputs are not those of the committed code. Numbers may differ between machines."""
    problems = []
    if book.metadata.get("interp", {}).get("code") != code_hash(book):
        problems.append("its code is not the one that its outputs were made with")
    if before != shape_of(fresh):
        problems.append("its outputs are of other kinds than those that its code gives")
    return problems


def shape_of(book: NotebookNode) -> list[list[list[str]]]:
    """For each cell the kinds of its outputs, without the pictures that are added afterwards."""
    return [
        [sorted({output.output_type, *output.get("data", {})} - {PNG}) for output in cell.outputs]
        for cell in code_cells(book)
    ]


def code_hash(book: NotebookNode) -> str:
    """SHA-256 of all code cells in order."""
    return hashlib.sha256("\n\0\n".join(cell.source for cell in code_cells(book)).encode()).hexdigest()


def code_cells(book: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


if __name__ == "__main__":
    main()
