"""Key-value needles: a sentence that ties a random value to a name, and the same words again later as a cloze.

"The secret number of Clara is 48213." stands somewhere in the prose; later stands "... Remember: The secret number of Clara is",
and the model must copy the value. Values are random, so they can only be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NAMES = (
    "Agnes Albert Alfred Alice Amelia Anna Arthur Beatrice Bernard Carl Caroline Cecil Charles Clara Daniel Diana Dora "
    "Edgar Edith Edward Eleanor Ernest Esther Eva Felix Flora Frank Frederick George Grace Harold Harriet Helen Henry "
    "Hugo Ida Isabel James Jane Jasper Julia Karl Laura Leonard Lewis Lily Louis Lucy Lydia Margaret Maria Martin Mary "
    "Maurice Nell Nicholas Nora Oliver Oscar Otto Paul Peter Philip Phoebe Ralph Rebecca Richard Robert Rosa Rupert "
    "Ruth Samuel Sarah Simon Sophia Stephen Susan Theodore Thomas Victor Viola Walter William"
).split()
NUMBER_KEYS = ("secret number", "lucky number", "number of the house", "number of the letter")
WORD_KEYS = ("secret word", "password", "favourite word", "hidden message")
TEMPLATES = ("The {key} of {name} is {value}.", "{name}'s {key} is {value}.", "For {name} the {key} is {value}.")
QUESTION_LEADS = ("", "", "Remember: ", "As was said before: ", "Once more: ")
DIGITS = 5
WORDS = 2


@dataclass(frozen=True)
class Needle:
    """One needle. `statement` and `cloze` + `value` + "." are the two sentences; `cloze` ends before the space of the value."""

    statement: str
    cloze: str
    value: str


def draw_needle(generator: np.random.Generator, words: Sequence[str], name: str, *, number: bool) -> Needle:
    """A needle for `name` with a random key, template and value: five random digits, or two different words out of `words`."""

    def choose(options: Sequence[str]) -> str:
        return options[int(generator.integers(len(options)))]

    key = choose(NUMBER_KEYS if number else WORD_KEYS)
    if number:
        value = "".join(str(digit) for digit in generator.integers(10, size=DIGITS))
    else:
        value = " ".join(words[int(i)] for i in generator.choice(len(words), size=WORDS, replace=False))
    template = choose(TEMPLATES)
    cloze = template.format(key=key, name=name, value="").removesuffix(" .")
    return Needle(f"{cloze} {value}.", choose(QUESTION_LEADS) + cloze, value)


def draw_needles(generator: np.random.Generator, words: Sequence[str], count: int) -> list[Needle]:
    """`count` needles with different names; each is a number or words with equal chance. The others distract from each one."""
    names = [NAMES[int(i)] for i in generator.choice(len(NAMES), size=count, replace=False)]
    return [draw_needle(generator, words, name, number=bool(generator.integers(2))) for name in names]
