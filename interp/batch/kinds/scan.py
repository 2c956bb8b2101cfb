"""Scans as batch work: every head scored by detectors, a row for each document, or for each unit of documents.

What is measured on random tokens (induction, duplicate tokens) or on an input of the detector's own (needles) does not depend
on the texts: it is a part of its own, done once a model and seed. The rest is done for every group of documents. Windows of all
documents of a group run together, by length: shorter ones are padded, to an eighth of a run at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.batch.problems import Keys
from interp.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from interp.batch.kinds import Part
    from interp.batch.units import Unit
    from interp.heads.detector import Detector, ProbeDetector
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel
    from interp.scores import Measured

STANDARD = "standard"
TEXT, RANDOM = "text", "random"
ROWS = ("document", "unit")
MOST_SEED = 2**32 - 1
PADDED = 8
"""A sequence joins longer ones if its padding is at most an eighth of its row."""


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


@dataclass(eq=False)
class _Found:
    """What is known of one document, or of random tokens.

    positions  of its input, special tokens included, each once, however often the model ran them
    left_out   detector ("" for all) -> reason
    """

    measured: dict[str, Measured]
    sequences: int = 0
    positions: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    def count(self, sequences: int, positions: int, *, is_text: bool) -> None:
        """A text that several recipes cut counts once, as the longest of them; random tokens are others each time."""
        if is_text:
            sequences, positions = max(sequences - self.sequences, 0), max(positions - self.positions, 0)
        self.sequences += sequences
        self.positions += positions


class Scan:
    """See ``interp.batch.kinds.Kind``."""

    def read(self, keys: Keys, *, has_texts: bool) -> ScanSettings | None:
        names = keys.strings("detectors", [STANDARD])
        options = keys.take("options", dict, {})
        window = keys.number("window", None, 8)
        samples = keys.number("samples", 8, 1)
        seeds = keys.integers("seeds", [0], 0, MOST_SEED)
        beyond = keys.take("beyond_context", bool, False)
        rows = keys.choice("rows", "document", ROWS)
        settings = ScanSettings(tuple(names or ()), options, window, samples or 1, tuple(seeds), beyond, rows)
        try:
            chosen = settings.chosen()
        except InputError as error:
            keys.problems.add("", str(error))
            return None
        needing = [detector.name for detector in chosen if detector.needs_text and detector.name in settings.named]
        if needing and not has_texts:
            keys.problems.add("detectors", f"{', '.join(needing)} need texts; give [[texts]]")
        return settings

    def of_json(self, content: Mapping[str, Any]) -> ScanSettings:
        tuples = {key: tuple(content[key]) for key in ("detectors", "seeds")}
        return ScanSettings(**{**content, **tuples})

    def parts(self, settings: ScanSettings, *, has_texts: bool) -> list[Part]:
        from interp.batch.kinds import Part

        wanted = settings.chosen()
        parts = []
        if not has_texts or not all(detector.reads_text for detector in wanted):
            parts += [Part(RANDOM, seed, reads_text=False) for seed in settings.seeds]
        if has_texts and any(detector.reads_text for detector in wanted):
            parts.append(Part(TEXT, settings.seeds[0], reads_text=True))
        return parts

    def schemas(self) -> dict[str, pa.Schema]:
        import pyarrow as pa

        from interp.batch.units import place_schema

        of_input = [("seed", pa.int64()), ("text", pa.string()), ("document", pa.string())]
        scores = [
            ("detector", pa.string()),
            ("layer", pa.int64()),
            ("head", pa.int64()),
            *((name, pa.float64()) for name in ("score", "stderr", "chance", "threshold")),
            ("is_above", pa.bool_()),
            ("samples", pa.int64()),
            ("share_above", pa.float64()),
        ]
        return {
            "scores": place_schema([*of_input, *scores]),
            "inputs": place_schema([*of_input, ("sequences", pa.int64()), ("positions", pa.int64())]),
            "left_out": place_schema([*of_input, ("detector", pa.string()), ("reason", pa.string())]),
        }

    def run(
        self,
        model: HookedModel,
        unit: Unit,
        documents: Sequence[str],
        settings: ScanSettings,
        *,
        progress: bool = False,
    ) -> dict[str, pa.Table]:
        from interp.heads.detector import ProbeDetector
        from interp.scan import check_readable, fitting

        check_readable(model)
        wanted = [d for d in settings.chosen() if not unit.has_texts or d.reads_text is (unit.part == TEXT)]
        text = documents[0] if documents else None
        fits, left_out = fitting(model, wanted, text, settings.window, settings.named)
        found = [_Found({d.name: _nothing() for d in fits}) for _ in documents or (None,)]
        by_probes = [detector for detector in fits if isinstance(detector, ProbeDetector)]
        _by_probes(model, by_probes, unit, documents, settings, found, progress=progress)
        _by_runs(model, fits, unit, documents, settings, found)
        return self._tables(model, fits, left_out, unit, found, settings)

    def _tables(
        self,
        model: HookedModel,
        detectors: list[Detector],
        left_out: Mapping[str, str],
        unit: Unit,
        found: list[_Found],
        settings: ScanSettings,
    ) -> dict[str, pa.Table]:
        from interp.batch.units import PLACE, in_place
        from interp.scores import score_columns

        # Of inputs without a text: no document.
        places: list[tuple[str | None, str | None]] = [(ref.text, ref.document) for ref in unit.documents] or [
            (None, None)
        ]
        rows: dict[str, list[Any]] = {"inputs": [], "left_out": []}
        rows["left_out"] += [
            {"seed": unit.seed, "text": None, "document": None, "detector": name, "reason": reason}
            for name, reason in left_out.items()
        ]
        for (text, document), each in zip(places, found, strict=True):
            of_input = {"seed": unit.seed, "text": text, "document": document}
            rows["inputs"].append({**of_input, "sequences": each.sequences, "positions": each.positions})
            for name, reason in each.left_out.items():
                rows["left_out"].append({**of_input, "detector": name or None, "reason": reason})
        if settings.rows == "unit" and unit.documents:
            found, places = [_together(found)], [(unit.documents[0].text, None)]
        columns: dict[str, list[np.ndarray]] = {name: [] for name in self.schemas()["scores"].names[len(PLACE) :]}
        for (text, document), each in zip(places, found, strict=True):
            for detector in detectors:
                measured = each.measured[detector.name]
                if not measured.scores:
                    continue
                of_heads = score_columns(measured, detector, model.layers)
                of_heads |= {"seed": unit.seed, "text": text, "document": document}
                for name, rows_so_far in columns.items():
                    rows_so_far.append(np.broadcast_to(of_heads[name], of_heads["layer"].shape))
        joined = {name: np.concatenate(parts) if parts else [] for name, parts in columns.items()}
        schemas = self.schemas()
        return {
            "scores": in_place(unit, schemas["scores"], joined),
            **{name: in_place(unit, schemas[name], rows[name]) for name in ("inputs", "left_out")},
        }


def _nothing() -> Measured:
    from interp.scores import Measured

    return Measured([], [])


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
    return dataclasses.replace(detector, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def _by_probes(
    model: HookedModel,
    detectors: Sequence[ProbeDetector],
    unit: Unit,
    documents: Sequence[str],
    settings: ScanSettings,
    found: list[_Found],
    *,
    progress: bool,
) -> None:
    """Measure what needs forward runs alone, the windows of all documents together."""
    from interp.progress import Bar
    from interp.scan import measure, source_of

    if not detectors:
        return
    window = settings.window
    base = source_of(model, None, window, settings.samples, unit.seed, settings.beyond_context)
    sources = _sources(model, base, documents, found) if documents else {0: base}
    groups: dict[Any, list[ProbeDetector]] = {}
    for detector in detectors:
        groups.setdefault(detector.samples(), []).append(detector)
    for recipe, members in groups.items():
        pieces, prefix, fit = [], 0, {}
        for number, source in sources.items():
            made, fit[number] = _made(recipe, source, members, found[number])
            if made is None or not fit[number]:
                continue
            prefix = made.prefix
            pieces += [_Piece(number, place, ids) for place, ids in enumerate(made.ids)]
            found[number].count(len(made.ids), sum(ids.numel() for ids in made.ids), is_text=bool(documents))
        results: dict[tuple[int, int], dict[str, tuple[Tensor, Tensor]]] = {}
        batches = list(_batches(pieces))
        for batch, rows in Bar(batches, unit="run", what=f"scan {model.name}", show=progress):
            measured = measure(model, members, batch, prefix, settings.beyond_context)
            for row, piece in enumerate(rows):
                results[piece.document, piece.place] = {
                    name: (scores[row : row + 1], chance[row : row + 1]) for name, (scores, chance) in measured.items()
                }
        # Samples stand in the order of the text, not in that of the runs.
        for number, place in sorted(results):
            for name, (scores, chance) in results[number, place].items():
                if name in fit[number]:
                    found[number].measured[name].add(scores, chance)


@dataclass(frozen=True, eq=False)
class _Piece:
    """One sequence: of which document, its place there, and its token ids."""

    document: int
    place: int
    ids: Tensor


def _sources(model: HookedModel, base: Any, documents: Sequence[str], found: list[_Found]) -> dict[int, Any]:
    """What inputs are made from, of each document that can be read."""
    import torch

    from interp.inputs.tokens import tokenise

    sources = {}
    for number, text in enumerate(documents):
        try:
            ids = torch.tensor(tokenise(text, model.tokenizer, special=False), dtype=torch.int64)
            if int(ids.max()) >= (size := model.shape.vocabulary):
                raise InputError(
                    f"the tokenizer gives token id {int(ids.max())}, outside of the model's vocabulary of {size}"
                )
            sources[number] = dataclasses.replace(base, text=ids)
        except InputError as error:
            found[number].left_out[""] = str(error)
    return sources


def _made(recipe: Any, source: Any, members: Sequence[ProbeDetector], found: _Found) -> tuple[Any, set[str]]:
    """The sequences of one document, and the detectors that have a score on them."""
    try:
        made = recipe.make(source)
    except InputError as error:
        found.left_out |= {detector.name: str(error) for detector in members}
        return None, set()
    fit = set()
    for detector in members:
        try:
            detector.check(made.ids)
            fit.add(detector.name)
        except InputError as error:
            found.left_out[detector.name] = str(error)
    return made, fit


def _batches(pieces: list[_Piece]) -> Iterator[tuple[Batch, list[_Piece]]]:
    """Sequences in runs of at most ``BATCH_TOKENS`` positions, longest first; padded on the right."""
    import torch

    from interp.inputs.batch import Batch
    from interp.scan import BATCH_TOKENS

    ordered = sorted(pieces, key=lambda piece: (-piece.ids.numel(), piece.document, piece.place))
    start = 0
    while start < len(ordered):
        length = ordered[start].ids.numel()
        stop = start + 1
        while (
            stop < len(ordered)
            and (stop + 1 - start) * length <= BATCH_TOKENS
            and PADDED * (length - ordered[stop].ids.numel()) <= length
        ):
            stop += 1
        rows = ordered[start:stop]
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        keep = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, piece in enumerate(rows):
            ids[row, : piece.ids.numel()] = piece.ids
            keep[row, : piece.ids.numel()] = True
        yield Batch(ids, keep), rows
        start = stop


def _by_runs(
    model: HookedModel,
    detectors: Sequence[Detector],
    unit: Unit,
    documents: Sequence[str],
    settings: ScanSettings,
    found: list[_Found],
) -> None:
    """Measure what runs the model in a way of its own, document by document."""
    from interp.heads.detector import RunDetector, Setting

    for detector in detectors:
        if not isinstance(detector, RunDetector):
            continue
        for number, text in enumerate(documents or (None,)):
            if "" in found[number].left_out:
                continue
            window = settings.window
            if window is None and text is not None:
                window = model.shape.context
            setting = Setting(text, window, settings.samples, unit.seed, settings.beyond_context)
            try:
                scored = detector.measure(model, setting)
            except InputError as error:
                found[number].left_out[detector.name] = str(error)
                continue
            found[number].measured[detector.name].add(scored.scores.double().cpu(), scored.chance.double().cpu())


def _together(found: Sequence[_Found]) -> _Found:
    """All documents of a unit as one."""
    together = _Found({name: _nothing() for name in found[0].measured})
    for each in found:
        for name, measured in each.measured.items():
            together.measured[name].scores.extend(measured.scores)
            together.measured[name].chance.extend(measured.chance)
    return together
