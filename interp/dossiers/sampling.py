"""Which passages are kept while a corpus streams by, and which of them a head's dossier shows.

Passages are known by what they hold, so that one which comes twice is kept once. Each has a priority, a hash of the seed and its
ids: the ``pool`` passages of the smallest priority are a uniform sample of the different passages, whatever the order in which
they came and however the corpus was divided. The samples of a head are taken from this pool: its passages in order of the
head's value, cut into five equal parts, and of each part those of the smallest priority. So all heads show the same passages
where they can, and few have to be run a second time.

The cuts are the quintiles of the pool. With a corpus of at most ``pool`` passages they are those of the corpus, else estimates:
by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart the share of passages below a cut differs from 0.2, 0.4, ... by
more than 1.36 / sqrt(pool) (0.06 at 512) with a probability of at most 5 %.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.dossiers.passages import Passage

FIFTHS = 5


def priority(seed: int, digest: str) -> int:
    """A whole number below 2^64 that only the seed and the passage's own tokens decide; small ones are drawn first."""
    made = hashlib.blake2b(bytes.fromhex(digest), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(made.digest(), "little")


def quintile_error(pool: int) -> float:
    """By how much the share of passages below a cut may be off, with a probability of 95 %."""
    return 1.36 / pool**0.5


@dataclass(frozen=True, eq=False)
class Kept:
    """Passages with their metrics, each once, in the order of their priorities.

    passages    n of them; priorities uint64 [n], ascending
    values      float32 [n, M, L, H], NaN where a metric is not defined
    """

    passages: list[Passage]
    priorities: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, passages: Sequence[Passage], values: np.ndarray, seed: int) -> Kept:
        """All of these passages. values [n, M, L, H]."""
        priorities = np.array([priority(seed, passage.digest) for passage in passages], dtype=np.uint64)
        return cls(list(passages), priorities, values.astype(np.float32))._ordered()

    @classmethod
    def merged(cls, parts: Sequence[Kept]) -> Kept:
        passages = [passage for part in parts for passage in part.passages]
        priorities = np.concatenate([part.priorities for part in parts])
        return cls(passages, priorities, np.concatenate([part.values for part in parts]))._ordered()

    def chosen(self, pool: int, strongest: int, by: int) -> Kept:
        """What can still be shown when more passages come: the pool, and every head's strongest by the metric ``by``."""
        wanted = np.zeros(len(self.passages), dtype=bool)
        wanted[:pool] = True
        wanted[self.strongest(strongest, by)] = True
        return self._at(np.nonzero(wanted)[0])

    def strongest(self, count: int, by: int) -> np.ndarray:
        """Places of each head's passages of the largest value, largest first, ties to the smaller priority: [<= count, L, H].

        Where a head has fewer passages with a value, those without one come last.
        """
        order = np.argsort(-np.nan_to_num(self.values[:, by], nan=-np.inf), axis=0, kind="stable")
        return order[:count]

    def fifths(self, pool: int, samples: int, by: int, layer: int, head: int) -> list[np.ndarray]:
        """Places of a head's samples out of each fifth of the pool, smallest values first; each array by value."""
        value = self.values[:pool, by, layer, head]
        defined = np.nonzero(~np.isnan(value))[0]
        order = defined[np.argsort(value[defined], kind="stable")]
        bounds = [n * len(order) // FIFTHS for n in range(FIFTHS + 1)]
        found = []
        for low, high in itertools.pairwise(bounds):
            drawn = np.sort(order[low:high])[:samples]
            found.append(drawn[np.argsort(value[drawn], kind="stable")])
        return found

    def cuts(self, pool: int, by: int) -> np.ndarray:
        """The largest value of each fifth but the last, of each head: [4, L, H]; NaN without passages."""
        values = np.sort(self.values[:pool, by], axis=0)  # NaN last
        count = (~np.isnan(values)).sum(axis=0)
        places = np.stack([n * count // FIFTHS - 1 for n in range(1, FIFTHS)])
        return np.where(places >= 0, np.take_along_axis(values, np.maximum(places, 0), axis=0), np.nan)

    def _ordered(self) -> Kept:
        """By priority; of passages that hold the same, the one that stands first in the corpus."""
        where = [(passage.text, passage.start) for passage in self.passages]
        order = sorted(range(len(where)), key=lambda n: (int(self.priorities[n]), self.passages[n].digest, where[n]))
        seen: set[str] = set()
        first = [n for n in order if not (self.passages[n].digest in seen or seen.add(self.passages[n].digest))]
        return self._at(np.array(first, dtype=np.int64))

    def _at(self, places: np.ndarray) -> Kept:
        return Kept([self.passages[n] for n in places], self.priorities[places], self.values[places])
