"""Scans and head dossiers of the same models and texts in one batch: the units of both, and all their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.kinds.dossiers import GATHERED, PASSAGES, DossierKeys, Dossiers
from interp.batch.kinds.scan import Scan
from interp.batch.kinds.scan_settings import ScanSettings
from interp.batch.problems import Keys

if TYPE_CHECKING:
    import pyarrow as pa

    from interp.batch.kinds import Part
    from interp.batch.units import Unit
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class SeveralSettings:
    """Those of both. ``of_part`` gives those of one, so that a unit is the same as in a batch of its kind alone."""

    scan: ScanSettings
    dossiers: DossierKeys

    @property
    def kind(self) -> str:
        return "scan+dossiers"

    @property
    def window(self) -> int | None:
        windows = self.scan.window, self.dossiers.window
        return None if None in windows else max(each for each in windows if each is not None)

    def as_json(self) -> dict[str, Any]:
        return {"scan": self.scan.as_json(), "dossiers": self.dossiers.as_json()}

    def of_part(self, part: str) -> ScanSettings | DossierKeys:
        return self.dossiers if part in (PASSAGES, GATHERED) else self.scan

    def identity(self) -> dict[str, Any]:
        return {"scan": self.scan.identity(), "dossiers": self.dossiers.identity()}


class Several:
    """See ``interp.batch.kinds.Kind``."""

    def __init__(self) -> None:
        self._scan, self._dossiers = Scan(), Dossiers()

    def read(self, keys: Keys, *, has_texts: bool) -> SeveralSettings | None:
        scan = self._scan.read(keys, has_texts=has_texts)
        dossiers = self._dossiers.read(keys, has_texts=has_texts)
        return None if scan is None or dossiers is None else SeveralSettings(scan, dossiers)

    def of_json(self, content: Mapping[str, Any]) -> SeveralSettings:
        return SeveralSettings(self._scan.of_json(content["scan"]), self._dossiers.of_json(content["dossiers"]))

    def parts(self, settings: SeveralSettings, *, has_texts: bool) -> list[Part]:
        scan = self._scan.parts(settings.scan, has_texts=has_texts)
        return [*scan, *self._dossiers.parts(settings.dossiers, has_texts=has_texts)]

    def schemas(self) -> dict[str, pa.Schema]:
        return {**self._scan.schemas(), **self._dossiers.schemas()}

    def tables_of(self, part: str) -> Sequence[str]:
        return self._of(part).tables_of(part)

    def most_gathered(self, settings: SeveralSettings, heads: int) -> int:
        return self._dossiers.most_gathered(settings.dossiers, heads)

    def run(
        self,
        model: HookedModel,
        unit: Unit,
        documents: Sequence[str],
        settings: SeveralSettings,
        *,
        gathered: Sequence[Path] = (),
        progress: bool = False,
    ) -> dict[str, pa.Table]:
        of_part: Any = settings.of_part(unit.part)
        return self._of(unit.part).run(model, unit, documents, of_part, gathered=gathered, progress=progress)

    def _of(self, part: str) -> Scan | Dossiers:
        return self._dossiers if part in (PASSAGES, GATHERED) else self._scan
