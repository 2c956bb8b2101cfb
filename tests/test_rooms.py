"""The rooms hold: imports follow the arrows, and what should be light to import is.

interp_kernels  <-  interp  <-  interp_app        arrows point to what is imported
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import interp

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels" / "interp_kernels"
SWEEPS = (KERNELS / "backends" / "cpu").relative_to(ROOT)
INTERP = ROOT / "interp"
APP = ROOT / "app" / "interp_app"


@dataclass(frozen=True)
class Import:
    where: str
    module: str
    when_loaded: bool
    """Runs when the file is imported: not inside a function, not for type checkers only."""

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def imports(source: str, where: str) -> Iterator[Import]:
    """Every import statement, ``from a import b`` as a.b, for b may be a module."""

    def visit(node: ast.AST, when_loaded: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(f"{where}:{node.lineno}", name.name, when_loaded)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}:{node.lineno} imports relatively"
            for name in node.names:
                yield Import(f"{where}:{node.lineno}", f"{node.module}.{name.name}", when_loaded)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, when_loaded)
        else:
            inner = when_loaded and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inner)

    return visit(ast.parse(source), True)


def imports_of(folder: Path) -> list[Import]:
    files = sorted(folder.rglob("*.py"))
    assert files, f"no Python file in {folder}"
    return [found for file in files for found in imports(file.read_text("utf-8"), str(file.relative_to(ROOT)))]


def described(found: list[Import]) -> list[str]:
    return [f"{each.where} imports {each.module}" for each in found]


def third_party(code: str, before: str = "") -> set[str]:
    """Top-level modules outside the standard library that ``code`` loads in a fresh interpreter, ``before`` having run."""
    program = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(KERNELS.parent)!r}]
def loaded():
    return {{name.split(".")[0] for name in sys.modules}}
{before}
already = loaded()
{code}
print(json.dumps(sorted(loaded() - already)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1])) - sys.stdlib_module_names


def test_imports_are_told_apart():
    source = """
import a.b, c
from d.e import f as g
if TYPE_CHECKING:
    import h
else:
    import i
class K:
    import l
    def method(self):
        import m
try:
    import n
except ImportError:
    n = None
"""
    found = {each.module: each.when_loaded for each in imports(source, "text")}
    expected = {"a.b": True, "c": True, "d.e.f": True, "h": False, "i": True, "l": True, "m": False, "n": True}
    assert found == expected


def test_kernels_import_only_torch_triton_and_lazily_scipy():
    """And numba, with what it brings, where the sweeps of the cpu backend are compiled: those files are imported lazily."""
    found = [each for each in imports_of(KERNELS) if not each.where.startswith(str(SWEEPS))]
    outside = [each for each in found if each.top not in sys.stdlib_module_names | {"interp_kernels"}]
    assert not described([each for each in outside if each.top not in ("torch", "triton", "scipy")])
    assert not described([each for each in outside if each.top == "scipy" and each.when_loaded])


def test_backends_do_not_import_one_another():
    """Else a backend could fall back on another in silence, and the oracle would share the mistakes that it is to show."""
    names = ("reference", "cpu", "triton")
    shared_with_the_oracle = ("tiled", "finish", "tiles")
    for name in names:
        files = [KERNELS / "backends" / f"{name}.py", *(KERNELS / "backends" / name).rglob("*.py")]
        others = {other for other in names if other != name} | {"api"}
        if name == "reference":
            others |= set(shared_with_the_oracle)
        found = [
            each
            for file in files
            if file.exists()
            for each in imports(file.read_text("utf-8"), str(file.relative_to(ROOT)))
            if each.top == "interp_kernels" and others & set(each.module.split("."))
        ]
        assert not described(found)


def test_interp_knows_no_screens():
    assert not described([each for each in imports_of(INTERP) if each.top in ("interp_app", "dash", "flask")])


def test_kernels_know_no_screens():
    assert not described([each for each in imports_of(KERNELS) if each.top in ("interp_app", "dash", "flask")])


def test_the_dashboard_imports_models_only_where_they_work():
    """So that ``interp app --help`` answers at once, and pages hold no analysis of their own."""
    found = imports_of(APP)
    heavy = ("torch", "transformers", "tokenizers", "numba", "interp_kernels")
    assert not described([each for each in found if each.top in heavy and each.when_loaded])
    assert not described([each for each in found if each.top in ("torch", "transformers", "tokenizers", "numba")])


def test_the_help_of_the_dashboard_imports_nothing_heavy():
    code = """
import sys
from interp.cli import main
try:
    main(["app", "--help"])
except SystemExit as stopped:
    assert not stopped.code, stopped.code
"""
    loaded = third_party(code)
    assert "interp" in loaded
    assert not {"torch", "transformers", "pandas", "plotly", "dash", "flask", "interp_kernels"} & loaded


def test_the_main_path_imports_no_tests_and_no_benchmarks():
    folders = [KERNELS, INTERP, *([APP] if APP.exists() else [])]
    found = [each for folder in folders for each in imports_of(folder)]
    assert not described([each for each in found if each.top in ("tests", "benchmarks", "notebooks", "kernels", "app")])


def test_importing_the_kernels_needs_torch_alone():
    assert third_party("import interp_kernels", before="import torch") == {"interp_kernels"}


def test_importing_interp_imports_nothing_else():
    assert third_party("import interp") == {"interp"}


def test_help_imports_nothing_heavy():
    """So that ``interp --help`` answers at once."""
    code = """
import sys
from interp.cli import main
sys.argv = ["interp", "--help"]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
"""
    heavy = {"torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "plotly", "scipy", "interp_kernels"}
    loaded = third_party(code)
    assert "interp" in loaded
    assert not heavy & loaded


@pytest.mark.parametrize("name", interp.__all__)
def test_public_names_exist_and_are_no_modules(name: str):
    assert not isinstance(getattr(interp, name), ModuleType)


def test_importing_a_module_does_not_hide_the_function_of_its_name():
    """What ``from interp.scan import ...`` does to the package, the first time."""
    interp.scan = ModuleType("interp.scan")  # pyright: ignore[reportAttributeAccessIssue]
    assert not isinstance(interp.scan, ModuleType)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'interp' has no attribute 'scann'"):
        _ = interp.scann  # pyright: ignore[reportAttributeAccessIssue]


def test_names_are_offered_for_completion():
    assert dir(interp) == sorted([*interp.__all__, "batch", "causal", "dossiers", "edits", "flow", "heads", "views"])
