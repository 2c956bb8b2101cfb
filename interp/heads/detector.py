"""What a detector is: a behaviour, the input that shows it, the probes that measure it, and its score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from interp.heads.samples import Samples
from interp_kernels import Probe


@dataclass(frozen=True)
class Detector(ABC):
    """A behaviour of attention heads and how to score it.

    Subclass it in a file of its own, give the fields their values, and add it to ``interp.heads.registry``.

    name              key in tables and on the command line
    definition        the score in words and symbols, for people
    source            where the definition comes from
    threshold         a head with a score above it counts as such a head
    threshold_source  where the threshold comes from
    needs_text        there is no score without a text
    is_causal         defined for heads that look back only
    positions         the shortest context that it can be measured in
    """

    name: str
    definition: str
    source: str
    threshold: float
    threshold_source: str
    needs_text: bool = False
    is_causal: bool = True
    positions: int = 2

    def check(self, ids: list[Tensor]) -> None:  # noqa: B027 - most detectors have nothing to refuse
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
