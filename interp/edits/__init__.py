"""Changes of a model's attention while it runs, for ``HookedModel.edited``.

    with model.edited([interp.edits.ablate("L2H5"), interp.edits.cut(queries=9, keys=slice(0, 3))]):
        capture = model.capture(text, logits=True)

Every edit says which heads it means; what it changes is in its docstring, as a formula. ``docs/edits.md`` is the guide.
"""

from interp.edits.ablate import ablate, mean_ablate
from interp.edits.cut import cut
from interp.edits.edit import Edit
from interp.edits.hidden_sinks import hidden_sinks
from interp.edits.patch import patch, resample
from interp.edits.recalibrate import recalibrate
from interp.edits.scale import scale
from interp.edits.uniform import uniform

__all__ = [
    "Edit",
    "ablate",
    "cut",
    "hidden_sinks",
    "mean_ablate",
    "patch",
    "recalibrate",
    "resample",
    "scale",
    "uniform",
]
