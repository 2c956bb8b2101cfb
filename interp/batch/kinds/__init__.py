"""The kinds of work that a batch can do. A new one is a module here with a class like ``scan.Scan``, and a line in ``KINDS``.

A kind says which settings it reads from a plan, into which parts it cuts the work on one model, and what tables one unit of a
part gives. A part may gather: it is one unit, done when all units of the same model that read texts have their shards, and made
of these. Everything else (documents, order, shards, resuming, engines) is the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from interp.batch.kinds.dossiers import Dossiers
from interp.batch.kinds.scan import Scan
from interp.batch.kinds.several import Several

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.problems import Keys
    from interp.batch.units import Unit
    from interp.models.hooked import HookedModel


class Settings(Protocol):
    """What a plan asks of a kind: a frozen dataclass of what JSON holds."""

    @property
    def kind(self) -> str: ...

    @property
    def window(self) -> int | None:
        """Positions of the longest input; None: the model's context."""
        ...

    def as_json(self) -> dict[str, Any]: ...

    def of_part(self, part: str) -> Settings:
        """Those of one part: of several kinds together, those of its kind."""
        ...

    def identity(self) -> dict[str, Any]:
        """What of them the numbers of a unit depend on, but for the seed of its part."""
        ...


@dataclass(frozen=True)
class Part:
    """A part of the work on one model.

    reads_text  it is done for every group of documents, else once
    gathers     the part that it is made of, when all units of that part have their shards; "" for none
    """

    name: str
    seed: int
    reads_text: bool
    gathers: str = ""


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
        """The tables that a store shows. Each has the columns of ``units.PLACE`` first: unit, model, checkpoint and step."""
        ...

    def tables_of(self, part: str) -> Sequence[str]:
        """Which of them the shards of a part hold. A shard may hold others, which no store shows."""
        ...

    def most_gathered(self, settings: Any, heads: int) -> int:
        """How many sequences a unit that gathers runs through a model of so many heads, at most."""
        ...

    def run(
        self,
        model: HookedModel,
        unit: Unit,
        documents: Sequence[str],
        settings: Any,
        *,
        gathered: Sequence[Path] = (),
        progress: bool,
    ) -> dict[str, pa.Table]:
        """The tables of one unit, the same to the last bit whenever it is run on the same machine with as many threads.

        gathered: shards of the units that it gathers, in the plan's order
        """
        ...


KINDS: dict[str, Kind] = {"scan": Scan(), "dossiers": Dossiers(), "scan+dossiers": Several()}
