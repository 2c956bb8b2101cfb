"""The pages under docs/ are true: their Python runs, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT / "docs"))


def test_there_are_pages() -> None:
    assert "kernels.md" in {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_python_examples_run_one_after_the_other(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    if any("transformer_lens" in block for block in blocks):
        pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the project's own page


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_linked_files_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_probe_is_defined_on_its_page() -> None:
    import interp_kernels

    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    defined = set(re.findall(r"^\| `([A-Z]\w+)\(", text, flags=re.MULTILINE))
    probes = {
        name
        for name, value in vars(interp_kernels).items()
        if isinstance(value, type) and issubclass(value, interp_kernels.Probe) and value is not interp_kernels.Probe
    }
    assert defined == probes


def test_every_method_of_the_map_is_named() -> None:
    from interp_kernels import AttentionMap

    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    methods = {
        name for name in vars(AttentionMap) if not name.startswith("_") and callable(getattr(AttentionMap, name))
    }
    assert methods <= set(re.findall(r"`(\w+)\(", text))
