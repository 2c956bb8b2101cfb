"""Training windows: prose, repeated random spans, prose with needles. The batch of step n is a pure function of (seed, n).

Every window starts with BOS. A window is two arrays of its length: token ids, and the weight of the loss of predicting each token
from those before it (0 at BOS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from interp.demo.corpus import Corpus
from interp.demo.needles import NAMES, draw_needle, draw_needles
from interp.demo.tokenizer import BOS_ID, SPECIAL_TOKENS

PROSE, REPEAT, NEEDLE = 0, 1, 2
SHORTEST_SPAN = 6
MOST_NEEDLES = 4


Insertion = tuple[float, list[tuple[np.ndarray, float]]]
"""A depth in 0..1 and the pieces (token ids, loss weight) that are to stand there."""


@dataclass(frozen=True)
class Window:
    """`tokens` int64 [length], `weights` float32 [length] (the loss weight of each token as a target), `kind`."""

    tokens: np.ndarray
    weights: np.ndarray
    kind: int


@dataclass(frozen=True)
class Shares:
    """Shares of windows with repeated random spans and with needles; the rest is prose."""

    repeat: float
    needle: float


class WindowMaker:
    """Makes windows out of a corpus.

    `random_weight` is the loss weight of tokens that cannot be predicted (the first copy of a random span, the first mention of
    a needle's value); `answer_weight` that of a needle's value when it is asked for.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerFast,
        words: Sequence[str],
        *,
        random_weight: float,
        answer_weight: float,
    ) -> None:
        self.corpus = corpus
        self.words = words
        self.random_weight = random_weight
        self.answer_weight = answer_weight
        self._bpe = tokenizer.backend_tokenizer
        self._vocabulary = len(tokenizer)

    def batch(self, seed: int, step: int, count: int, length: int, shares: Shares) -> list[Window]:
        """The `count` windows of a step. Kinds are dealt by stratified draws, so that even small batches keep to the shares."""
        generator = np.random.default_rng([seed, step])
        places = (np.arange(count) + generator.random()) / count
        return [
            self.repeat(generator, length)
            if place < shares.repeat
            else self.needle(generator, length)
            if place < shares.repeat + shares.needle
            else self.prose(generator, length)
            for place in places
        ]

    def prose(self, generator: np.random.Generator, length: int) -> Window:
        """BOS and a piece of one book."""
        return self._window([(self.corpus.piece(generator, length - 1), 1.0)], PROSE)

    def random_span(self, generator: np.random.Generator, length: int) -> np.ndarray:
        """`length` tokens drawn uniformly, with replacement, from the vocabulary without special tokens."""
        return generator.integers(len(SPECIAL_TOKENS), self._vocabulary, size=length)

    def repeat(self, generator: np.random.Generator, length: int) -> Window:
        """Random spans, each followed by its copy, until the window is full.

        The span's length is log-uniform from 6 to half of what is left; with chance 1/2 prose of up to as many tokens stands
        between the copies; the end is filled with prose. The copy's first token carries the weight of an unpredictable one: that
        the copy starts there is not to be known.
        """
        parts: list[tuple[np.ndarray, float]] = []
        left = length - 1
        while left >= 2 * SHORTEST_SPAN:
            size = int(np.exp(generator.uniform(np.log(SHORTEST_SPAN), np.log(left // 2 + 1))))
            filler = int(generator.integers(left - 2 * size + 1)) if generator.random() < 0.5 else 0
            filler = min(filler, size)
            span = self.random_span(generator, size)
            parts.append((span, self.random_weight))
            if filler:
                parts.append((self.corpus.piece(generator, filler), 1.0))
            parts += [(span[:1], self.random_weight), (span[1:], 1.0)]
            left -= 2 * size + filler
        if left:
            parts.append((self.corpus.piece(generator, left), 1.0))
        return self._window(parts, REPEAT)

    def needle(self, generator: np.random.Generator, length: int) -> Window:
        """Prose with 1 to 4 needles at random depths between sentences, each asked once at a random later depth.

        With chance 1/2 the first needle's question is the window's end. Short windows hold fewer needles.
        """
        count = int(generator.integers(1, min(MOST_NEEDLES, max(1, length // 96)) + 1))
        insertions: list[Insertion] = []
        for index, needle in enumerate(draw_needles(generator, self.words, count)):
            stated = generator.random()
            asked = 1.0 if index == 0 and generator.random() < 0.5 else generator.uniform(stated, 1.0)
            cloze = needle.statement[: -len(needle.value) - 2]
            end = self._encode(".")
            value = self._encode(" " + needle.value)
            insertions.append((stated, [(self._encode(" " + cloze), 1.0), (value, self.random_weight), (end, 1.0)]))
            insertions.append(
                (asked, [(self._encode(" " + needle.cloze), 1.0), (value, self.answer_weight), (end, 1.0)])
            )
        return self._window(self._insert(generator, insertions, length - 1), NEEDLE)

    def haystack(
        self, generator: np.random.Generator, length: int, *, depth: float, number: bool, distractors: int
    ) -> tuple[np.ndarray, int]:
        """A test of retrieval: `length` tokens with BOS that end with the needle's value, and how many tokens the value has.

        The needle stands at `depth` (0 start, 1 end of the prose), `distractors` others at random depths; it alone is asked for.
        """
        names = [NAMES[int(i)] for i in generator.choice(len(NAMES), size=1 + distractors, replace=False)]
        needle = draw_needle(generator, self.words, names[0], number=number)
        value = self._encode(" " + needle.value)
        insertions = [(depth, [(self._encode(" " + needle.statement), 1.0)])]
        for name in names[1:]:
            other = draw_needle(generator, self.words, name, number=number)
            insertions.append((generator.random(), [(self._encode(" " + other.statement), 1.0)]))
        insertions.append((1.0, [(self._encode(" " + needle.cloze), 1.0), (value, 1.0)]))
        parts = self._insert(generator, insertions, length - 1)
        return self._window(parts, NEEDLE).tokens, value.size

    def _insert(
        self, generator: np.random.Generator, insertions: Sequence[Insertion], length: int
    ) -> list[tuple[np.ndarray, float]]:
        """`length` tokens of prose with the insertions between its sentences, at the first gap at or after their depths."""
        room = length - sum(tokens.size for _, pieces in insertions for tokens, _ in pieces)
        prose = self.corpus.piece(generator, room)
        gaps = np.append(np.flatnonzero(self.corpus.ends_sentence[prose]) + 1, room)
        parts: list[tuple[np.ndarray, float]] = []
        done = 0
        for depth, pieces in sorted(insertions, key=lambda insertion: insertion[0]):
            place = int(gaps[np.searchsorted(gaps, int(depth * room))])
            parts.append((prose[done:place], 1.0))
            parts += pieces
            done = place
        parts.append((prose[done:], 1.0))
        return parts

    def _encode(self, text: str) -> np.ndarray:
        return np.asarray(self._bpe.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def _window(self, parts: Sequence[tuple[np.ndarray, float]], kind: int) -> Window:
        tokens = np.concatenate([[BOS_ID], *(tokens for tokens, _ in parts)]).astype(np.int64)
        weights = np.concatenate([[0.0], *(np.full(tokens.size, weight) for tokens, weight in parts)])
        return Window(tokens, weights.astype(np.float32), kind)
