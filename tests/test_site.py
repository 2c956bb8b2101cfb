"""The documentation builds as a site: nothing is missing, no link leads nowhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it; a warning ends the build."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import interp
    import interp.flow
    import interp_kernels

    for module, page in ((interp, "interp"), (interp.flow, "flow"), (interp_kernels, "interp_kernels")):
        text = (site / f"reference/{page}.html").read_text(encoding="utf-8")
        for name in module.__all__:
            if callable(getattr(module, name)):  # defined here, or a link to where it is
                assert re.search(rf'(id="|html#)[\w.]*\.{name}"', text), f"{page}: {name}"


def test_docstrings_keep_their_columns(site: Path) -> None:
    text = (site / "reference/flow.html").read_text(encoding="utf-8")
    assert re.search(r"<code>weights {4}\[N, 1, T\]", text)


def test_links_to_files_beside_the_pages_lead_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links begin at the server's root
            continue
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(site)}: {target}"


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)', text)
        loaded += re.findall(r'<link[^>]* rel="(?:stylesheet|preload|preconnect|icon)"[^>]* href="(https?:[^"]+)', text)
        assert loaded == [], page.name
