"""Who does what next: a worker stays with its model as long as there is work on it, then takes the model with most of it left."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from interp.batch.units import Unit


class Schedule:
    """Units that nobody has yet. Which worker does a unit changes nothing in its numbers."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._left: dict[str, deque[Unit]] = {}
        for unit in units:
            self._left.setdefault(unit.model.label, deque()).append(unit)
        self._begun: set[str] = set()

    def take(self, last: Unit | None) -> Unit | None:
        """The next unit for a worker whose last one was ``last``; None when all are taken."""
        model = last.model.label if last is not None and self._left.get(last.model.label) else self._model()
        if model is None:
            return None
        self._begun.add(model)
        unit = self._left[model].popleft()
        if not self._left[model]:
            del self._left[model]
        return unit

    def _model(self) -> str | None:
        """One that nobody has loaded, in the plan's order; else the one with most units left, which is then loaded twice."""
        fresh = next((model for model in self._left if model not in self._begun), None)
        return fresh or max(self._left, key=lambda model: len(self._left[model]), default=None)

    def give_back(self, unit: Unit) -> None:
        """A unit that was taken and not done."""
        self._left.setdefault(unit.model.label, deque()).appendleft(unit)

    @property
    def has_units(self) -> bool:
        return bool(self._left)
