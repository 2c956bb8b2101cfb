"""The kinds of work that a batch can do. A new one is a module here with a class like ``scan.Scan``, and a line in ``KINDS``.

A kind says which settings it reads from a plan, into which parts it cuts the work on one model, and what tables one unit of a
part gives. Everything else (documents, order, shards, resuming, engines) is the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from interp.batch.kinds.scan import Scan

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.problems import Keys
    from interp.batch.units import Unit
    from interp.models.hooked import HookedModel


class Settings(Protocol):
    """What a plan asks of a kind: a frozen dataclass of what JSON holds."""

    @property
    def kind(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...

    def identity(self) -> dict[str, Any]:
        """What of them the numbers of a unit depend on, but for the seed of its part."""
        ...


@dataclass(frozen=True)
class Part:
    """A part of the work on one model. reads_text: it is done for every group of documents, else once."""

    name: str
    seed: int
    reads_text: bool


class Kind(Protocol):
    """One kind of work."""

    def read(self, keys: Keys, *, has_texts: bool) -> Settings | None:
        """Its settings, taken from a plan's keys; problems are collected in ``keys``."""
        ...

    def of_json(self, content: Mapping[str, Any]) -> Settings:
        """What ``Settings.as_json`` gave, as it was."""
        ...

    def parts(self, settings: Any, *, has_texts: bool) -> list[Part]:
        """The parts of the work on one model, in order."""
        ...

    def schemas(self) -> dict[str, pa.Schema]:
        """The tables of a shard. Each has the columns of ``units.PLACE`` first: model, checkpoint, step and unit."""
        ...

    def run(
        self, model: HookedModel, unit: Unit, documents: Sequence[str], settings: Any, *, progress: bool
    ) -> dict[str, pa.Table]:
        """The tables of one unit, the same to the last bit whenever it is run on the same machine with as many threads."""
        ...


KINDS: dict[str, Kind] = {"scan": Scan()}
