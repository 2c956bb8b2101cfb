"""Haystacks: long texts as tokens, with the places between their sentences where a needle can be hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.inputs.tokens import NOWHERE, encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROSE = Path(__file__).parents[1] / "demo" / "prose.txt"
SENTENCE_END = re.compile(r"[.!?…][\"'’”)\]]*(?=\s|$)|[\u3002\uff01\uff1f]|\n\s*\n")
LEAD = "."
"""What stands before a text that is tokenised as it stands after a sentence."""

CHARACTERS_A_TOKEN = 12
"""Far more than a token has in any language: so much of a longer haystack is tokenised."""

_WHO = (
    "baker carpenter doctor farmer fisherman gardener hunter judge miller painter porter sailor schoolmaster shepherd smith "
    "soldier tailor teacher traveller widow"
).split()
_DID = "carried brought sold gave showed lent handed sent".split()
_WHAT = (
    "bell book boot bottle bowl broom bucket chair clock cup drum hat horseshoe jug key kite lamp letter map net "
    "pear picture plate rope saw shawl shovel spoon table".split()
)
_WHERE = "at the ferry|behind the church|by the mill|in the square|near the well|on the bridge|under the elm".split("|")
_WHEN = (
    "after dinner|before the rain came|early in the spring|in the second week of May|late in the evening|on a cold morning|"
    "one Sunday|when the snow had gone"
).split("|")
_FIRST = ("Well", "Then", "Once", "So it went on:", "Later", "In those years")


@dataclass(frozen=True, eq=False)
class Haystack:
    """A text as tokens.

    ids    [n] token ids, without special tokens
    gaps   [m] places between sentences, ascending: k stands before token k
    text   that was tokenised
    """

    ids: np.ndarray
    gaps: np.ndarray
    text: str

    def window(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """``size`` tokens in a row that end where a sentence does, and the places between their sentences with both ends.

        Where no sentence ends so late in the text, the first ``size`` of it; where there are no sentences, a place is between
        any two tokens.

        Raises:
            InputError: the text is shorter.
        """
        if size > self.ids.size:
            raise InputError(f"the haystack has {self.ids.size:,} tokens")
        late = self.gaps[self.gaps >= size]
        stop = int(late[0]) if late.size else size
        start = stop - size
        if not self.gaps.size:
            return self.ids[start:stop], np.arange(size + 1)
        inside = self.gaps[(self.gaps > start) & (self.gaps < stop)] - start
        return self.ids[start:stop], np.concatenate([[0], inside, [size]])


def haystack_of(text: str, tokenizer: PreTrainedTokenizerBase, longest: int) -> Haystack:
    """At least ``longest`` tokens of ``text``, all of it where it has fewer."""
    if len(text) > longest * CHARACTERS_A_TOKEN:
        text = text[: longest * CHARACTERS_A_TOKEN]
    made = encoded(text, tokenizer, special=False)
    ids = np.array(made.ids, dtype=np.int64)
    starts = made.spans[:, 0]
    if (starts == NOWHERE).all():
        pieces = tokenizer.convert_ids_to_tokens(made.ids)
        gaps = np.flatnonzero([piece.rstrip("\"'’”)]").endswith((".", "!", "?", "。")) for piece in pieces]) + 1
    else:
        ends = [match.end() for match in SENTENCE_END.finditer(text)]
        gaps = np.unique(np.searchsorted(np.maximum.accumulate(starts), ends))
    return Haystack(ids, gaps[gaps > 0], text)


def built_in_haystack(tokenizer: PreTrainedTokenizerBase, longest: int, seed: int = 0) -> Haystack:
    """The demo's prose, and after it made-up sentences until there are ``longest`` tokens. No sentence comes twice.

    Repeating a text would let a model predict it from its earlier copy, with the very heads that are looked for. Made-up
    sentences are drawn with ``seed`` from a small grammar, over a million different ones; they are dull, and serve the purpose
    of length alone.

    Raises:
        InputError: more tokens are asked for than the grammar makes.
    """
    prose = PROSE.read_text(encoding="utf-8").strip()
    sentences = _made_up(seed)
    text, size = prose, 2 * longest
    while True:
        haystack = haystack_of(text, tokenizer, longest)
        if haystack.ids.size >= longest:
            return haystack
        added = []
        while sum(map(len, added)) < size:
            sentence = next(sentences, None)
            if sentence is None:
                raise InputError(
                    f"the built-in haystack has no {longest:,} tokens; give a long text of your own as haystack="
                )
            added.append(sentence)
        text = f"{text} {' '.join(added)}"


def _made_up(seed: int) -> Iterator[str]:
    """Sentences of the grammar, each once, in an order drawn with ``seed``."""
    parts = (_FIRST, _WHO, _DID, _WHAT, _WHERE, _WHEN)
    total = int(np.prod([len(part) for part in parts]))
    # Steps of a number without a common divisor visit every sentence once, without a list of them all.
    generator = np.random.default_rng(seed)
    place, step = int(generator.integers(total)), int(generator.integers(total // 3, total // 2))
    while np.gcd(step, total) != 1:
        step += 1
    for _ in range(total):
        rest, chosen = place, []
        for part in reversed(parts):
            rest, digit = divmod(rest, len(part))
            chosen.append(part[digit])
        when, where, what, did, who, first = chosen
        comma = "" if first.endswith(":") else ","
        yield f"{first}{comma} the {who} {did} a {what} {where} {when}."
        place = (place + step) % total


def after_a_sentence(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], np.ndarray]:
    """Ids and spans [n, 2] of a text as it is tokenised after a sentence; as it is tokenised alone where that cannot be told.

    Tokenizers of words put a space of their own before what stands first, which in the middle of a text would be one too many.
    """
    alone = encoded(text, tokenizer, special=False)
    try:
        lead = encoded(LEAD, tokenizer, special=False).ids
    except InputError:  # a vocabulary without a full stop
        return alone.ids, alone.spans
    both = encoded(LEAD + text, tokenizer, special=False)
    if both.ids[: len(lead)] != lead:
        return alone.ids, alone.spans
    spans = both.spans[len(lead) :]
    return both.ids[len(lead) :], np.where(spans == NOWHERE, NOWHERE, spans - len(LEAD))
