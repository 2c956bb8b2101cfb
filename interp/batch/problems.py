"""Reading settings that people wrote: every problem is collected, so that one error names all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.errors import InputError

_KINDS = {str: "a string", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}


@dataclass(eq=False)
class Problems:
    """What is wrong, in the order in which it was found."""

    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}" if where else what)

    def check(self, what: str) -> None:
        """Raises:
        InputError: there are problems; all of them are in its message.
        """
        if self.found:
            count = "a problem" if len(self.found) == 1 else f"{len(self.found)} problems"
            raise InputError(f"{what} has {count}: " + "; ".join(self.found))


@dataclass(eq=False)
class Keys:
    """One table of settings, from which each key is taken once; what is left at the end is unknown.

    where: its place, such as "models[0]", for messages
    """

    given: Mapping[str, Any]
    where: str
    problems: Problems
    known: list[str] = field(default_factory=list)

    def place(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def has(self, key: str) -> bool:
        return key in self.given

    def take(self, key: str, kind: type, default: Any = None, *, needed: bool = False) -> Any:
        """The value of a key; ``default``, and a problem, where it is of another type. Integers are no booleans."""
        self.known.append(key)
        if key not in self.given:
            if needed:
                self.problems.add(self.place(key), f"is missing; give {_KINDS[kind]}")
            return default
        value = self.given[key]
        if kind is list and isinstance(value, tuple):
            value = list(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problems.add(self.place(key), f"expected {_KINDS[kind]}, got {value!r:.60}")
            return default
        return value

    def number(self, key: str, default: int | None, low: int, high: int | None = None) -> int | None:
        """An integer from ``low`` to ``high``."""
        value = self.take(key, int, default)
        if value is not None and key in self.given and (value < low or (high is not None and value > high)):
            span = f"of at least {low}" if high is None else f"from {low} to {high}"
            self.problems.add(self.place(key), f"expected an integer {span}, got {value}")
            return default
        return value

    def real(self, key: str, default: float, low: float, below: float) -> float:
        """A number of at least ``low`` and less than ``below``."""
        self.known.append(key)
        value = self.given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < below:
            wanted = f"expected a number of at least {low:g} and less than {below:g}"
            self.problems.add(self.place(key), f"{wanted}, got {value!r:.60}")
            return default
        return float(value)

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of some words."""
        value = self.take(key, str, default)
        choices = list(choices)
        if value not in choices:
            self.problems.add(self.place(key), f"expected one of {', '.join(choices)}, got {value!r}")
            return default
        return value

    def strings(self, key: str, default: list[str] | None = None) -> list[str] | None:
        """A string, or a list of strings."""
        self.known.append(key)
        if key not in self.given:
            return default
        value = self.given[key]
        each = [value] if isinstance(value, str) else value
        if not isinstance(each, list | tuple) or not each or not all(isinstance(one, str) and one for one in each):
            self.problems.add(self.place(key), f"expected a string or a list of strings, got {value!r:.60}")
            return default
        return list(each)

    def integers(self, key: str, default: list[int], low: int, high: int) -> list[int]:
        """An integer, or a list of different ones."""
        self.known.append(key)
        if key not in self.given:
            return default
        value = self.given[key]
        each = list(value) if isinstance(value, list | tuple) else [value]
        if not each or not all(type(one) is int and low <= one <= high for one in each) or len(set(each)) < len(each):
            self.problems.add(self.place(key), f"expected different integers from {low} to {high}, got {value!r:.60}")
            return default
        return each

    def end(self) -> None:
        """Name what was never asked for."""
        for key in self.given:
            if key not in self.known:
                close = difflib.get_close_matches(str(key), self.known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(dict.fromkeys(self.known))}"
                self.problems.add(self.place(str(key)), f"unknown key; {hint}")
