"""How a scan measures one unit of documents: their windows together, by length; what runs the model in a way of its own apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from interp.batch.kinds.scan_settings import ScanSettings
    from interp.batch.units import Unit
    from interp.heads.detector import Detector, ProbeDetector
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel
    from interp.scores import Measured

PADDED = 8
"""A sequence joins longer ones if its padding is at most an eighth of its row."""


@dataclass(eq=False)
class Found:
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


def nothing() -> Measured:
    from interp.scores import Measured

    return Measured([], [])


def by_probes(
    model: HookedModel,
    detectors: Sequence[ProbeDetector],
    unit: Unit,
    documents: Sequence[str],
    settings: ScanSettings,
    found: list[Found],
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


def _sources(model: HookedModel, base: Any, documents: Sequence[str], found: list[Found]) -> dict[int, Any]:
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


def _made(recipe: Any, source: Any, members: Sequence[ProbeDetector], found: Found) -> tuple[Any, set[str]]:
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


def by_runs(
    model: HookedModel,
    detectors: Sequence[Detector],
    unit: Unit,
    documents: Sequence[str],
    settings: ScanSettings,
    found: list[Found],
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


def together(found: Sequence[Found]) -> Found:
    """All documents of a unit as one."""
    all_of_them = Found({name: nothing() for name in found[0].measured})
    for each in found:
        for name, measured in each.measured.items():
            all_of_them.measured[name].scores.extend(measured.scores)
            all_of_them.measured[name].chance.extend(measured.chance)
    return all_of_them
