"""Head dossiers: what every head does over a corpus of passages, measured in one streaming pass; see docs/dossiers.md.

    dossiers = interp.head_dossiers(model, texts)
    dossiers.head("L2H5")

``measure_part`` and ``merge`` are the same pass in pieces, for work that is spread over processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.dossiers.collect import finish, head_dossiers
    from interp.dossiers.head import HeadDossier
    from interp.dossiers.measure import measure_part
    from interp.dossiers.metrics import METRICS, Metric
    from interp.dossiers.part import Part, merge
    from interp.dossiers.passages import Passage, passages_of
    from interp.dossiers.result import HeadDossiers, load_dossiers
    from interp.dossiers.settings import DossierSettings

__all__ = [
    "METRICS",
    "DossierSettings",
    "HeadDossier",
    "HeadDossiers",
    "Metric",
    "Part",
    "Passage",
    "finish",
    "head_dossiers",
    "load_dossiers",
    "measure_part",
    "merge",
    "passages_of",
]

lazily(
    __name__,
    {
        "METRICS": "interp.dossiers.metrics",
        "Metric": "interp.dossiers.metrics",
        "DossierSettings": "interp.dossiers.settings",
        "HeadDossier": "interp.dossiers.head",
        "HeadDossiers": "interp.dossiers.result",
        "load_dossiers": "interp.dossiers.result",
        "Part": "interp.dossiers.part",
        "merge": "interp.dossiers.part",
        "Passage": "interp.dossiers.passages",
        "passages_of": "interp.dossiers.passages",
        "measure_part": "interp.dossiers.measure",
        "finish": "interp.dossiers.collect",
        "head_dossiers": "interp.dossiers.collect",
    },
)
