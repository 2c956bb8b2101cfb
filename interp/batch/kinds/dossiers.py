"""Head dossiers as batch work: what every head of each model does over all documents of the plan.

Each group of documents is measured by itself (the part "passages"); when all of a model's are there, they are put together in the
plan's order, and what is shown is run once more (the part "dossiers"). So the pass is spread over workers and goes on after a
kill, and the dossiers are those of ``interp.head_dossiers`` over the same documents, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.kinds.dossier_tables import dossier_schemas, part_of_shard, tables_of_dossiers, tables_of_part
from interp.batch.kinds.inputs import input_schemas
from interp.batch.problems import Keys
from interp.dossiers.settings import DossierSettings
from interp.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.kinds import Part
    from interp.batch.units import Unit
    from interp.dossiers import Passage
    from interp.models.hooked import HookedModel

PASSAGES, GATHERED = "passages", "dossiers"
MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class DossierKeys(DossierSettings):
    """The table ``dossiers`` of a plan: the same fields, of which the model is not known yet."""

    @property
    def kind(self) -> str:
        return "dossiers"

    @property
    def window(self) -> int | None:
        return self.length

    def of_part(self, part: str) -> DossierKeys:
        return self

    def identity(self) -> dict[str, Any]:
        # The seed is that of its part.
        return {key: value for key, value in self.as_json().items() if key != "seed"}

    def settings(self) -> DossierSettings:
        return DossierSettings(**self.as_json())


class Dossiers:
    """See ``interp.batch.kinds.Kind``."""

    def read(self, keys: Keys, *, has_texts: bool) -> DossierKeys | None:
        given = keys.take("dossiers", dict, {})
        found = read_dossier_keys(Keys(given, "dossiers", keys.problems))
        if not has_texts:
            keys.problems.add("texts", "head dossiers are of a corpus; give [[texts]]")
        return found

    def of_json(self, content: Mapping[str, Any]) -> DossierKeys:
        return DossierKeys(**content)

    def parts(self, settings: DossierKeys, *, has_texts: bool) -> list[Part]:
        from interp.batch.kinds import Part

        return [
            Part(PASSAGES, settings.seed, reads_text=True),
            Part(GATHERED, settings.seed, reads_text=False, gathers=PASSAGES),
        ]

    def schemas(self) -> dict[str, pa.Schema]:
        return {**input_schemas(), **dossier_schemas()}

    def tables_of(self, part: str) -> Sequence[str]:
        return tuple(input_schemas() if part == PASSAGES else dossier_schemas())

    def most_gathered(self, settings: DossierKeys, heads: int) -> int:
        return heads * settings.strongest + settings.pool

    def run(
        self,
        model: HookedModel,
        unit: Unit,
        documents: Sequence[str],
        settings: DossierKeys,
        *,
        gathered: Sequence[Path] = (),
        progress: bool = False,
    ) -> dict[str, pa.Table]:
        if unit.part == GATHERED:
            return _gathered(model, unit, gathered, progress=progress)
        return _measured(model, unit, documents, settings, progress=progress)


def read_dossier_keys(keys: Keys) -> DossierKeys:
    """The settings in a table of a plan; problems are collected."""
    from interp.dossiers.metrics import METRICS

    none = DossierKeys()
    found = DossierKeys(
        length=keys.number("length", None, 2),
        by=keys.choice("by", none.by, [metric.name for metric in METRICS]),
        strongest=keys.number("strongest", none.strongest, 1) or none.strongest,
        samples=keys.number("samples", none.samples, 0) or 0,
        pool=keys.number("pool", none.pool, 5) or none.pool,
        top=keys.number("top", none.top, 1) or none.top,
        least=keys.real("least", none.least, 0.0, 1.0),
        token_rows=keys.number("token_rows", None, 16),
        seed=keys.number("seed", none.seed, 0, MOST_SEED) or 0,
    )
    keys.end()
    if found.pool < 5 * found.samples:
        keys.problems.add(
            keys.place("pool"),
            f"{found.pool} passages cannot give {found.samples} out of each fifth; give at least {5 * found.samples}",
        )
    return found


def _measured(
    model: HookedModel, unit: Unit, documents: Sequence[str], keys: DossierKeys, *, progress: bool
) -> dict[str, pa.Table]:
    """What one group of documents says of every head."""
    from interp.batch.units import in_place
    from interp.dossiers import measure_part, merge
    from interp.dossiers.passages import parts_of
    from interp.progress import Bar

    settings = keys.settings().resolved(model)
    rows: dict[str, list[dict[str, Any]]] = {"inputs": [], "left_out": []}
    total = None
    with Bar(unit="token", what=f"dossiers {model.name}", show=progress) as bar:
        for group in parts_of(_passages(model, unit, documents, settings.longest, rows)):
            part = measure_part(model, group, settings, measured=bar.update)
            total = part if total is None else merge([total, part])
    schemas = input_schemas()
    told = {name: in_place(unit, schemas[name], each) for name, each in rows.items()}
    return told if total is None else {**told, **tables_of_part(total)}


def _passages(
    model: HookedModel, unit: Unit, documents: Iterable[str], length: int, rows: dict[str, list[dict[str, Any]]]
) -> Iterator[Passage]:
    """The passages of each document, and a row of what it gave, or of why it gave nothing."""
    from dataclasses import replace

    from interp.dossiers.passages import passages_of

    for number, (ref, text) in enumerate(zip(unit.documents, documents, strict=True)):
        place = {"seed": unit.seed, "text": ref.text, "document": ref.document}
        count = positions = 0
        reason = "it has fewer than two tokens"
        try:
            for passage in passages_of(model, [text], length):
                yield replace(passage, text=number)
                count, positions = count + 1, positions + len(passage)
        except InputError as error:
            reason = str(error)
        rows["inputs"].append({**place, "sequences": count, "positions": positions})
        if not count:
            rows["left_out"].append({**place, "detector": None, "reason": reason})


def _gathered(model: HookedModel, unit: Unit, shards: Sequence[Path], *, progress: bool) -> dict[str, pa.Table]:
    """The dossiers of all that was measured, one shard in memory at a time."""
    import pyarrow.parquet as pq

    from interp.dossiers import finish, merge

    documents: list[tuple[str, str]] = []
    total = None
    for shard in shards:
        part = part_of_shard(shard, len(documents))
        if part is not None:
            total = part if total is None else merge([total, part])
        inputs = pq.read_table(shard / "inputs.parquet", columns=["text", "document"])
        documents += [(row["text"], row["document"]) for row in inputs.to_pylist()]
    if total is None:
        raise InputError("the documents gave no passage of two tokens; the table left_out says why")
    return tables_of_dossiers(unit, finish(model, total, progress=progress), documents)
