"""Tokens as people read them: the text of each, and where it stands in the text that was given.

What is shown comes from the tokenizer's vocabulary and from the text, so it may hold anything, markup included: it is plain
text, and whoever puts it into a page escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.arguments import shown
from interp.errors import InputError
from interp.inputs.pieces import readable
from interp_kernels.integers import whole_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOWHERE = -1
"""In arrays of spans: this token does not stand in the text."""
MOST_IDS = 1 << 32
"""Tokenizers number their tokens with 32 bits."""
SAMPLES = ("a", "A", "0", ".")
"""Texts that one vocabulary or another has a token for."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a row.

    position    its column in the batch: the index of its query row and of its key
    text        readable: byte-level and SentencePiece pieces as the text that they stand for, WordPiece with its "##". The
                texts of a row of the first two kinds, joined, read as the text. A character that is split over several tokens
                is shown with the first, the others of them are ""
    start, end  the characters of the row's text that it stands for, text[start:end]; None where it stands in no text (added
                by the tokenizer, given as an id) or the tokenizer does not say. Tokens that share a character have equal
                spans. Some tokenizers leave the space before a word out of its span
    is_special  marks something (beginning, end, separator) rather than being text
    """

    position: int
    id: int
    text: str
    start: int | None
    end: int | None
    is_special: bool


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one sequence, without its padding, and the text that they were made from (None: ids were given).

    origin: which character of the whole text ``text`` begins with. Above 0 in a row that was stored, of which only the part
    that its tokens stand in is kept
    """

    tokens: tuple[Token, ...]
    text: str | None = None
    origin: int = 0

    @property
    def strings(self) -> list[str]:
        """The readable text of each token."""
        return [token.text for token in self.tokens]

    def at(self, position: int) -> Token:
        """The token in a column of the batch.

        Raises:
            InputError: there is none, or padding.
        """
        first = self.tokens[0].position
        # Padding stands at one end, so that columns follow one another; where they do not, they are looked for.
        if 0 <= position - first < len(self.tokens) and self.tokens[position - first].position == position:
            return self.tokens[position - first]
        for token in self.tokens:
            if token.position == position:
                return token
        raise InputError(f"position {position} holds no token of this row; its tokens stand at {self._columns()}")

    def shown(self, position: int, around: int = 40) -> tuple[str, str, str]:
        """A position in its text: up to ``around`` characters before it, its own characters, and as many after it.

        Raises:
            InputError: there is no token at that position, or it does not stand in a text.
        """
        token = self.at(position)
        if self.text is None or token.start is None or token.end is None:
            raise InputError(
                f"position {position} ({token.text!r}) does not stand in a text: {self._why_nowhere(token)}"
            )
        start, end = token.start - self.origin, token.end - self.origin
        return self.text[max(0, start - around) : start], self.text[start:end], self.text[end : end + around]

    def as_json(self) -> dict[str, Any]:
        """What ``of_json`` reads, with the part of the text that the tokens stand in."""
        starts = [token.start for token in self.tokens if token.start is not None]
        ends = [token.end for token in self.tokens if token.end is not None]
        text, origin = None, 0
        if self.text is not None and starts:
            origin = min(starts)
            text = self.text[origin - self.origin : max(ends) - self.origin]
        return {"text": text, "origin": origin, "tokens": [astuple(token) for token in self.tokens]}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> TokenRow:
        return cls(tuple(Token(*token) for token in content["tokens"]), content["text"], int(content["origin"]))

    def _columns(self) -> str:
        return f"{self.tokens[0].position} to {self.tokens[-1].position}"

    def _why_nowhere(self, token: Token) -> str:
        if self.text is None:
            return "token ids were given"
        return "the tokenizer added it" if token.is_special else "the tokenizer does not say where"


@dataclass(frozen=True, eq=False)
class Encoded:
    """A text as token ids, and the span of characters [n, 2] of each; ``NOWHERE`` for those that do not stand in it."""

    ids: list[int]
    spans: np.ndarray
    text: str

    def row(self, tokenizer: PreTrainedTokenizerBase) -> TokenRow:
        return token_row(self.ids, tokenizer, self.spans, self.text)


def encoded(
    text: str, tokenizer: PreTrainedTokenizerBase | None, *, special: bool = True, as_target: bool = False
) -> Encoded:
    """A text tokenised, with the tokenizer's own special tokens or without any.

    Args:
        as_target: as the tokenizer does it for what a decoder writes (tokenizers of translation models differ there).

    Raises:
        InputError: there is no tokenizer, or the text is empty or only white space.
    """
    if tokenizer is None:
        raise InputError("this model has no tokenizer; give token ids, or load(..., tokenizer=...) with one")
    if not text.strip():
        beside = f" but for white space ({len(text):,} characters)" if text else ""
        raise InputError(f"the text is empty{beside}; give a text with at least one word")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is no valid Unicode: half of a surrogate pair at character {error.start}; decode it again, with "
            "errors='replace' if need be"
        ) from None
    # The caller checks the length against the model's context and says so in its own words.
    options: dict[str, Any] = {"add_special_tokens": special, "verbose": False}
    if tokenizer.is_fast:
        options |= {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    options["text_target" if as_target else "text"] = text
    made = tokenizer(**options)
    ids = made["input_ids"]
    if not isinstance(ids, list):
        raise InputError(f"the tokenizer gave {type(ids).__name__} instead of a list of token ids")
    ids = [int(i) for i in ids]
    if not ids:
        raise InputError(f"the tokenizer makes no tokens of the text {text[:40]!r}; give a text with at least one word")
    if not tokenizer.is_fast:
        return Encoded(ids, _found(text, ids, tokenizer), text)
    spans = np.array(made["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    spans[np.array(made["special_tokens_mask"], dtype=bool)] = NOWHERE
    return Encoded(ids, spans, text)


def checked_ids(ids: Any) -> list[int]:
    """Token ids as ints.

    Raises:
        InputError: something else, or one that no tokenizer has.
    """
    found = whole_numbers(ids)
    if found is None or any(not 0 <= i < MOST_IDS for i in found):
        raise InputError(f"ids: expected token ids, integers from 0 on, got {shown(ids)}")
    return found


def tokenise(text: str, tokenizer: PreTrainedTokenizerBase | None, *, special: bool = True) -> list[int]:
    """Token ids of a text; see ``encoded``."""
    return encoded(text, tokenizer, special=special).ids


def token_row(
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None,
    spans: np.ndarray | None = None,
    text: str | None = None,
    columns: Iterable[int] | None = None,
    shown: Sequence[str] | None = None,
) -> TokenRow:
    """The tokens of one sequence; in columns 0, 1, ... or in those given. Without a tokenizer their ids are shown.

    shown: their readable texts, where more is known of them than ``readable`` sees in the sequence
    """
    places = range(len(ids)) if columns is None else columns
    if tokenizer is None:
        tokens = (Token(at, i, str(i), None, None, False) for at, i in zip(places, ids, strict=True))
        return TokenRow(tuple(tokens), text)
    special = set(tokenizer.all_special_ids)
    starts = None if spans is None else spans[:, 0].tolist()
    ends = [None] * len(ids) if spans is None else spans[:, 1].tolist()
    shown = readable(ids, tokenizer, starts, text) if shown is None else shown
    ordinary = next((n for n, i in enumerate(ids) if i not in special), None)
    tokens = []
    for n, (at, i, string) in enumerate(zip(places, ids, shown, strict=True)):
        start, end = (None, None) if starts is None or starts[n] == NOWHERE else (starts[n], ends[n])
        # The first one shows nothing where it is but the space that SentencePiece put before the text.
        end = start if n == ordinary and start == 0 and not string else end
        tokens.append(Token(at, i, string, start, end, i in special))
    return TokenRow(tuple(tokens), text)


def special_around(tokenizer: PreTrainedTokenizerBase | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a text."""
    if tokenizer is None:
        return (), ()
    for text in SAMPLES:
        try:
            bare, around = tokenise(text, tokenizer, special=False), tokenise(text, tokenizer)
        except InputError:  # a vocabulary without such characters
            continue
        for start in range(len(around) - len(bare) + 1):
            if around[start : start + len(bare)] == bare:
                return tuple(around[:start]), tuple(around[start + len(bare) :])
    return (), ()


def _found(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Spans by looking for each token's text, one after another; nowhere at all where one cannot be found so."""
    spans = np.full((len(ids), 2), NOWHERE, dtype=np.int64)
    special, end = set(tokenizer.all_special_ids), 0
    for n, (i, piece) in enumerate(zip(ids, readable(ids, tokenizer), strict=True)):
        if i in special:
            continue
        word = piece.strip().removeprefix("##")
        start = text.find(word, end)
        # Between tokens there is white space at most; else something was changed, and what is found is another place.
        if not word or start < 0 or text[end:start].strip():
            return np.full((len(ids), 2), NOWHERE, dtype=np.int64)
        end = start + len(word)
        spans[n] = start, end
    return spans
