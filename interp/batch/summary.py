"""What a run of a batch came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 5
"""Errors that are shown; the table of errors has all of them."""


@dataclass(frozen=True)
class Summary:
    """What a run did, and what its store holds now.

    planned   units of the plan
    done      units that this run finished
    finished  units of the plan that are in the store, those of earlier runs included
    failed    label of a unit -> its error, of this run and, where they were not tried again, of earlier ones
    unshown   shards of an earlier plan in the same folder, which no table shows
    positions token positions of the input that this run measured, each once, however many forward runs the detectors need
    """

    folder: Path
    planned: int
    done: int
    finished: int
    failed: Mapping[str, str] = field(default_factory=dict)
    unshown: int = 0
    positions: int = 0
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        return self.finished == self.planned

    @property
    def missing(self) -> int:
        """Units that were neither finished nor failed."""
        return self.planned - self.finished - len(self.failed)

    def as_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "planned": self.planned,
            "done": self.done,
            "finished": self.finished,
            "failed": dict(self.failed),
            "missing": self.missing,
            "unshown": self.unshown,
            "positions": self.positions,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        rate = f", {self.positions / self.seconds:,.0f} positions a second" if self.positions and self.seconds else ""
        now = f"{self.done} of them done now, in {self.seconds:,.1f} s ({self.positions:,} token positions{rate})"
        lines = [f"{self.finished} of {self.planned} units are in {self.folder}: {now}"]
        if self.failed:
            lines.append(f"{len(self.failed)} unit{'s' if len(self.failed) > 1 else ''} failed:")
            lines += [f"  {label}: {why}" for label, why in list(self.failed.items())[:SHOWN]]
            if len(self.failed) > SHOWN:
                lines.append(f"  and {len(self.failed) - SHOWN} more; see the table `errors`")
        if self.missing:
            left = "unit is" if self.missing == 1 else "units are"
            lines.append(f"{self.missing} {left} still to be done; run it again with --resume (resume=True)")
        if self.unshown:
            lie = "shard of another plan lies" if self.unshown == 1 else "shards of another plan lie"
            lines.append(f"{self.unshown} {lie} in the same folder; no table shows them")
        return "\n".join(lines)
