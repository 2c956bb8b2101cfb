"""What a detector is: a behaviour, the input that shows it, what measures it, and its score.

Most are scored by probes on sequences of tokens (``ProbeDetector``): those with equal inputs share their forward runs. What
generates, differentiates, or reads weights alone runs by itself (``RunDetector``).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.errors import InputError
from interp.heads.samples import Samples, Windows
from interp_kernels import Probe

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class Detector(ABC):
    """A behaviour of attention heads and how to score it. Derive from ``ProbeDetector`` or ``RunDetector``.

    name              key in tables and on the command line
    definition        the score in words and symbols, for people
    source            where the definition comes from
    threshold         a head with a score above it counts as such a head; between ``low`` and ``high``
    threshold_source  where the threshold comes from
    needs_text        there is no score without a text
    is_causal         defined for heads that look back only
    positions         the shortest context that it can be measured in
    low, high         what the score runs between: the range of colours, the same for every model
    """

    name: str
    definition: str
    source: str
    threshold: float
    threshold_source: str
    needs_text: bool = False
    is_causal: bool = True
    positions: int = 2
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a threshold that is no number, or that no score could be on either side of.
        """
        is_number = isinstance(self.threshold, Real) and not isinstance(self.threshold, bool)
        if not is_number or not self.low <= self.threshold <= self.high:
            raise InputError(
                f"detector {self.name!r}: threshold: expected a number from {self.low:g} to {self.high:g}, between which its "
                f"scores lie, got {self.threshold!r:.60}"
            )

    @property
    def is_standard(self) -> bool:
        """Whether "standard" names it: forward runs over tokens are all that it needs."""
        return isinstance(self, ProbeDetector)

    def is_standard_for(self, model: HookedModel) -> bool:
        """Whether "standard" names it of this model: one that no head of the model could show is passed over without a word."""
        return self.is_standard

    @property
    def reads_text(self) -> bool:
        """Whether its score depends on the text, where there is one; else one measurement serves all texts."""
        return self.needs_text

    def unfit(self, model: HookedModel) -> str | None:
        """Why it cannot be measured on ``model``, said before anything is run; None where it can."""
        return None

    def facts(self) -> dict[str, Any]:
        """What a result must say of how it was scored, in words and numbers that JSON holds.

        definition, source, threshold, threshold_source, and options: what the detector has beyond every detector's fields,
        where it is given.
        """
        general = {each.name for each in fields(Detector)}
        options = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in general}
        told = ("definition", "source", "threshold", "threshold_source")
        return {name: _plain(getattr(self, name)) for name in told} | {
            "options": {name: _plain(value) for name, value in options.items() if value is not None}
        }


def _plain(value: Any) -> Any:
    """A value of a detector's field as JSON gives it back: functions by their names, tensors by shape and checksum."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Tensor):
        return {
            "shape": list(value.shape),
            "sha256": hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest(),
        }
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"


@dataclass(frozen=True)
class ProbeDetector(Detector):
    """A detector that is scored by probes on sequences of tokens."""

    @property
    def reads_text(self) -> bool:
        return isinstance(self.samples(), Windows)

    def check(self, ids: list[Tensor]) -> None:
        """Refuse sequences on which the score is not defined, before anything is run.

        Raises:
            InputError: they are too short or lack what the detector looks for.
        """

    @abstractmethod
    def samples(self) -> Samples:
        """The kind of input it is measured on. Detectors with equal answers share forward runs."""

    @abstractmethod
    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        """What to measure on a batch of token ids [B, T]; names start with the detector's name.

        prefix: how many special tokens stand in front of each sequence.
        """

    @abstractmethod
    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        """Each sequence's score of each head, [B, H], from the values of its probes in one layer. NaN where undefined."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a scan gives to a detector that runs by itself.

    text      to measure on, None where there is none
    window    the longest input to make of it, in tokens; None: the model's context
    samples   how many inputs to draw, where they are drawn
    seed      of what is drawn
    """

    text: str | None = None
    window: int | None = None
    samples: int = 8
    seed: int = 0
    beyond_context: bool = False
    progress: bool = False


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one detector on every sample.

    scores     [S, L, H], NaN where undefined
    chance     [S, L], what uniform attention over the visible keys would get; NaN where the score is not of attention
    described  the input, in words with its numbers
    """

    scores: Tensor
    chance: Tensor
    described: str


@dataclass(frozen=True)
class RunDetector(Detector):
    """A detector that runs the model in a way of its own, and is run only when it is named."""

    @abstractmethod
    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        """Every head's score on every sample.

        Raises:
            InputError: the score is not defined for this model or input; said before expensive work starts.
        """
