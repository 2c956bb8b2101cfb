"""What every analysis gives: labelled numbers, and how they were made."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import plotly.graph_objects as go

ROWS_SHOWN = 10
"""Rows of the table that a notebook shows."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(ABC):
    """A typed result. Derive from it with ``@dataclass(frozen=True, eq=False, repr=False, kw_only=True)``.

    Fields hold numpy arrays (of numbers or bools), DataFrames, or what JSON holds: numbers, strings, bools, None, and tuples
    or mappings from strings of these. So every result can be saved and is read back equal.

    settings  how it was made: method and source, constants, inputs, seeds, model, versions; see ``interp.results.settings``
    """

    kind: ClassVar[str]
    """What it is called on disk, such as "rollout"."""
    version: ClassVar[int] = 1
    """Raised when its fields change their meaning."""

    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        # What is kept is what a file gives back.
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings), default=str)))

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The tidy table: one row an observation."""

    @abstractmethod
    def plot(self) -> go.Figure:
        """The figure that answers its question at a glance."""

    @abstractmethod
    def summary(self) -> str:
        """The finding in a line or a few, for people; plain text."""

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write it into ``folder``, whole or not at all; see ``interp.results.store``. Returns the folder.

        Raises:
            InputError: the folder cannot be written, or holds a result already and ``overwrite`` is not set.
            RunError: the disk is full.
        """
        from interp.folders import checked_path
        from interp.results.store import save_result

        return save_result(self, checked_path("folder", folder), overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The result that ``save`` wrote into ``folder``.

        Raises:
            InputError: there is none, it is damaged, or it is of another kind or version.
        """
        from interp.folders import checked_path
        from interp.results.store import load_result

        return load_result(cls, checked_path("folder", folder))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.get('model', {}).get('model', '?')})\n{self.summary()}"

    def _repr_html_(self) -> str:
        from interp.results.html import result_html

        return result_html(self)
