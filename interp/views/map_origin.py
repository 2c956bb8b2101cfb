"""What the rows and the columns of a map are: which layer, heads and sequences of a model they come from, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.inputs.tokens import TokenRow, token_row
from interp.naming import looks_across

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from interp.inputs.batch import Batch
    from interp.models.layers import LayerKey


@dataclass(frozen=True)
class Origin:
    """Whose attention a map is.

    layer     3, or "cross.3" and the like
    heads     of each head of the map, which query head of the layer it is; kv_heads: the KV head that it reads
    model     what the model that it was taken from says of itself and of the edits in force, ``HookedModel.facts``; empty where
              it is not known
    """

    layer: LayerKey
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    model: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, layer: LayerKey, heads: int, group: int, model: Mapping[str, Any] | None = None) -> Origin:
        """All heads of a layer, of which ``group`` read one KV head."""
        return cls(layer, tuple(range(heads)), tuple(head // group for head in range(heads)), model or {})

    @property
    def is_cross(self) -> bool:
        """Whether queries and keys are of two inputs, so that there is no distance between them."""
        return looks_across(self.layer)

    def of_head(self, head: int) -> Origin:
        return replace(self, heads=(self.heads[head],), kv_heads=(self.kv_heads[head],))


@dataclass(frozen=True, eq=False)
class MapTokens:
    """Readable tokens of one sequence by query index and by key index; None at padding. () where they are not known."""

    queries: Sequence[str | None] = ()
    keys: Sequence[str | None] = ()


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a batch on one side of an attention; their text is made when it is first asked for.

    ids [B, T], None where the model reads none; keep [B, T], False at padding, None without any; rows: the tokens of each
    sequence, where the batch has them
    """

    ids: Tensor | None = None
    keep: Tensor | None = None
    rows: tuple[TokenRow, ...] = ()
    tokenizer: PreTrainedTokenizerBase | None = None

    @cached_property
    def strings(self) -> list[list[str | None]]:
        """Of each sequence, the token in every column."""
        if self.ids is None:
            return []
        found: list[list[str | None]] = [[None] * self.ids.shape[1] for _ in range(self.ids.shape[0])]
        for n, shown in enumerate(found):
            for token in self._row(n).tokens:
                shown[token.position] = token.text
        return found

    def _row(self, n: int) -> TokenRow:
        assert self.ids is not None
        if self.rows:
            return self.rows[n]
        kept = range(self.ids.shape[1]) if self.keep is None else self.keep[n].nonzero()[:, 0].tolist()
        ids = self.ids[n].tolist()
        return token_row([ids[at] for at in kept], self.tokenizer, columns=kept)


@dataclass(frozen=True, eq=False)
class Side:
    """The rows or the columns of a map, as a part of the columns of a batch.

    sequences: which ones of the batch; span: from which column to before which, None for all
    """

    columns: Columns
    sequences: tuple[int, ...]
    span: tuple[int, int] | None = None

    def strings(self, batch: int, size: int) -> Sequence[str | None]:
        """The tokens of one sequence; () where the model reads none, or where they are not what it attends to."""
        of_batch = self.columns.strings
        found = of_batch[self.sequences[batch]] if of_batch else []
        found = found if self.span is None else found[slice(*self.span)]
        return found if len(found) == size else ()

    def kept(self, batch: int, size: int) -> Tensor | None:
        """Which columns of one sequence are no padding, [T]; None where all are."""
        if self.columns.keep is None:
            return None
        kept = self.columns.keep[self.sequences[batch]]
        kept = kept if self.span is None else kept[slice(*self.span)]
        return None if kept.shape[0] != size or bool(kept.all()) else kept

    def ids(self, batch: int) -> Tensor | None:
        """The ids of one sequence in these columns, [T], padding included; None where the model reads none."""
        if self.columns.ids is None:
            return None
        found = self.columns.ids[self.sequences[batch]]
        return found if self.span is None else found[slice(*self.span)]

    def of_sequence(self, batch: int) -> Side:
        return replace(self, sequences=(self.sequences[batch],))

    def of_span(self, start: int, stop: int) -> Side:
        first = 0 if self.span is None else self.span[0]
        return replace(self, span=(first + start, first + stop))


def columns_of(batch: Batch, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Columns, Columns]:
    """What the encoder, or the only stack, reads, and what the decoder reads."""
    keep = batch.others.get("decoder_attention_mask")
    return (
        Columns(batch.ids, batch.keep, batch.token_rows, tokenizer),
        Columns(
            batch.others.get("decoder_input_ids"),
            None if keep is None else keep.bool(),
            batch.decoder_rows,
            tokenizer,
        ),
    )
