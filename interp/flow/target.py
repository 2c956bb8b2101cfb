"""What is explained of a run: one number of each sequence's output, and on which tokens it stands.

Positions count the tokens of a sequence without its padding, from 0; negative ones from its end. Of an encoder-decoder they
are the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.captures.sides import sides_of, tokens_of_batch
from interp.errors import InputError
from interp.inputs.tokens import tokenise
from interp_kernels.integers import whole, whole_numbers

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel

Target = int | str | Sequence[int | str] | Callable[[Tensor], Tensor] | None
"""A token by id or text, or a class by number; one for each sequence; a function of the logits that gives one number; or None:
what the model gives the largest logit."""

Measure = Literal["logit", "probability"]

Positions = int | Sequence[int] | Literal["all"] | None
"""Outputs: a position, several, all of them, or None: the one that matters most; see ``output_columns``."""

LOST = "it sees both ways, so that its last token predicts nothing; give at= with the position whose logits are meant"


@dataclass(frozen=True)
class Tokens:
    """The tokens of each sequence on one side of a model: their columns in the batch, and what they are called.

    columns  ascending, one tensor a sequence; None where the model reads no ids and only a run tells how many there are
    """

    columns: tuple[Tensor, ...] | None
    strings: tuple[tuple[str, ...], ...]

    def of_run(self, sequences: int, length: int) -> Tokens:
        """The same; where nothing was known, every one of the ``length`` positions of the run."""
        if self.columns is not None:
            return self
        names = tuple(str(n) for n in range(length))
        return Tokens((torch.arange(length),) * sequences, (names,) * sequences)


def is_encoder_decoder(model: HookedModel) -> bool:
    """Whether its layers look from a decoder at an encoder."""
    return any(str(layer).startswith("cross.") for layer in model.layers)


def tokens_read(model: HookedModel, batch: Batch) -> Tokens:
    """What the model reads: of an encoder-decoder, its encoder."""
    return _tokens(batch.ids, batch.keep, tokens_of_batch(model, batch))


def tokens_out(model: HookedModel, batch: Batch) -> Tokens:
    """Where its outputs stand: of an encoder-decoder the decoder's tokens, else the same as ``tokens_read``."""
    if not is_encoder_decoder(model):
        return tokens_read(model, batch)
    side = sides_of(model, batch, ("decoder",))["decoder"][0]
    return _tokens(side.ids, side.keep, side.tokens)


@dataclass(eq=False)
class Explained:
    """F, the number that is explained: called with the logits, it gives the sum over the sequences of each one's own F.

    Sequences do not see each other, so that each one's gradient is that of its own F.

    wanted   token or class of each sequence, None: the one with the largest logit
    at       the column of each sequence whose logits are read; None for a classifier, whose logits have no positions
    why_no_at  why there is none, for a model whose logits have positions
    own      the user's function, in place of all this
    measure  "logit", or "probability": the softmax of the logits
    chosen, values  of each sequence, once it was called: the token or class, and F. Of a function: (), and its value
    """

    wanted: tuple[int | None, ...]
    at: tuple[int, ...] | None
    why_no_at: str = ""
    own: Callable[[Tensor], Tensor] | None = None
    measure: Measure = "logit"
    chosen: tuple[int, ...] = ()
    values: tuple[float, ...] = field(default=())

    def __call__(self, last: Tensor) -> Tensor:
        if self.own is not None:
            value = self.own(last)
            if isinstance(value, Tensor) and value.numel() == 1:
                self.values = (float(value.detach()),)
            return value
        values = self.of(last)
        self.values = tuple(values.detach().double().tolist())
        return values.sum()

    def of(self, last: Tensor) -> Tensor:
        """F of each sequence, [B]."""
        rows = self._rows(last)
        size = rows.shape[-1]
        bad = next((i for i in self.wanted if i is not None and not 0 <= i < size), None)
        if bad is not None:
            raise InputError(f"target: the model tells {size} of them apart, 0 to {size - 1}; got {bad}")
        top = rows.detach().argmax(-1).tolist()
        self.chosen = tuple(t if w is None else w for w, t in zip(self.wanted, top, strict=True))
        index = torch.tensor(self.chosen, device=rows.device)[:, None]
        rows = rows if self.measure == "logit" else rows.softmax(-1)
        return rows.gather(-1, index)[:, 0]

    def _rows(self, last: Tensor) -> Tensor:
        """Logits [B, V] of each sequence, in float32 at least."""
        count = len(self.wanted)
        if last.ndim == 2 and last.shape[0] == count:
            return last.to(torch.promote_types(last.dtype, torch.float32))
        if last.ndim != 3 or last.shape[0] != count:
            raise InputError(
                f"target: the model's output has the shape {list(last.shape)}, which is neither logits of tokens nor of "
                "classes; give a function of it that gives one number"
            )
        if self.at is None:
            raise InputError(f"at: {self.why_no_at}")
        rows = last[torch.arange(count, device=last.device), torch.tensor(self.at, device=last.device)]
        return rows.to(torch.promote_types(last.dtype, torch.float32))


def explained(
    model: HookedModel,
    batch: Batch,
    target: Target,
    at: int | Sequence[int] | None,
    measure: Measure = "logit",
) -> Explained:
    """F as the user means it, checked as far as it can be without a run.

    Raises:
        InputError: a target or a position that does not exist, or not as many as there are sequences.
    """
    if measure not in ("logit", "probability"):
        raise InputError(f"measure: expected 'logit' or 'probability', got {measure!r}")
    count = batch.rows
    if callable(target):
        if at is not None:
            raise InputError("at: the target is a function, which reads the logits where it likes; leave at out")
        return Explained((None,) * count, None, own=target, measure=measure)
    out = tokens_out(model, batch)
    wanted = tuple(_token(model, each) for each in _each("target", target, count, Integral | str))
    columns, why = _read_at(model, batch, out, at)
    return Explained(wanted, columns, why, measure=measure)


def output_columns(model: HookedModel, tokens: Tokens, read: Explained, positions: Positions) -> list[list[int]]:
    """The columns of each sequence that ``positions`` mean.

    "all": every one. None: the token whose logits are explained; of a classifier and of a function the last token, of a model
    that sees both ways the first (the one that BERT calls [CLS]).

    Raises:
        InputError: a position that a sequence does not have.
    """
    assert tokens.columns is not None
    if positions is None:
        if read.at is not None:
            return [[column] for column in read.at]
        first = not model.shape.is_causal and not is_encoder_decoder(model)
        return [[int(columns[0 if first else -1])] for columns in tokens.columns]
    if isinstance(positions, str) and positions == "all":
        return [columns.tolist() for columns in tokens.columns]
    one = whole(positions)
    given = [one] if one is not None else whole_numbers(positions)
    if not given:
        raise InputError(f"positions: expected a position, several, or 'all', got {positions!r:.60}")
    return [[_column("positions", columns, p) for p in given] for columns in tokens.columns]


def local_positions(chosen: list[list[int]], tokens: Tokens) -> np.ndarray:
    """Columns as positions among the tokens of each sequence, [B, n]; -1 where a sequence has fewer."""
    assert tokens.columns is not None
    local = np.full((len(chosen), max(map(len, chosen))), -1, dtype=np.int64)
    for number, (columns, rows) in enumerate(zip(tokens.columns, chosen, strict=True)):
        place = {int(column): n for n, column in enumerate(columns)}
        local[number, : len(rows)] = [place[column] for column in rows]
    return local


def token_name(model: HookedModel, index: int) -> str:
    """What a target is called: the token, or the label of a class."""
    if "Classification" in type(model.host.inner).__name__:
        labels = getattr(model.host.config, "id2label", None) or {}
        return str(labels.get(index, index))
    return model.token_strings([index])[0]


def _is_classifier(model: HookedModel) -> bool:
    """Whether the logits have no positions, as there is one class for each sequence."""
    name = type(model.host.inner).__name__
    return "Classification" in name and "TokenClassification" not in name


def _tokens(ids: Tensor | None, keep: Tensor | None, strings: Sequence[Sequence[str]]) -> Tokens:
    if ids is None:
        return Tokens(None, ())
    kept = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep.bool()
    return Tokens(
        tuple(row.nonzero()[:, 0] for row in kept.cpu()), tuple(tuple(str(token) for token in row) for row in strings)
    )


def _read_at(
    model: HookedModel, batch: Batch, out: Tokens, at: int | Sequence[int] | None
) -> tuple[tuple[int, ...] | None, str]:
    """The column whose logits are read in each sequence, or None with the reason."""
    if _is_classifier(model):
        if at is not None:
            raise InputError(
                f"at: {model.name} tells one class a sequence, whose logits have no positions; leave at out"
            )
        return None, "the logits of this classifier have positions after all; give a function as target"
    if out.columns is None:
        if at is not None:
            raise InputError(
                f"at: {model.name} reads no token ids here, so that its outputs have no positions of tokens"
            )
        return None, "the model reads no token ids here; give a function as target"
    if at is not None:
        given = _each("at", at, len(out.columns), Integral)
        return tuple(_column("at", c, int(p)) for c, p in zip(out.columns, given, strict=True)), ""
    if model.shape.is_causal or is_encoder_decoder(model):
        return tuple(int(columns[-1]) for columns in out.columns), ""
    mask = getattr(model.tokenizer, "mask_token_id", None)
    masked = [] if mask is None or batch.ids is None else [(row == mask).nonzero()[:, 0] for row in batch.ids.cpu()]
    if masked and all(len(places) == 1 for places in masked):
        return tuple(int(places[0]) for places in masked), ""
    return None, f"{model.name} has no single mask token in each sequence, and {LOST}"


def _each(what: str, given: Any, count: int, kind: Any) -> tuple[Any, ...]:
    """One for each sequence."""
    if given is None or (isinstance(given, kind) and not isinstance(given, bool)):
        return (given,) * count
    several: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (None,)
    if not all(isinstance(each, kind) and not isinstance(each, bool) for each in several):
        forms = "a token, its id or a class, one for each sequence, or a function" if what == "target" else "a position"
        raise InputError(f"{what}: expected {forms}, got {given!r:.60}")
    if len(several) != count:
        raise InputError(f"{what}: expected one for each of {count} sequences, got {len(several)}")
    return several


def _token(model: HookedModel, target: int | str | None) -> int | None:
    if not isinstance(target, str):
        return None if target is None else int(target)
    if model.tokenizer is None:
        raise InputError(f"target: {model.name} has no tokenizer to read {target!r:.40}; give the token's id")
    ids = tokenise(target, model.tokenizer, special=False)
    if len(ids) != 1:
        pieces = ", ".join(map(repr, model.token_strings(ids)))
        raise InputError(f"target: {target!r:.40} is {len(ids)} tokens ({pieces}); give one of them, or its id")
    return ids[0]


def _column(what: str, columns: Tensor, position: int) -> int:
    size = len(columns)
    if not -size <= position < size:
        raise InputError(f"{what}: a sequence has {size} tokens, -{size} to {size - 1}; got {position}")
    return int(columns[position])
