"""interp: a workbench for the attention heads of transformer models.

    import interp

    model = interp.load("demo")
    print(interp.scan(model).to_frame())

The names below are imported when they are first used, so that ``import interp`` and the command line answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp import batch as batch
    from interp import causal as causal
    from interp import dossiers as dossiers
    from interp import edits as edits
    from interp import flow as flow
    from interp import heads as heads
    from interp import views as views
    from interp.batch.plan import read_plan
    from interp.batch.run import run_batch
    from interp.batch.store import open_store
    from interp.bridges.dense import DenseLayerWarning
    from interp.captures.capture import Capture
    from interp.dossiers.collect import head_dossiers
    from interp.dossiers.result import load_dossiers
    from interp.generation.result import Generation
    from interp.generation.steps import Step
    from interp.heads.registry import detectors
    from interp.loading.load import load
    from interp.models.hooked import HookedModel
    from interp.scan import scan
    from interp.scores import HeadScores
    from interp.views.token_view import token_view
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
    "head_dossiers",
    "load",
    "load_dossiers",
    "open_store",
    "read_plan",
    "run_batch",
    "scan",
    "token_view",
]

_KERNELS = (
    "AttentionMap",
    "Distance",
    "DistanceHistogram",
    "Entropy",
    "KeyMass",
    "LabelMatch",
    "Mask",
    "OffsetMass",
    "Peak",
    "Pooled",
    "Received",
    "TopK",
    "attend",
)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a tenth of a second

    try:
        return version("interp")
    except PackageNotFoundError:  # run from a source folder that is not installed
        return "0+not.installed"


lazily(
    __name__,
    {
        **dict.fromkeys(_KERNELS, "interp_kernels"),
        "Capture": "interp.captures.capture",
        "DenseLayerWarning": "interp.bridges.dense",
        "Generation": "interp.generation.result",
        "HeadScores": "interp.scores",
        "HookedModel": "interp.models.hooked",
        "Step": "interp.generation.steps",
        "detectors": "interp.heads.registry",
        "head_dossiers": "interp.dossiers.collect",
        "load": "interp.loading.load",
        "load_dossiers": "interp.dossiers.result",
        "open_store": "interp.batch.store",
        "read_plan": "interp.batch.plan",
        "run_batch": "interp.batch.run",
        "scan": "interp.scan",
        "token_view": "interp.views.token_view",
    },
    packages=("batch", "causal", "dossiers", "edits", "flow", "heads", "views"),
    made={"__version__": _version},
)
