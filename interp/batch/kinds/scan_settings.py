"""What a plan asks of a scan: detectors with their options, windows, samples, seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from interp.errors import InputError

if TYPE_CHECKING:
    from interp.heads.detector import Detector

STANDARD = "standard"
ROWS = ("document", "unit")
MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class ScanSettings:
    """Arguments of ``interp.scan``, with these differences.

    options  detector -> its options, the fields of its class
    window   None: the model's context, 2,048 where it has no bound
    seeds    of random tokens: each is measured by itself
    rows     "document": a row for each document; "unit": one for all documents of a unit of work
    """

    detectors: tuple[str, ...] = (STANDARD,)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    window: int | None = None
    samples: int = 8
    seeds: tuple[int, ...] = (0,)
    beyond_context: bool = False
    rows: str = "document"

    @property
    def kind(self) -> str:
        return "scan"

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def of_part(self, part: str) -> ScanSettings:
        return self

    def identity(self) -> dict[str, Any]:
        # A unit has one of the seeds.
        return {key: value for key, value in self.as_json().items() if key != "seeds"}

    @property
    def named(self) -> tuple[str, ...]:
        """Detectors that are asked for by name: a model that they do not fit fails, where of "standard" they are left out."""
        return tuple(name for name in self.detectors if name != STANDARD)

    def chosen(self) -> list[Detector]:
        """The detectors, with their options.

        Raises:
            InputError: an unknown detector or option, or a value that an option does not take.
        """
        from interp.heads.registry import chosen

        known = {detector.name: detector for detector in chosen(self.detectors)}
        for name in self.options:
            if name not in known:
                raise InputError(f"options: {name!r} is none of the detectors that are asked for ({', '.join(known)})")
        return [_with_options(detector, self.options.get(name, {})) for name, detector in known.items()]


def _with_options(detector: Detector, options: Any) -> Detector:
    from interp.heads.detector import Detector as Base
    from interp.naming import nearest

    if not isinstance(options, Mapping):
        raise InputError(f"options.{detector.name}: expected a table, got {options!r:.60}")
    told = {"name", "definition", "source", "threshold_source", "needs_text", "is_causal", "positions", "low", "high"}
    known = [f.name for f in dataclasses.fields(detector) if f.name not in told]
    assert told <= {f.name for f in dataclasses.fields(Base)}
    for key in options:
        if key not in known:
            raise InputError(f"options.{detector.name}.{key}: unknown option; {nearest(str(key), known)}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    hints = get_type_hints(type(detector))
    for key, value in given.items():
        if not _is_of(value, hints[key]):
            wanted = hints[key].__name__ if hints[key] in (int, float, str, bool) else str(hints[key])
            wanted = wanted.removeprefix("typing.")
            raise InputError(f"options.{detector.name}.{key}: expected {wanted}, got {options[key]!r:.60}")
    return dataclasses.replace(detector, **given)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotation: int, float, str, bool, None, tuples and sequences, literals, and unions of these."""
    arguments = get_args(hint)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_is_of(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (tuple, Sequence):
        return isinstance(value, tuple) and all(_is_of(each, arguments[0]) for each in value)
    if hint is float:
        return type(value) in (int, float) and isfinite(value)
    return value is None if hint is NoneType else type(value) is hint
