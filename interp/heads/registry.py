"""All detectors, in one list: a new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from interp.errors import InputError
from interp.heads.current_token import CurrentToken
from interp.heads.detector import Detector
from interp.heads.duplicate_token import DuplicateToken
from interp.heads.first_token_sink import FirstTokenSink
from interp.heads.induction import Induction, InductionText
from interp.heads.previous_token import PreviousToken
from interp.naming import nearest

_ALL: tuple[Detector, ...] = (
    PreviousToken(),
    CurrentToken(),
    DuplicateToken(),
    Induction(),
    InductionText(),
    FirstTokenSink(),
)


def detectors() -> dict[str, Detector]:
    """Every detector by name: its definition, source, threshold and where the threshold comes from."""
    return {detector.name: detector for detector in _ALL}


def chosen(names: str | Iterable[str]) -> list[Detector]:
    """The detectors called ``names``; "standard" is all that need forward runs only.

    Raises:
        InputError: an unknown name (with the nearest one), or none at all.
    """
    known = detectors()
    wanted = [names] if isinstance(names, str) else list(names)
    if wanted == ["standard"]:
        return list(known.values())
    if not wanted:
        raise InputError("detectors: give at least one name, or 'standard'")
    for name in wanted:
        if name not in known:
            raise InputError(f"unknown detector {name!r}; {nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(wanted)]
