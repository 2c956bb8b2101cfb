"""A corpus as passages: texts cut at the model's full context, each known by what it holds, in groups of equal length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import InputError
from interp.inputs.tokens import special_around, tokenise

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

PART_TOKENS = 65_536
"""Positions of the passages that are measured and kept together."""
BATCH_TOKENS = 8192
"""Positions of one forward run, unless a single passage is longer."""


@dataclass(frozen=True, eq=False)
class Passage:
    """One sequence that the model reads.

    text   which text of the corpus it stands in, counted from 0
    start  its first token, counted in the tokens of that text
    ids    token ids, special tokens included, int32 [T]
    """

    text: int
    start: int
    ids: np.ndarray

    @cached_property
    def digest(self) -> str:
        """What it is known by, wherever it stands: 32 hexadecimal digits of a hash of its ids."""
        return hashlib.blake2b(np.ascontiguousarray(self.ids, dtype="<i4").tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)


def passages_of(model: HookedModel, texts: Iterable[Any], length: int) -> Iterator[Passage]:
    """The passages of texts, or of sequences of token ids, one after the other; nothing is read ahead.

    A text is cut into consecutive pieces of ``length`` positions, special tokens included. A last piece shorter than half of that
    is left out, unless it is the text's only one. Texts without a word, and sequences of fewer than two positions, give none.

    Raises:
        InputError: something else than texts or ids, ids outside of the vocabulary, or texts without a tokenizer.
    """
    before, after = (np.array(special, dtype=np.int32) for special in special_around(model.tokenizer))
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InputError(f"passages: expected an iterable of texts, got {texts!r:.60}; one text is [text]")
    for number, text in enumerate(texts):
        if isinstance(text, str):
            if not text.strip():
                continue
            ids = np.array(tokenise(text, model.tokenizer, special=False), dtype=np.int64)
            around = (before, after)
        else:
            ids, around = _given(text, number), (before[:0], after[:0])
        if ids.size and not 0 <= ids.min() <= ids.max() < model.shape.vocabulary:
            raise InputError(
                f"passages: text {number} has token ids outside of the model's vocabulary of {model.shape.vocabulary}"
            )
        size = length - len(around[0]) - len(around[1])
        for start in range(0, len(ids), size):
            piece = ids[start : start + size].astype(np.int32)
            if start and 2 * len(piece) < size:
                continue
            made = np.concatenate([around[0], piece, around[1]])
            if len(made) > 1:
                yield Passage(number, start, made)


def parts_of(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Consecutive passages, up to ``PART_TOKENS`` positions together: the same ones for the same corpus."""
    part: list[Passage] = []
    held = 0
    for passage in passages:
        if part and held + len(passage) > PART_TOKENS:
            yield part
            part, held = [], 0
        part.append(passage)
        held += len(passage)
    if part:
        yield part


def batches_of(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Places of passages of one length, up to ``BATCH_TOKENS`` positions together: no batch has padding. Longest first."""
    by_length: dict[int, list[int]] = {}
    for place, passage in enumerate(passages):
        by_length.setdefault(len(passage), []).append(place)
    for length in sorted(by_length, reverse=True):
        together = max(1, BATCH_TOKENS // length)
        places = by_length[length]
        for first in range(0, len(places), together):
            yield places[first : first + together]


def checksum(passages: Iterable[Passage]) -> str:
    """SHA-256 of where they stand and what they hold, in order."""
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(f"{passage.text} {passage.start} {passage.digest}\n".encode())
    return digest.hexdigest()


def _given(ids: Any, number: int) -> np.ndarray:
    try:
        made = np.asarray(ids)
    except (ValueError, TypeError, RuntimeError):
        made = np.zeros((0, 0))
    if made.ndim != 1 or (made.size and made.dtype.kind not in "iu"):
        raise InputError(f"passages: text {number} is neither a text nor a sequence of token ids: {ids!r:.60}")
    return made.astype(np.int64)
