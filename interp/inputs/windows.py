"""A text longer than the context, as windows that the model can run, each of whose positions can be shown in the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from interp.arguments import shown, switch
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import to_batch
from interp.inputs.pieces import readable
from interp.inputs.positions import room
from interp.inputs.reads import Reads
from interp.inputs.rows import check_ids
from interp.inputs.textfile import read_text
from interp.inputs.tokens import NOWHERE, Encoded, encoded, special_around, token_row
from interp.progress import Bar
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from interp.captures.capture import Capture
    from interp.models.hooked import HookedModel

LONGEST = 2048
"""Positions of a window where the model has no bound."""
SPLIT = 3
"""A character of UTF-8 has 4 bytes at most: so many tokens further it has ended."""


@dataclass(frozen=True, eq=False)
class Window:
    """One window, ready for ``HookedModel.capture(window.batch)``.

    number   0, 1, ... in the text
    batch    one row: special tokens, tokens of the text, special tokens. Spans of its ``token_rows`` count characters of the
             whole text
    places   [T]: which token of the text stands in each column, -1 for special tokens
    is_new   [1, T]: the columns of tokens that stand in no earlier window. As ``queries=`` of a probe, it has every token of the
             text counted once where windows overlap
    """

    number: int
    batch: Batch
    places: Tensor
    is_new: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Windows(Sequence[Window]):
    """The windows of a text. They are made one at a time; what is held is the text, its token ids and their spans.

    Window n holds the text's tokens n stride ... n stride + size - 1, the last window those that are left. Its length is
    size with the special tokens around it.
    """

    model: HookedModel
    text: str
    ids: Tensor  # [N], of the text without special tokens
    spans: np.ndarray  # [N, 2]
    before: tuple[int, ...]
    after: tuple[int, ...]
    size: int
    stride: int
    beyond_context: bool

    @property
    def length(self) -> int:
        """Positions of a window, special tokens included."""
        return len(self.before) + self.size + len(self.after)

    def __len__(self) -> int:
        return 1 + max(0, -(-(len(self.ids) - self.size) // self.stride))

    @overload
    def __getitem__(self, index: int) -> Window: ...

    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...

    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self._made(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index}: there are {len(self)}")
        return self._made(index % len(self))

    def __iter__(self) -> Iterator[Window]:
        return (self._made(number) for number in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"Windows({len(self.ids):,} tokens of text in {len(self):,} windows of up to {self.length:,} positions, every "
            f"{self.stride:,} tokens, for {self.model.name})"
        )

    def captures(self, *args: Any, progress: bool = True, **options: Any) -> Iterator[tuple[Window, Capture]]:
        """Each window with its capture, one at a time; what is not kept is let go of.

        Args:
            args, options: as for ``HookedModel.capture``, after its inputs.
            progress: show a progress bar on stderr.
        """
        options = {"beyond_context": self.beyond_context} | options
        name = f"capture {self.model.name}"
        with Bar(total=len(self), unit="window", what=name, show=progress) as bar:
            for window in self:
                yield window, self.model.capture(window.batch, *args, **options)
                bar.update()

    def _made(self, number: int) -> Window:
        first = number * self.stride
        piece, spans = self.ids[first : first + self.size], self.spans[first : first + self.size]
        seen = 0 if number == 0 else max(0, self.size - self.stride)
        ids = [*self.before, *piece.tolist(), *self.after]
        places = torch.full((len(ids),), NOWHERE)
        inside = slice(len(self.before), len(self.before) + len(piece))
        places[inside] = torch.arange(first, first + len(piece))
        is_new = torch.zeros(1, len(ids), dtype=torch.bool)
        is_new[0, inside] = torch.arange(len(piece)) >= seen
        around = [np.full((len(special), 2), NOWHERE) for special in (self.before, self.after)]
        spans = np.concatenate([around[0], spans, around[1]])
        row = token_row(ids, self.model.tokenizer, spans, self.text, shown=self._shown(first, first + len(piece)))
        batch = to_batch(torch.tensor(ids), None, Reads(self.model.host))
        device = self.model.device
        return Window(number, replace(batch, token_rows=(row,)), places.to(device), is_new.to(device))

    def _shown(self, first: int, last: int) -> list[str] | None:
        """Readable tokens of a window, in which a character that the window's edge splits is still known."""
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return None
        before, after = max(0, first - SPLIT), last + SPLIT
        starts = self.spans[before:after, 0].tolist()
        shown = readable(self.ids[before:after].tolist(), tokenizer, starts, self.text)[first - before : last - before]
        return [*readable(self.before, tokenizer), *shown, *readable(self.after, tokenizer)]


def windows(
    model: HookedModel,
    text: str | Path,
    length: int | None = None,
    stride: int | None = None,
    *,
    special: bool = True,
    beyond_context: bool = False,
) -> Windows:
    """Cut a text or text file of any length into windows. It is tokenised once, as a whole, so that no word is cut in two.

    Every token of the text is in at least one window. A token near the beginning of a window sees little of what stands before
    it in the text; with ``stride`` below the window's size, windows overlap and a token comes again with more before it.

    Args:
        text: a text, or the ``Path`` of a UTF-8 file, read as it stands, line ends included.
        length: positions of a window, special tokens included; the model's context (2,048 where it has none).
        stride: tokens of the text from one window's beginning to the next one's; as many as a window holds, so that none overlap.
        special: put the tokenizer's special tokens around each window.
        beyond_context: allow windows longer than the model's context, where its positions are relative.

    Raises:
        InputError: a missing, empty or undecodable file, an empty text, no tokenizer, a length or stride out of range.
    """
    if not isinstance(text, str | Path):
        raise InputError(f"text: expected a text or the Path of a text file, got {type(text).__name__}")
    special = switch("special", special)
    reads = Reads(model.host)
    reads.check_token_ids()
    before, after = special_around(model.tokenizer) if special else ((), ())
    if length is None:
        length = room(reads) or model.shape.context or LONGEST
    around = len(before) + len(after)
    positions = whole(length)
    if positions is None or positions <= around:
        raise InputError(
            f"length: expected an integer above {around} (the special tokens of each window), got {shown(length)}"
        )
    model.check_length(positions, beyond_context=beyond_context)
    size = positions - around
    step = size if stride is None else whole(stride)
    if step is None or not 1 <= step <= size:
        raise InputError(
            f"stride: expected an integer from 1 to {size} (the text's tokens in a window; above, some would be in none), "
            f"got {shown(stride)}"
        )
    made: Encoded = encoded(read_text(text) if isinstance(text, Path) else text, model.tokenizer, special=False)
    ids = torch.tensor(made.ids)
    check_ids([ids], model.shape.vocabulary, [True])
    return Windows(model, made.text, ids, made.spans, before, after, size, step, beyond_context)
