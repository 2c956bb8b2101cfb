"""Scans as batch work: every head scored by detectors, a row for each document, or for each unit of documents.

What is measured on random tokens (induction, duplicate tokens) or on an input of the detector's own (needles) does not depend
on the texts: it is a part of its own, done once a model and seed. The rest is done for every group of documents. Windows of all
documents of a group run together, by length: shorter ones are padded, to an eighth of a run at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.batch.kinds.inputs import input_schemas, of_input
from interp.batch.kinds.scan_measure import Found, by_probes, by_runs, nothing, together
from interp.batch.kinds.scan_settings import MOST_SEED, ROWS, STANDARD, ScanSettings
from interp.batch.problems import Keys
from interp.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.kinds import Part
    from interp.batch.units import Unit
    from interp.heads.detector import Detector
    from interp.models.hooked import HookedModel

TEXT, RANDOM = "text", "random"


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
            "scores": place_schema([*of_input(), *scores]),
            **input_schemas(),
        }

    def tables_of(self, part: str) -> Sequence[str]:
        return tuple(self.schemas())

    def most_gathered(self, settings: ScanSettings, heads: int) -> int:
        return 0

    def run(
        self,
        model: HookedModel,
        unit: Unit,
        documents: Sequence[str],
        settings: ScanSettings,
        *,
        gathered: Sequence[Path] = (),
        progress: bool = False,
    ) -> dict[str, pa.Table]:
        from interp.heads.detector import ProbeDetector
        from interp.scan import check_readable, fitting

        check_readable(model)
        wanted = [d for d in settings.chosen() if not unit.has_texts or d.reads_text is (unit.part == TEXT)]
        text = documents[0] if documents else None
        fits, left_out = fitting(model, wanted, text, settings.window, settings.named)
        found = [Found({d.name: nothing() for d in fits}) for _ in documents or (None,)]
        probing = [detector for detector in fits if isinstance(detector, ProbeDetector)]
        by_probes(model, probing, unit, documents, settings, found, progress=progress)
        by_runs(model, fits, unit, documents, settings, found)
        return self._tables(model, fits, left_out, unit, found, settings)

    def _tables(
        self,
        model: HookedModel,
        detectors: list[Detector],
        left_out: Mapping[str, str],
        unit: Unit,
        found: list[Found],
        settings: ScanSettings,
    ) -> dict[str, pa.Table]:
        from interp.batch.units import PLACE, in_place
        from interp.heads.detector import ProbeDetector
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
        # A detector that runs the model in a way of its own does not tell how much it ran.
        is_counted = not detectors or any(isinstance(detector, ProbeDetector) for detector in detectors)
        for (text, document), each in zip(places, found, strict=True):
            of_input = {"seed": unit.seed, "text": text, "document": document}
            counts = (each.sequences, each.positions) if is_counted else (None, None)
            rows["inputs"].append({**of_input, "sequences": counts[0], "positions": counts[1]})
            for name, reason in each.left_out.items():
                rows["left_out"].append({**of_input, "detector": name or None, "reason": reason})
        if settings.rows == "unit" and unit.documents:
            found, places = [together(found)], [(unit.documents[0].text, None)]
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
