"""What the work of a plan is: units, each one model and some documents, decided by the plan alone and not by what remains.

A unit's id is a hash of everything that its numbers depend on: the model's files, the documents, the settings, the versions of
the libraries. A shard of that id is that unit's, whoever made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.batch.models import ModelRef, model_files
from interp.batch.problems import Problems
from interp.batch.texts import DocumentRef, documents
from interp.errors import InputError
from interp.progress import Bar

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.plan import Plan

SCHEMA = 2
"""Raised when the tables of a shard change their meaning. docs/batch.md says what they are, and were."""
READABLE = (1, 2)
"""Schemas of stores that can be asked. A run goes on with its own alone."""
PLACE = ("unit", "model", "checkpoint", "step")
"""The first columns of every table of a shard."""


@dataclass(frozen=True, eq=False)
class Unit:
    """One unit of work: a part of the work on one model, on some documents.

    has_texts: the plan has texts, so that what reads them is a part of its own
    gathers: ids of the units whose shards it is made of, in the plan's order
    """

    id: str
    model: ModelRef
    part: str
    seed: int
    has_texts: bool
    documents: Sequence[DocumentRef] = ()
    gathers: Sequence[str] = ()

    @property
    def characters(self) -> int:
        return sum(document.characters for document in self.documents)

    @property
    def label(self) -> str:
        """For people: "pythia@step1000, text books, moby-dick.txt and 3 more"."""
        if not self.documents:
            return f"{self.model.label}, {self.part}, seed {self.seed}"
        first, count = self.documents[0], len(self.documents)
        more = f" and {count - 1} more" if count > 1 else ""
        return f"{self.model.label}, {first.text}, {first.document}{more}"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.model.as_json(),
            "part": self.part,
            "seed": self.seed,
            "has_texts": self.has_texts,
            "documents": [document.as_json() for document in self.documents],
            "gathers": list(self.gathers),
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Unit:
        return cls(
            content["id"],
            ModelRef(**content["model"]),
            content["part"],
            content["seed"],
            content["has_texts"],
            tuple(DocumentRef(**each) for each in content["documents"]),
            tuple(content["gathers"]),
        )


@dataclass(eq=False)
class Work:
    """All units of a plan, in order, and what they were decided from.

    models      label -> its source, the SHA-256 of its files and the bytes of its weights
    device      "cpu", "cuda" or "mps"
    characters  of all documents
    """

    units: list[Unit]
    models: dict[str, dict[str, Any]]
    versions: dict[str, str]
    device: str
    characters: int
    documents: int


def used_versions() -> dict[str, str]:
    """Versions here of the packages on which numbers may depend."""
    from interp.versions import NUMERIC, versions

    return {name: version for name, version in versions().items() if name in NUMERIC}


def work_of(plan: Plan, known: MutableMapping[str, str], device: str, *, progress: bool = False) -> Work:
    """The units of a plan: every document is read once, every file of a model unless its checksum is known.

    known: checksums of files, see ``model_files``; new ones are put there
    device: the type of what the units are measured on

    Raises:
        InputError: a model or a document cannot be used.
    """
    from interp.batch.kinds import KINDS

    used = used_versions()
    groups: list[tuple[DocumentRef, ...]] = []
    count = characters = 0
    for entry in Bar(plan.texts, unit="text", what="read texts", show=progress and len(plan.texts) > 1):
        before = count
        for group in _groups(documents(entry), plan.unit_characters):
            groups.append(group)
            count += len(group)
            characters += sum(document.characters for document in group)
        if count == before:
            raise InputError(f"the text {entry.name!r} holds no document: {', '.join(entry.paths)}")
    kind = KINDS[plan.kind]
    parts = kind.parts(plan.settings, has_texts=bool(plan.texts))
    problems = Problems()
    work = Work([], {}, used, device, characters, count)
    for ref in Bar(plan.models, unit="model", what="read models", show=progress and len(plan.models) > 1):
        try:
            files = model_files(ref, known)
        except InputError as error:
            problems.add(ref.label, str(error))
            continue
        work.models[ref.label] = {**ref.as_json(), "sha256": files.sha256, "nbytes": files.nbytes}
        shared = {
            "schema": SCHEMA,
            "model": files.sha256,
            "names": [ref.model, ref.checkpoint, ref.step],
            "dtype": plan.dtype,
            "device": device,
            "versions": used,
            "has_texts": bool(plan.texts),
        }
        of_part: dict[str, list[str]] = {}
        for part in parts:
            # Of the part's own kind: a plan of several kinds has the same units as plans of each.
            settings = plan.settings.of_part(part.name)
            gathers = tuple(of_part.get(part.gathers, ()))
            for group in groups if part.reads_text else [()]:
                facts = {
                    **shared,
                    "kind": settings.kind,
                    "settings": settings.identity(),
                    "part": part.name,
                    "seed": part.seed,
                    "documents": [[d.text, d.document, d.sha256] for d in group],
                    **({"gathers": gathers} if gathers else {}),
                }
                unit = Unit(_id(facts), ref, part.name, part.seed, bool(plan.texts), group, gathers)
                work.units.append(unit)
                of_part.setdefault(part.name, []).append(unit.id)
    problems.check("the plan")
    if len({unit.id for unit in work.units}) < len(work.units):
        raise InputError(
            "two documents of one text have the same name and content; give an id_column, or leave one out"
        )
    return work


def _id(facts: Mapping[str, Any]) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()[:32]


def _groups(refs: Iterable[DocumentRef], size: int) -> Iterator[tuple[DocumentRef, ...]]:
    """Documents in order, so many together that they have ``size`` characters."""
    group: list[DocumentRef] = []
    total = 0
    for ref in refs:
        group.append(ref)
        total += ref.characters
        if total >= size:
            yield tuple(group)
            group, total = [], 0
    if group:
        yield tuple(group)


def place_schema(columns: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """``PLACE``, then ``columns``; words that repeat are stored once."""
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    place = [("unit", words), ("model", words), ("checkpoint", words), ("step", pa.int64())]
    return pa.schema([*place, *((name, words if kind == pa.string() else kind) for name, kind in columns)])


def in_place(unit: Unit, schema: pa.Schema, rows: Mapping[str, Any] | list[dict[str, Any]]) -> pa.Table:
    """Rows of a unit, or their columns, as a table, with the columns that say where they belong."""
    import pyarrow as pa

    names = [name for name in schema.names if name not in PLACE]
    columns = {name: [row[name] for row in rows] for name in names} if isinstance(rows, list) else rows
    count = len(columns[names[0]])
    place = {"unit": unit.id, "model": unit.model.model, "checkpoint": unit.model.checkpoint, "step": unit.model.step}
    arrays = []
    for kind in schema:
        values = [place[kind.name]] * count if kind.name in PLACE else columns[kind.name]
        plain = kind.type.value_type if pa.types.is_dictionary(kind.type) else kind.type
        # What is not defined is null and not NaN, which SQL would take for a number above all others.
        array = pa.array(values, type=plain, from_pandas=True)
        arrays.append(array.dictionary_encode() if pa.types.is_dictionary(kind.type) else array)
    return pa.table(arrays, schema=schema)


def units_schema() -> pa.Schema:
    """Columns of the table of units."""
    import pyarrow as pa

    words = pa.string()
    return pa.schema(
        [
            ("number", pa.int64()),
            ("unit", words),
            ("model", words),
            ("checkpoint", words),
            ("step", pa.int64()),
            ("part", words),
            ("seed", pa.int64()),
            ("text", words),
            ("first_document", words),
            ("documents", pa.int64()),
            ("characters", pa.int64()),
        ]
    )


def units_table(units: Sequence[Unit]) -> pa.Table:
    """One row a unit, in order: what the store should hold."""
    import pyarrow as pa

    rows = [
        {
            "number": number,
            "unit": unit.id,
            "model": unit.model.model,
            "checkpoint": unit.model.checkpoint,
            "step": unit.model.step,
            "part": unit.part,
            "seed": unit.seed,
            "text": unit.documents[0].text if unit.documents else None,
            "first_document": unit.documents[0].document if unit.documents else None,
            "documents": len(unit.documents),
            "characters": unit.characters,
        }
        for number, unit in enumerate(units)
    ]
    return pa.Table.from_pylist(rows, schema=units_schema())
