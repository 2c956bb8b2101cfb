"""Any pattern: how much of a head's attention lies where you say, or how far the head is from what you expect.

With A one head's map over T tokens and D the pattern, sums over the cells that count:

    "mul"   sum(A D) / sum(A)           the share of the attention that lies on D, from 0 to 1 where D is 0 or 1
    "abs"   1 - sum |A - D| / T         1 where A is D; with 0/1 patterns sum |A - D| = sum A - 2 sum(A D) + sum D

of TransformerLens' head_detector (detect_head), which rounds the sum of "abs" to 3 decimals; here nothing is rounded. Cells that
do not count: with ``exclude_bos`` the first column, with ``exclude_current_token`` the diagonal. T is the length all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.detector import RunDetector, Scored, Setting
from interp.heads.pattern_roads import Cells, Sums, by_probes, by_tiles
from interp.heads.texts import batches_of, single_stack
from interp.heads.tokens import previous_ids
from interp.results.settings import checksum

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.inputs.rows import Inputs
    from interp.models.hooked import HookedModel
    from interp.scores import HeadScores

LARGEST_DENSE = 2048
"""Tokens of the largest pattern that is given cell by cell: 4 million cells."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """One sequence, as a pattern sees it. ids: int64 [n], without padding; strings: their readable texts."""

    ids: Tensor
    strings: list[str]


@dataclass(frozen=True, eq=False)
class Pattern(RunDetector):
    """Attention on a pattern of your own. Give one of

    offsets  D[i, j] = 1 where i - j is one of them
    labels   a function of ``Tokens`` that gives two integer tensors a, b [n]: D[i, j] = 1 where a_i = b_j, -1 matches nothing;
             with ``strict`` only for j < i
    keys     a function of ``Tokens`` that gives bool [n]: D[i, j] = 1 where key j is true
    where    a function of (i [r, 1], j [1, c], ``Tokens``) that gives bool [r, c]: D[i, j]
    dense    D itself, [T, T], for inputs of just T tokens, at most 2,048; any finite numbers

    In a decoder D counts for j <= i only. offsets, labels and keys are measured by probes, in O(T) memory. where and dense go
    over the lazy map tile by tile: T^2 / 2 cells for each head, the time of an eager pass, in the memory of one tile.

    score_by               "mul" or "abs"; see the top of this file
    exclude_bos            leave out the first column
    exclude_current_token  leave out the diagonal

    A sequence in which D has no cell has no score. Chance is the score of uniform attention.

    Source: TransformerLens, head_detector. Give it to ``interp.scan`` with a text, or call ``scores`` with any input.
    """

    name: str = "pattern"
    definition: str = ""
    source: str = "TransformerLens head_detector"
    threshold: float = 0.4
    threshold_source: str = "as ARENA's exercises for other attention scores; a pattern of your own may want another"
    needs_text: bool = True
    is_causal: bool = False
    offsets: Sequence[int] | None = None
    labels: Callable[[Tokens], tuple[Tensor, Tensor]] | None = None
    keys: Callable[[Tokens], Tensor] | None = None
    where: Callable[[Tensor, Tensor, Tokens], Tensor] | None = None
    dense: Tensor | None = None
    strict: bool = False
    score_by: Literal["mul", "abs"] = "mul"
    exclude_bos: bool = False
    exclude_current_token: bool = False

    def __eq__(self, other: object) -> bool:
        return self is other  # functions and tensors have no equality of use

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self) -> None:
        given = [kind for kind in ("offsets", "labels", "keys", "where", "dense") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise InputError(
                f"pattern {self.name!r}: expected one of offsets, labels, keys, where and dense, got "
                f"{' and '.join(given) or 'none'}"
            )
        (kind,) = given
        if self.score_by not in ("mul", "abs"):
            raise InputError(f"pattern {self.name!r}: score_by: expected 'mul' or 'abs', got {self.score_by!r}")
        if (
            isinstance(self.threshold, bool)
            or not isinstance(self.threshold, int | float)
            or not -1 <= self.threshold <= 1
        ):
            raise InputError(
                f"pattern {self.name!r}: threshold: expected a number from -1 to 1, got {self.threshold!r}"
            )
        if kind in ("labels", "keys", "where") and not callable(getattr(self, kind)):
            raise InputError(f"pattern {self.name!r}: {kind}: expected a function, got {getattr(self, kind)!r:.60}")
        if kind == "offsets":
            object.__setattr__(self, "offsets", _offsets(self.name, self.offsets))
        if kind == "dense":
            object.__setattr__(self, "dense", _dense(self.name, self.dense))
        if not self.definition:
            what = "share of the attention on" if self.score_by == "mul" else "1 - the mean distance of a row from"
            object.__setattr__(self, "definition", f"{what} the pattern {self.name!r}, given as {kind}")
        if self.score_by == "abs":
            object.__setattr__(self, "low", -1.0)

    @classmethod
    def named(cls, name: str, **options: Any) -> Pattern:
        """The patterns that TransformerLens has by name: previous_token_head, duplicate_token_head, induction_head.

        Raises:
            InputError: another name.
        """
        known: dict[str, dict[str, Any]] = {
            "previous_token_head": {"offsets": (1,)},
            "duplicate_token_head": {"labels": lambda tokens: (tokens.ids, tokens.ids), "strict": True},
            "induction_head": {"labels": lambda tokens: (tokens.ids, previous_ids(tokens.ids[None])[0])},
        }
        if not isinstance(name, str) or name not in known:
            from interp.naming import nearest

            raise InputError(f"unknown pattern {name!r}; {nearest(str(name), known)}")
        return cls(name=name, **known[name], **options)

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        """Scores on the text of ``setting``, in its windows."""
        assert setting.text is not None
        batches = list(batches_of(model, setting.text, setting.window, beyond_context=setting.beyond_context))
        return self._scored(model, batches, setting.beyond_context)

    def scores(self, model: HookedModel, inputs: Inputs | Batch, *, beyond_context: bool = False) -> HeadScores:
        """Scores of every head on ``inputs``, as of ``HookedModel.capture``; a sample is a sequence.

        Raises:
            InputError: a pattern that does not fit the inputs or the model, or that has no cell in any sequence.
        """
        from interp.scores import HeadScores, Measured

        batches = list(batches_of(model, inputs, None, beyond_context=beyond_context))
        scored = self._scored(model, batches, beyond_context)
        settings = {
            "detectors": [self.name],
            "inputs": {self.name: scored.described},
            "ranges": {self.name: [self.low, self.high]},
            "methods": {self.name: self.facts()},
            "sha256": [checksum(batch) for batch in batches],
            "model": model.facts(),
        }
        measured = {self.name: Measured([scored.scores], [scored.chance])}
        return HeadScores.from_samples(measured, [self], single_stack(model, "a pattern"), settings)

    def _scored(self, model: HookedModel, batches: Sequence[Batch], beyond_context: bool) -> Scored:
        layers = single_stack(model, f"pattern {self.name!r}")
        cells = [self._cells(model, batch) for batch in batches]
        scores, chance = [], []
        for batch, of_batch in zip(batches, cells, strict=True):
            road = by_tiles if of_batch.tile is not None else by_probes
            found, uniform = road(model, batch, layers, of_batch, beyond_context)
            scores.append(self._score(found))
            chance.append(self._score(uniform)[..., 0])
        all_scores = torch.cat(scores)
        if bool(torch.isnan(all_scores).all()):
            raise InputError(
                f"pattern {self.name!r}: the inputs hold no pair of tokens that it marks and that counts, so no score is "
                "defined; give other inputs"
            )
        left_out = ["the first column"] * self.exclude_bos + ["the diagonal"] * self.exclude_current_token
        described = (
            f"{len(all_scores)} sequences of up to {max(batch.tokens for batch in batches)} positions, scored by {self.score_by}"
            + (f" without {' and '.join(left_out)}" if left_out else "")
        )
        return Scored(all_scores, torch.cat(chance), described)

    def _score(self, sums: Sums) -> Tensor:
        """[S, L, H] from sums over cells; NaN where the pattern has no cell, or no attention counts."""
        score = sums.both / sums.attention if self.score_by == "mul" else 1 - sums.apart / sums.length
        return torch.where((sums.pattern > 0) & (sums.attention > 0), score, torch.nan)

    def _cells(self, model: HookedModel, batch: Batch) -> Cells:
        """The pattern on one batch, checked."""
        assert batch.ids is not None
        keep = torch.ones_like(batch.ids, dtype=torch.bool) if batch.keep is None else batch.keep
        causal = model.shape.is_causal
        if self.offsets is not None and causal and min(self.offsets) < 0:
            raise InputError(
                f"pattern {self.name!r}: offset {min(self.offsets)} lies ahead of the query, and {model.name} looks back only"
            )
        rows = [
            Tokens(ids[kept], model.token_strings(ids[kept].tolist()))
            for ids, kept in zip(batch.ids, keep, strict=True)
        ]
        made = {"keep": keep, "causal": causal, "bos": self.exclude_bos, "current": self.exclude_current_token}
        if self.offsets is not None:
            return Cells(**made, offsets=tuple(self.offsets))
        if self.labels is not None:
            return Cells(**made, labels=self._labelled(rows, keep), strict=self.strict)
        if self.keys is not None:
            marked = torch.zeros_like(keep)
            for number, tokens in enumerate(rows):
                given = self._asked(self.keys(tokens), "keys", tokens, (torch.bool,))
                marked[number, keep[number]] = given.to(keep.device)
            return Cells(**made, keys=marked)
        if self.dense is not None:
            for tokens in rows:
                if len(tokens.ids) != len(self.dense):
                    raise InputError(
                        f"pattern {self.name!r}: dense: it is for inputs of {len(self.dense)} tokens, got one of "
                        f"{len(tokens.ids)}"
                    )
            if causal and bool(self.dense.triu(1).any()):
                raise InputError(
                    f"pattern {self.name!r}: dense: it has cells above the diagonal, and {model.name} looks back only"
                )
        return Cells(**made, tile=self._tile_of(rows))

    def _tile_of(self, rows: Sequence[Tokens]) -> Callable[[int, Tensor, Tensor], Tensor]:
        """A function of (sequence, i, j), positions [r] and [c], that gives D [r, c]."""

        def tile(number: int, i: Tensor, j: Tensor) -> Tensor:
            if self.dense is not None:
                return self.dense.to(i.device)[i[:, None], j[None]]
            assert self.where is not None
            given = self.where(i[:, None], j[None], rows[number])
            shape = (len(i), len(j))
            is_tile = isinstance(given, Tensor) and given.dtype == torch.bool
            try:
                return given.expand(shape).to(i.device).double() if is_tile else _refuse()
            except (RuntimeError, TypeError):
                came = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else repr(given)
                raise InputError(
                    f"pattern {self.name!r}: where: expected a bool tensor {list(shape)} for i {[len(i), 1]} and j "
                    f"{[1, len(j)]}, got {came:.80}"
                ) from None

        return tile

    def _labelled(self, rows: Sequence[Tokens], keep: Tensor) -> tuple[Tensor, Tensor]:
        assert self.labels is not None
        sides = torch.full((2, *keep.shape), -1, dtype=torch.int64, device=keep.device)
        for number, tokens in enumerate(rows):
            given = self.labels(tokens)
            if not isinstance(given, tuple) or len(given) != 2:
                raise InputError(
                    f"pattern {self.name!r}: labels: expected two tensors, of the queries and of the keys, got {given!r:.60}"
                )
            for side, labels in zip(sides, given, strict=True):
                side[number, keep[number]] = self._asked(labels, "labels", tokens, INTEGERS).long().to(keep.device)
        return sides[0], sides[1]

    def _asked(self, given: Any, kind: str, tokens: Tokens, types: tuple[torch.dtype, ...]) -> Tensor:
        """What a user's function gave for a sequence, if it has one entry a token."""
        size = len(tokens.ids)
        if not isinstance(given, Tensor) or given.dtype not in types or tuple(given.shape) != (size,):
            came = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else repr(given)
            wanted = "bool" if types == (torch.bool,) else "integers"
            raise InputError(f"pattern {self.name!r}: {kind}: expected {wanted} [{size}], one a token, got {came:.80}")
        return given


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _refuse() -> Tensor:
    raise TypeError


def _offsets(name: str, given: Any) -> tuple[int, ...]:
    found = [given] if type(given) is int else list(given) if isinstance(given, Sequence) else []
    if not found or any(type(d) is not int for d in found) or len(set(found)) < len(found):
        raise InputError(
            f"pattern {name!r}: offsets: expected different whole numbers such as (1, 2), got {given!r:.60}"
        )
    return tuple(found)


def _dense(name: str, given: Any) -> Tensor:
    try:
        dense = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"pattern {name!r}: dense: expected numbers [T, T], got {given!r:.60}") from None
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1] or not 1 <= len(dense) <= LARGEST_DENSE:
        raise InputError(
            f"pattern {name!r}: dense: expected [T, T] with T up to {LARGEST_DENSE:,}, got {list(dense.shape)}; longer "
            "patterns as where="
        )
    if not bool(torch.isfinite(dense).all()):
        raise InputError(f"pattern {name!r}: dense: it holds NaN or infinity; expected finite numbers")
    return dense
