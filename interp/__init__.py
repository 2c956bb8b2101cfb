"""interp: a workbench for the attention heads of transformer models.

    import interp

    model = interp.load("demo")
    print(interp.scan(model).to_frame())

The names below are imported when they are first used, so that ``import interp`` and the command line answer at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import causal as causal
    from interp import edits as edits
    from interp import flow as flow
    from interp import heads as heads
    from interp.bridges.dense import DenseLayerWarning
    from interp.captures.capture import Capture
    from interp.generation.result import Generation
    from interp.generation.steps import Step
    from interp.heads.registry import detectors
    from interp.loading.load import load
    from interp.models.hooked import HookedModel
    from interp.scan import scan
    from interp.scores import HeadScores
    from interp_kernels import (
        AttentionMap,
        Distance,
        DistanceHistogram,
        Entropy,
        KeyMass,
        LabelMatch,
        Mask,
        OffsetMass,
        Peak,
        Pooled,
        Received,
        TopK,
        attend,
    )

    __version__: str

__all__ = [
    "AttentionMap",
    "Capture",
    "DenseLayerWarning",
    "Distance",
    "DistanceHistogram",
    "Entropy",
    "Generation",
    "HeadScores",
    "HookedModel",
    "KeyMass",
    "LabelMatch",
    "Mask",
    "OffsetMass",
    "Peak",
    "Pooled",
    "Received",
    "Step",
    "TopK",
    "__version__",
    "attend",
    "detectors",
    "load",
    "scan",
]

_HOMES = {
    "Capture": "interp.captures.capture",
    "DenseLayerWarning": "interp.bridges.dense",
    "Generation": "interp.generation.result",
    "HeadScores": "interp.scores",
    "HookedModel": "interp.models.hooked",
    "Step": "interp.generation.steps",
    "detectors": "interp.heads.registry",
    "load": "interp.loading.load",
    "scan": "interp.scan",
}
"""Where each name lives; those that are not here live in interp_kernels."""


_NAMESPACES = ("causal", "edits", "flow", "heads")
"""Packages that are reached as ``interp.<name>``."""


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _version() if name == "__version__" else getattr(import_module(_HOMES.get(name, "interp_kernels")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_NAMESPACES]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a tenth of a second

    try:
        return version("interp")
    except PackageNotFoundError:  # run from a source folder that is not installed
        return "0+not.installed"


class _Package(ModuleType):
    """Keeps ``interp.scan`` the function: importing a submodule of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
