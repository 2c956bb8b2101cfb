"""Heads to be checked, as people write them or as a scan found them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from interp.errors import InputError
from interp.models.heads import Head, HeadSpec, head_counts, ordered_heads
from interp.naming import head_name
from interp.scores import HeadScores

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

FoundHeads = HeadScores | HeadSpec | Iterable[HeadSpec]
"""["L2H5", (2, 3)], or the scores of a scan."""


def heads_above(scores: HeadScores, detector: str | None = None) -> list[str]:
    """Names of the heads whose score is above the detector's threshold, strongest first.

    Args:
        detector: which one's; may be left out where the scores are of one alone.

    Raises:
        InputError: there is no such detector, or no head is above its threshold.
    """
    if not isinstance(scores, HeadScores):
        raise InputError(f"scores: expected the HeadScores of a scan, got {type(scores).__name__}")
    if detector is None:
        if len(scores.detectors) != 1:
            raise InputError(f"detector: say whose heads are meant, one of {', '.join(scores.detectors)}")
        detector = scores.detectors[0]
    rows = scores.of(detector)
    above = rows[rows["is_above"]]
    if above.empty:
        best = rows.iloc[0]
        raise InputError(
            f"no head is above the threshold of {detector!r}, {best['threshold']:g}; the strongest, "
            f"{head_name(int(best['layer']), int(best['head']))}, has {best['score']:.3g}; name heads to check them nevertheless"
        )
    return [head_name(int(layer), int(head)) for layer, head in zip(above["layer"], above["head"], strict=True)]


def found_heads(model: HookedModel, heads: FoundHeads, detector: str | None) -> list[Head]:
    """The heads that are meant, in their order.

    Raises:
        InputError: none, one that cannot be read or does not exist; a detector beside heads by name.
    """
    if isinstance(heads, HeadScores):
        return ordered_heads(heads_above(heads, detector), head_counts(model.host.layers))
    if detector is not None:
        raise InputError(
            "detector: it chooses heads of a scan; leave it out where heads are named, or give the HeadScores"
        )
    return ordered_heads(heads, head_counts(model.host.layers))
