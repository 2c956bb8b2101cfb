"""Head dossiers as tables of a batch: parts of the corpus, which are put together from there, and what comes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from interp.batch.units import Unit
    from interp.dossiers import HeadDossiers, Part

TABLES = ("metrics", "histograms", "distance", "tokens", "passages", "shown", "edges")
"""Tables of ``HeadDossiers``, one of a batch each."""
HEAD = "dossiers"
"""The table with a row for each set of dossiers: how they were made."""


def dossier_schemas() -> dict[str, pa.Schema]:
    """What docs/dossiers.md describes, after the columns that say of which model."""
    import pyarrow as pa

    from interp.batch.units import place_schema

    whole, real, words = pa.int64(), pa.float64(), pa.string()
    small, of_head = pa.int32(), [("layer", whole), ("head", whole)]
    return {
        HEAD: place_schema([("by", words), ("layers", pa.list_(whole)), ("heads", whole), ("settings", words)]),
        "metrics": place_schema(
            [
                *of_head,
                ("metric", words),
                *((name, real) for name in ("value", "stderr", "chance")),
                ("passages", whole),
            ]
        ),
        "histograms": place_schema(
            [
                *of_head,
                ("metric", words),
                ("low", real),
                ("high", real),
                ("count", whole),
                *((f"cut_{n}", pa.float32()) for n in range(1, 5)),
            ]
        ),
        "distance": place_schema(
            [*of_head, ("low", whole), ("high", whole), *((name, real) for name in ("mass", "stderr", "chance"))]
        ),
        "tokens": place_schema(
            [
                *of_head,
                ("side", words),
                ("ranked", words),
                ("rank", whole),
                ("id", whole),
                ("token", words),
                ("count", whole),
                *((name, real) for name in ("weight", "share", "lift", "error")),
            ]
        ),
        "passages": place_schema(
            [
                ("passage", whole),
                ("text", words),
                ("document", words),
                ("number", whole),
                ("start", whole),
                ("digest", words),
                ("ids", pa.list_(small)),
                ("tokens", pa.list_(words)),
            ]
        ),
        "shown": place_schema([*of_head, ("group", words), ("rank", whole), ("passage", whole), ("value", real)]),
        "edges": place_schema(
            [*((name, small) for name in ("layer", "head", "passage", "query", "key")), ("weight", pa.float32())]
        ),
    }


def tables_of_dossiers(unit: Unit, found: HeadDossiers, documents: Sequence[tuple[str, str]]) -> dict[str, pa.Table]:
    """The tables of one set of dossiers. documents: text and name of each, by its number in the corpus."""
    from interp.batch.units import in_place

    schemas = dossier_schemas()
    head = {
        "by": found.by,
        "layers": list(found.layers),
        "heads": found.heads,
        "settings": json.dumps(dict(found.settings), ensure_ascii=False),
    }
    made = {HEAD: in_place(unit, schemas[HEAD], [head])}
    for name in TABLES:
        frame: pd.DataFrame = getattr(found, name)
        if name == "passages":
            numbers = frame["text"].tolist()
            frame = frame.rename(columns={"text": "number"}).assign(
                text=[documents[n][0] for n in numbers], document=[documents[n][1] for n in numbers]
            )
        made[name] = in_place(unit, schemas[name], {str(column): frame[column] for column in frame})
    return made


def dossiers_of_tables(tables: Mapping[str, pa.Table]) -> HeadDossiers:
    """What ``tables_of_dossiers`` was given. Its settings say under ``batch`` what tables of the batch call the model."""
    import pandas as pd

    from interp.batch.units import PLACE
    from interp.dossiers.result import HeadDossiers

    head = tables[HEAD].to_pylist()[0]
    frames: dict[str, Any] = {}
    for name in TABLES:
        frame = tables[name].drop_columns(list(PLACE)).to_pandas()
        words = {each: "str" for each in frame if isinstance(frame[each].dtype, pd.CategoricalDtype)}
        frame = frame.astype(words)
        if name == "passages":
            frame = frame.drop(columns=["text", "document"]).rename(columns={"number": "text"})
        frames[name] = frame
    return HeadDossiers(
        settings={
            **json.loads(head["settings"]),
            "batch": {name: head[name] for name in ("model", "checkpoint", "step")},
        },
        layers=tuple(head["layers"]),
        heads=head["heads"],
        by=head["by"],
        **frames,
    )


def tables_of_part(part: Part) -> dict[str, pa.Table]:
    """A part of the corpus as tables of its shard; see ``Part.to_tables``."""
    import pyarrow as pa

    return {
        _stored(name): pa.Table.from_pandas(frame, preserve_index=False) for name, frame in part.to_tables().items()
    }


def part_of_shard(shard: Path, first: int) -> Part | None:
    """The part in a shard, None where its documents gave no passage.

    first: the number of its first document in the corpus

    Raises:
        RunError: the shard is damaged.
    """
    import pandas as pd
    import pyarrow as pa

    from interp.dossiers.part import TABLES as PARTS
    from interp.dossiers.part import Part
    from interp.errors import InputError

    if not (shard / "part.parquet").is_file():
        return None
    try:
        part = Part.of_tables({name: pd.read_parquet(shard / f"{_stored(name)}.parquet") for name in PARTS})
    except (OSError, ValueError, KeyError, pa.ArrowException, InputError) as error:
        raise RunError(
            f"{shard} cannot be read ({error}); delete it, and --resume --retry-failed makes it again"
        ) from error
    # In its shard, documents are counted from 0.
    passages = [replace(passage, text=passage.text + first) for passage in part.kept.passages]
    return replace(part, kept=replace(part.kept, passages=passages))


def _stored(name: str) -> str:
    """What a table of a part is called in a shard."""
    return name if name == "part" else f"part_{name}"
