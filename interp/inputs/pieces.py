"""The pieces of a tokenizer's vocabulary as the text that they stand for.

Byte-level BPE writes each byte as a printable character ("Ġthe" is " the", "ï" is "Ã¯"); SentencePiece writes a space as "▁" and
bytes without a piece of their own as "<0xE2>". Tokenizers of other kinds show a piece as they decode it by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"
END_OF_WORD = "</w>"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def readable(
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    starts: Sequence[int] | None = None,
    text: str | None = None,
) -> list[str]:
    """The text of each token of a sequence; joined, they read as the text, but for tokenizers that do not keep spaces.

    A character whose bytes are split over tokens is shown with the first of them, the others are "". Bytes that make no
    character are shown as U+FFFD.

    Args:
        starts, text: where each token starts in the text that they were made from, if that is known. It tells whether the
            first space is one of the text or one that SentencePiece put before it; without, it is taken for the latter
            where the tokenizer does so.
    """
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    # Tokens that were added to the vocabulary are written as they are; of SentencePiece's some are runs of spaces.
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special or SPACE not in decoder}
    # The vocabulary of some models is larger than that of their tokenizer: such an id has no piece.
    literal = {
        n: added.get(i, f"<{i}>") for n, (i, p) in enumerate(zip(ids, pieces, strict=True)) if i in added or p is None
    }
    if "ByteLevel" in decoder:
        return _joined([literal[n].encode() if n in literal else _of_bytes(p) for n, p in enumerate(pieces)])
    if SPACE in decoder:
        shown = _joined([literal[n].encode() if n in literal else _of_sentence(p) for n, p in enumerate(pieces)])
        return _without_added_space(shown, literal, decoder, starts, text)
    one = cache(lambda i: str(tokenizer.decode([i])))
    return [literal[n] if n in literal else one(i) for n, i in enumerate(ids)]


@lru_cache(1 << 17)
def _of_bytes(piece: str) -> bytes:
    # CLIP's pieces say where a word ends, in place of the space.
    word, end = (piece.removesuffix(END_OF_WORD), b" ") if piece.endswith(END_OF_WORD) else (piece, b"")
    table = _bytes_of_characters()
    return b"".join(table.get(c) or c.encode() for c in word) + end


def _of_sentence(piece: str) -> bytes:
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()


def _without_added_space(
    shown: list[str], literal: dict[int, str], decoder: str, starts: Sequence[int] | None, text: str | None
) -> list[str]:
    first = next((n for n in range(len(shown)) if n not in literal), None)
    if first is None or not shown[first].startswith(" "):
        return shown
    if starts is not None and text is not None:
        is_added = not text[starts[first] : starts[first] + 1].isspace()
    else:
        is_added = "Strip(" in decoder or ("Metaspace(" in decoder and "prepend_scheme=never" not in decoder)
    return [*shown[:first], shown[first][1:], *shown[first + 1 :]] if is_added else shown


def _joined(parts: list[bytes]) -> list[str]:
    """The text of each part of a UTF-8 string whose characters may be split over parts."""
    shown: list[str] = []
    broken: list[bytes] = []
    for part in parts:
        try:
            whole = part.decode()
        except UnicodeDecodeError:
            broken.append(part)
            continue
        if broken:
            shown += _mended(broken)
            broken = []
        shown.append(whole)
    return [*shown, *_mended(broken)]


def _mended(parts: list[bytes]) -> list[str]:
    """Each character with the part that holds its first byte."""
    shown = [""] * len(parts)
    owner = [n for n, part in enumerate(parts) for _ in part]
    at = 0
    for character, size in _characters(b"".join(parts)):
        shown[owner[at]] += character
        at += size
    return shown


def _characters(data: bytes) -> Iterator[tuple[str, int]]:
    """Each character with its number of bytes; a byte that makes none as U+FFFD."""
    for character in data.decode(errors="surrogateescape"):
        is_byte = "\udc80" <= character <= "\udcff"
        yield (REPLACEMENT, 1) if is_byte else (character, len(character.encode()))


@cache
def _bytes_of_characters() -> dict[str, bytes]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes are the characters from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): bytes([b]) for b in printable} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}
