"""The pages under reference/: a page for each package, with every public name from where it is defined."""

from __future__ import annotations

import importlib
import inspect

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGES = {
    "interp": "interp",
    "heads": "interp.heads",
    "flow": "interp.flow",
    "causal": "interp.causal",
    "views": "interp.views",
    "edits": "interp.edits",
    "batch": "interp.batch",
    "dossiers": "interp.dossiers",
    "interp_kernels": "interp_kernels",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, package in PACKAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page_of(package)))
    return files


def page_of(package: str) -> str:
    """The page of a package. What is defined in another package of the list stands on that one's page, and is linked."""
    module = importlib.import_module(package)
    linked, defined = [], []
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        path = f"{value.__module__}.{value.__name__}"
        page = page_with(path)
        if PACKAGES[page] == package:
            defined.append(f"::: {path}")
        else:
            linked.append(f"[`{name}`]({page}.md#{path})")
    also = [f"Also here: {', '.join(linked)}."] if linked else []
    return "\n\n".join([f"# {package}", inspect.cleandoc(module.__doc__ or ""), *also, *defined]) + "\n"


def page_with(path: str) -> str:
    """The page of the innermost package that a name is defined in."""
    holding = [name for name, package in PACKAGES.items() if path.startswith(f"{package}.")]
    return max(holding, key=lambda name: len(PACKAGES[name]))
