"""The training text as token ids: book by book, so that no window runs from one book into the next."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from interp.errors import InputError

_SENTENCE_END = re.compile(r"[.!?][\"'”’)_*]*$")
_WORD = re.compile(r"(?<=\s)[a-z]{4,8}(?=\s)")


@dataclass(frozen=True)
class Book:
    """One text file."""

    name: str
    text: str


def read_books(folder: Path, held_out: Sequence[str] | None) -> tuple[list[Book], list[Book]]:
    """Read `folder/*.txt` in order of name, split into (training, held out) by file name without ".txt".

    None holds out every twelfth book from the sixth on, or the last one where there are fewer than six.

    Raises InputError when the folder is missing, has no .txt file, a file is not UTF-8, or a held-out name is not there.
    """
    if not folder.is_dir():
        raise InputError(f"text folder {folder} does not exist; give a folder that holds .txt files")
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise InputError(f"text folder {folder} holds no .txt files; training needs plain text in UTF-8")
    books = []
    for path in paths:
        try:
            books.append(Book(path.stem, path.read_bytes().decode("utf-8").replace("\r\n", "\n")))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if held_out is None:
        held_out = [book.name for book in (books[5::12] or books[-1:])]
    missing = sorted(set(held_out) - {book.name for book in books})
    if missing:
        raise InputError(f"held-out books {missing} are not in {folder}; it holds {[book.name for book in books]}")
    training = [book for book in books if book.name not in held_out]
    if not training or len(training) == len(books):
        raise InputError(
            f"{folder} must hold at least two .txt files: one to train on and one to hold out; it holds {len(books)}"
        )
    return training, [book for book in books if book.name in held_out]


def fingerprint(books: Iterable[Book]) -> str:
    """SHA-256 over names and contents in order: tells whether a resumed run reads the same text."""
    digest = hashlib.sha256()
    for book in books:
        for part in (book.name, book.text):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def common_words(books: Iterable[Book], first: int = 200, last: int = 2200) -> tuple[str, ...]:
    """Lower-case words of 4 to 8 letters, those ranked `first` to `last` by count: frequent enough to be known to the model,
    rare enough to be no guess. Fewer are returned when the text has fewer."""
    counts: Counter[str] = Counter()
    for book in books:
        counts.update(_WORD.findall(book.text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(ranked[first:last]) if len(ranked) >= 2 * first else tuple(ranked)


class Corpus:
    """Token ids of books, with the places between sentences.

    `documents[d]` is uint16 [tokens]; `ends_sentence` is bool [vocabulary], true for tokens whose text closes a sentence.
    """

    def __init__(self, books: Sequence[Book], tokenizer: PreTrainedTokenizerFast) -> None:
        # The fast variant leaves out offsets, which would cost several times the text in memory.
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(
            [book.text for book in books], add_special_tokens=False
        )
        self.names = [book.name for book in books]
        self.documents = [np.asarray(encoding.ids, dtype=np.uint16) for encoding in encodings]
        self.bytes = [len(book.text.encode()) for book in books]
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.ends_sentence = np.array([_SENTENCE_END.search(piece) is not None for piece in pieces])

    @property
    def tokens(self) -> int:
        """How many tokens there are in all books."""
        return sum(document.size for document in self.documents)

    def piece(self, generator: np.random.Generator, length: int) -> np.ndarray:
        """`length` consecutive tokens of one book, every possible start equally likely. int64 [length].

        Raises InputError when no book is long enough.
        """
        starts = np.array([max(document.size - length + 1, 0) for document in self.documents], dtype=np.int64)
        if starts.sum() == 0:
            longest = max((document.size for document in self.documents), default=0)
            raise InputError(
                f"too little text: a window needs {length} tokens in a row, the longest book has {longest}"
            )
        place = int(generator.integers(starts.sum()))
        book = int(np.searchsorted(np.cumsum(starts), place, side="right"))
        start = place - int(starts[:book].sum())
        return self.documents[book][start : start + length].astype(np.int64)
