"""Needles: a fact to hide in a long text, and how to ask for it again.

The built-in ones are those that the demo model was trained on, "The secret number of Clara is 48213.": values are random, so a
model that gives them can only have copied them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.demo import needles as trained
from interp.errors import InputError

BUILT_IN = 3
"""Needles of a run where none are given: as many as Wu et al. (arXiv 2404.15574) had."""

LEAD = "Remember: "
"""What the built-in clozes begin with."""

WORDS = (
    "amber anchor barrel basket beacon bridge button candle carpet castle cellar cherry copper cotton curtain engine falcon "
    "feather forest garden ginger hammer harbour helmet island jacket kettle ladder lantern leather lemon magnet marble "
    "meadow mirror needle orange orchard oyster paper pebble pepper pillow pocket ribbon saddle shadow shelter silver "
    "spider stable summer temple ticket timber tunnel velvet violet wagon walnut window winter"
).split()
"""Two of them are the value of every second built-in needle."""


@dataclass(frozen=True)
class Needle:
    """A fact to hide in a haystack.

    statement  the sentence that is hidden, "The secret number of Clara is 48213."
    answer     what is asked for, "48213"; it stands in the statement, letter by letter
    cloze      what a base model is to go on with; None: the statement up to the answer
    question   what a chat model is asked, "What is the secret number of Clara?"; None where only clozes are wanted
    """

    statement: str
    answer: str
    cloze: str | None = None
    question: str | None = None

    @property
    def start(self) -> int:
        """Where the answer stands in the statement, in characters."""
        return self.statement.find(self.answer)

    @property
    def asked(self) -> str:
        """The cloze."""
        return self.statement[: self.start].rstrip() if self.cloze is None else self.cloze


def built_in_needles(count: int = BUILT_IN, seed: int = 0) -> tuple[Needle, ...]:
    """``count`` needles about different people: five random digits and two random words in turn. The same for the same seed.

    Raises:
        InputError: ``count`` is no number from 1 to as many names as there are, or the seed is out of range.
    """
    if type(count) is not int or not 1 <= count <= len(trained.NAMES):
        raise InputError(f"needles: expected needles, or how many from 1 to {len(trained.NAMES)}, got {count!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    generator = np.random.default_rng(seed)
    names = [trained.NAMES[int(i)] for i in generator.choice(len(trained.NAMES), size=count, replace=False)]
    return tuple(_built_in(generator, name, number=place % 2 == 0) for place, name in enumerate(names))


def _built_in(generator: np.random.Generator, name: str, *, number: bool) -> Needle:
    drawn = trained.draw_needle(generator, WORDS, name, number=number)
    said = drawn.statement.removesuffix(f" {drawn.value}.")
    key = next(key for key in trained.NUMBER_KEYS + trained.WORD_KEYS if key in said)
    return Needle(drawn.statement, drawn.value, f"{LEAD}{said}", f"What is the {key} of {name}?")


def checked_needles(needles: Sequence[Needle] | int | None, seed: int) -> tuple[Needle, ...]:
    """The needles of a run; None and a number stand for built-in ones.

    Raises:
        InputError: no needle, one that is empty or does not hold its answer, or two that are the same.
    """
    if needles is None or isinstance(needles, int):
        return built_in_needles(BUILT_IN if needles is None else needles, seed)
    if not isinstance(needles, Sequence) or isinstance(needles, str) or not needles:
        raise InputError(f"needles: expected at least one interp.heads.Needle, or how many, got {needles!r:.80}")
    for place, needle in enumerate(needles):
        _check(needle, f"needles[{place}]")
    for place, needle in enumerate(needles):
        first = next(n for n, other in enumerate(needles) if other.statement == needle.statement)
        if first < place:
            raise InputError(f"needles: {first} and {place} are the same ({needle.statement!r}); give each needle once")
    return tuple(needles)


def _check(needle: Needle, where: str) -> None:
    if not isinstance(needle, Needle):
        raise InputError(f"{where}: expected an interp.heads.Needle(statement, answer), got {needle!r:.80}")
    for name in ("statement", "answer"):
        value = getattr(needle, name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}.{name} is empty; give a text with at least one word")
    for name in ("cloze", "question"):
        value = getattr(needle, name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InputError(f"{where}.{name} is empty; give a text, or None")
    if re.search(r"\w", needle.answer) is None:
        raise InputError(
            f"{where}.answer: {needle.answer!r} has no letter or digit, and recall is of words; give one with"
        )
    if needle.answer != needle.answer.strip():
        raise InputError(f"{where}.answer: {needle.answer!r} begins or ends with white space; leave that out")
    if needle.start < 0:
        raise InputError(
            f"{where}.answer: {needle.answer!r} does not stand in the statement {needle.statement!r}, and only what stands "
            "there can be copied; give the answer letter by letter"
        )
