"""What a page shows, all of it, as the address bar holds it: a link reopens the view."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from interp.errors import InputError

LONGEST = 200
"""Characters of one value of an address."""
FIELDS = 64
"""Fields of one address."""
HEAD = re.compile(r"L([0-9]{1,4})H([0-9]{1,4})")
SPAN = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
SHARE = re.compile(r"[0-9.e-]{1,24}")
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
PROSE = ":prose"
"""In ``View.dossier``: measured over the prose that comes with interp. No folder that can be named has this name."""


@dataclass(frozen=True)
class View:
    """The state of a page. Fields with their defaults are left out of the address; an empty one stands
    for what the page shows by itself.

    model      a name among those that the server allows
    text       id of a text, see ``interp_app.texts``
    beyond     whether a text may be longer than the model's context
    detector   the score or statistic that colours the heads
    head       as "L2H5"
    rows, cols first and last + 1 query and key of the map that are seen, as "0-512"
    op         how the map is pooled: "mean" or "max"
    weighting  which numbers the map shows: "weights", "value" or "no_sink"
    colours    "fit" to what is seen, or "fixed" from 0 to 1
    lock       a token's position that is held, as in the token strip
    start      the first token of the strip
    special    whether special tokens are shown
    other      the head to compare with
    against    the text to compare on
    method     of the flow page
    at         the position whose output is explained; -1 is the last
    threshold  the largest part that routes drop, from 0 to below 1
    scan       a stored scan
    dossier    stored head dossiers, or ``PROSE``; empty: the newest stored ones of the model, else those of the prose
    trials     how many needles the retrieval page hides: "small" or "full"
    trial      one of these trials, by its number
    step       the token of its answer that the replay stands at, from 0 on
    """

    model: str = ""
    text: str = ""
    beyond: bool = False
    detector: str = "induction"
    head: str = ""
    rows: str = ""
    cols: str = ""
    op: str = "mean"
    weighting: str = "weights"
    colours: str = "fit"
    lock: int = -1
    start: int = 0
    special: bool = True
    other: str = ""
    against: str = ""
    method: str = "rollout"
    at: int = -1
    threshold: float = 0.04
    scan: str = ""
    dossier: str = ""
    trials: str = "small"
    trial: int = 0
    step: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> View:
        """The view of an address's query or of a stored dictionary, each value checked.

        Raises:
            InputError: a value that the field cannot have. Unknown fields are passed over: links outlive versions.
        """
        if not isinstance(given, Mapping):
            raise _refuse("view", given, "fields and their values")
        found: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in given:
                continue
            value = given[field.name]
            if value is None or value == "":
                continue
            found[field.name] = _CHECKS[field.name](field.name, value)
        return cls(**found)

    @classmethod
    def of_search(cls, search: str | None) -> View:
        """The view of what follows "?" in an address.

        Raises:
            InputError: as ``of``; or it has more than 64 fields.
        """
        try:
            given = parse_qsl((search or "").removeprefix("?"), max_num_fields=FIELDS)
        except ValueError:
            raise _refuse("fields", f"{search!s:.20} …", f"at most {FIELDS}") from None
        return cls.of(dict(given))

    def to_dict(self) -> dict[str, Any]:
        """What differs from the default, as JSON holds it."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def to_search(self) -> str:
        """The address's part from "?" on, "" for the default view."""
        given = {name: int(value) if isinstance(value, bool) else value for name, value in self.to_dict().items()}
        return f"?{urlencode(given)}" if given else ""

    def but(self, **changes: Any) -> View:
        """The view with other fields."""
        return replace(self, **changes)

    def place(self, which: str = "head") -> tuple[int, int] | None:
        """Layer and head of ``head`` or ``other``; None where the view names none."""
        match = HEAD.fullmatch(getattr(self, which))
        return (int(match[1]), int(match[2])) if match else None

    def span(self, which: str) -> tuple[int, int] | None:
        """First and last + 1 of ``rows`` or ``cols``; None for all."""
        match = SPAN.fullmatch(getattr(self, which))
        return (int(match[1]), int(match[2])) if match else None


def _refuse(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"the address is not one of this page: {name}: expected {expected}, got {value!s:.40}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST or not value.isprintable():
        raise _refuse(name, value, f"up to {LONGEST} printable characters")
    return value


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _refuse(name, value, expected)
        return value

    return check


def _span(name: str, value: Any) -> str:
    match = SPAN.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[1]) >= int(match[2]):
        raise _refuse(name, value, "first-end such as 0-512")
    return value


def _one_of(*names: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in names:
            raise _refuse(name, value, f"one of {', '.join(names)}")
        return value

    return check


def _flag(name: str, value: Any) -> bool:
    if value in (True, 1, "1", "true"):
        return True
    if value in (False, 0, "0", "false"):
        return False
    raise _refuse(name, value, "0 or 1")


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", str(value)) or int(value) < least:
            raise _refuse(name, value, f"a whole number of at least {least}")
        return int(value)

    return check


def _share(name: str, value: Any) -> float:
    is_number = isinstance(value, str | int | float) and not isinstance(value, bool) and SHARE.fullmatch(str(value))
    try:
        found = float(value) if is_number else -1.0
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise _refuse(name, value, "a number from 0 to below 1, such as 0.04")
    return found


_head = _matching(HEAD, "a head such as L2H5")
_name = _matching(NAME, "letters, digits and _.:- up to 64")
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "model": _text,
    "text": _name,
    "beyond": _flag,
    "detector": _name,
    "head": _head,
    "rows": _span,
    "cols": _span,
    "op": _one_of("mean", "max"),
    "weighting": _one_of("weights", "value", "no_sink"),
    "colours": _one_of("fit", "fixed"),
    "lock": _whole(-1),
    "start": _whole(0),
    "special": _flag,
    "other": _head,
    "against": _name,
    "method": _name,
    "at": _whole(-1),
    "threshold": _share,
    "scan": _name,
    "dossier": _name,
    "trials": _one_of("small", "full"),
    "trial": _whole(0),
    "step": _whole(0),
}
