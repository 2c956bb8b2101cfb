"""All detectors, in one list: a new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from interp.errors import InputError
from interp.heads.broad import Broad
from interp.heads.copying import Copying
from interp.heads.current_token import CurrentToken
from interp.heads.delimiter import Delimiter
from interp.heads.detector import Detector
from interp.heads.duplicate_token import DuplicateToken
from interp.heads.first_token_sink import FirstTokenSink
from interp.heads.hidden_sink import HiddenSink
from interp.heads.importance_detector import ImportanceDetector
from interp.heads.induction import Induction, InductionText
from interp.heads.lookback import Lookback
from interp.heads.next_token import NextToken
from interp.heads.ov_copying import OVCopyingDetector
from interp.heads.previous_token import PreviousToken
from interp.heads.retrieval import RetrievalHeads
from interp.naming import nearest

STANDARD = "standard"
"""The name of all detectors that need forward runs over tokens only."""

Wanted = str | Detector | Iterable[str | Detector]
"""Detectors by name, or as objects with options of their own."""

_ALL: tuple[Detector, ...] = (
    PreviousToken(),
    CurrentToken(),
    NextToken(),
    DuplicateToken(),
    Induction(),
    InductionText(),
    Copying(),
    FirstTokenSink(),
    HiddenSink(),
    Delimiter(),
    Broad(),
    Lookback(),
    RetrievalHeads(),
    OVCopyingDetector(),
    ImportanceDetector(),
)


def detectors() -> dict[str, Detector]:
    """Every detector by name: its definition, source, threshold and where the threshold comes from."""
    return {detector.name: detector for detector in _ALL}


def chosen(wanted: Wanted) -> list[Detector]:
    """The detectors that are named or given; "standard" stands for all that need forward runs over tokens only.

    Raises:
        InputError: an unknown name (with the nearest one), two detectors of one name, or none at all.
    """
    known = detectors()
    found: dict[str, Detector] = {}
    for each in as_list(wanted):
        if isinstance(each, Detector):
            members = [each]
        elif each == STANDARD:
            members = [detector for detector in known.values() if detector.is_standard]
        elif isinstance(each, str) and each in known:
            members = [known[each]]
        else:
            raise InputError(f"unknown detector {each!r}; {nearest(str(each), known)}")
        for detector in members:
            if found.setdefault(detector.name, detector) != detector:
                raise InputError(
                    f"detectors: two different ones are called {detector.name!r}; give one of them another name"
                )
    if not found:
        raise InputError(f"detectors: give at least one name, or {STANDARD!r}")
    return list(found.values())


def as_list(wanted: Wanted) -> list[str | Detector]:
    """What is named or given, one by one."""
    if isinstance(wanted, str | Detector):
        return [wanted]
    if not isinstance(wanted, Iterable):
        raise InputError(f"detectors: expected names or detectors (see interp.detectors()), got {wanted!r:.60}")
    return list(wanted)
