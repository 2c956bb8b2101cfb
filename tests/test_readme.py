"""The README is true: its Python runs, its files and pictures are there, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp.cli import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the project's own page


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_linked_files_are_there(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


def test_commands_exist() -> None:
    named = set(
        re.findall(
            r"\binterp ([a-z]+(?:-[a-z]+)?)\b(?= |`|$)", "\n".join(re.findall(r"^    (.*)$", TEXT, re.MULTILINE))
        )
    )
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert named
    assert named <= known


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert (
        set(re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`|^    .*$", TEXT, flags=re.MULTILINE))))
        <= targets
    )
