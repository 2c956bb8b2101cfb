"""Pages of the site that lie outside docs/, each where links find it: figures, notebooks, how to contribute."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.svg",
    "notebooks/*.ipynb",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In the site the files beside docs/ lie beside the pages: one step up less."""
    source = page.file.src_uri
    if any(Path(source).match(pattern) for pattern in OUTSIDE):
        name = Path(source).stem.replace("_", " ").capitalize()
        return markdown.replace("](docs/", "](") if markdown.startswith("# ") else f"# {name}\n\n{markdown}"
    return re.sub(r"\]\(" + re.escape("../" * (source.count("/") + 1)), "](" + "../" * source.count("/"), markdown)
