"""Attention scores and patterns that are not computed: what a bridge's own attention code handles while its layer runs fused.

TransformerLens rebuilds attention step by step: scores, scale, soft cap, mask, sinks, softmax, values. That code runs as it
is, with every hook in it, but its first product (queries times keys) gives a ``Scores`` object that notes the steps, and its
last one (pattern times values) makes the one fused call that they describe. A step that is not known is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from interp.errors import InputError, RunError


class _Symbol:
    """Something that torch's functions hand to ``apply`` in place of a tensor."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args[0][0] if isinstance(args[0], list | tuple) else args[0]
        if isinstance(given, _Symbol):
            return given.apply(func, args, kwargs or {})
        raise _unknown(func)

    def apply(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        raise _unknown(func)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} stands for a tensor that is not computed and has no {name!r}")


@dataclass(frozen=True, eq=False)
class Scores(_Symbol):
    """s_ij = outer tanh(scale q_i . k_j), or scale q_i . k_j without tanh; with a mask and sink logits beside it.

    given: what the bridge was handed as attention mask: our Mask, a tensor, or None
    """

    q: Tensor  # [B, Hq, Tq, D]
    k: Tensor  # [B, Hq, Tk, D]
    scale: float = 1.0
    outer: float | None = None
    given: Any = None
    sinks: Tensor | None = None  # [B, Hq, Tq, 1]

    @property
    def dtype(self) -> torch.dtype:
        return self.q.dtype

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.q.shape[:3], self.k.shape[2]))

    def masked(self, given: Any) -> Self:
        return replace(self, given=given)

    def softmax(self) -> Pattern:
        return Pattern(self)

    def __mul__(self, factor: float | Tensor) -> Self:
        if self.outer is None:
            return replace(self, scale=self.scale * float(factor))
        return replace(self, outer=self.outer * float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | Tensor) -> Self:
        if self.outer is None:
            return replace(self, scale=self.scale / float(divisor))
        return replace(self, outer=self.outer / float(divisor))

    def __sub__(self, other: object) -> Self:
        if not isinstance(other, _RowMaximum):
            raise _unknown("subtraction")
        return self

    def max(self, *, dim: int, keepdim: bool) -> _RowMaximum:
        if dim != -1 or not keepdim:
            raise _unknown("max")
        return _RowMaximum()

    def to(self, dtype: torch.dtype) -> Self:
        return self

    def apply(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is torch.tanh and self.outer is None:
            return replace(self, outer=1.0)
        if func is functional.softmax and (args[1:2] or [kwargs.get("dim")])[0] == -1:
            return self.softmax()
        if func is torch.cat and kwargs.get("dim") == -1 and self.sinks is None and len(args[0]) == 2:
            return replace(self, sinks=args[0][1])
        raise _unknown(func)


@dataclass(frozen=True, eq=False)
class Pattern(_Symbol):
    """softmax(s) over the keys. ``has_sink_column``: the last column is that of the sinks."""

    scores: Scores
    has_sink_column: bool = True

    def __post_init__(self) -> None:
        if self.scores.sinks is None:
            object.__setattr__(self, "has_sink_column", False)

    @property
    def dtype(self) -> torch.dtype:
        return self.scores.dtype

    def to(self, dtype: torch.dtype) -> Self:
        return self

    def __getitem__(self, index: Any) -> Self:
        if index != (..., slice(None, -1)) or not self.has_sink_column:
            raise _unknown("indexing")
        return replace(self, has_sink_column=False)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``interp.models.arguments.attention_call``."""
        if self.has_sink_column:
            raise _unknown("a product with the column of the sinks")
        s = self.scores
        # outer tanh(scale x) = c tanh(c scale x / c) with c = outer.
        scaling = s.scale if s.outer is None else s.scale * s.outer
        return {"scaling": scaling, "softcap": s.outer, "sinks": None if s.sinks is None else _narrow(s.sinks)}

    def apply(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is functional.dropout:
            training = kwargs.get("training", args[2] if len(args) > 2 else True)
            probability = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            if training and probability:
                raise InputError(f"attention dropout {probability} is on; call bridge.eval() first")
            return self
        raise _unknown(func)


@dataclass(frozen=True)
class _RowMaximum:
    """Subtracted before the softmax, which does not change it."""

    @property
    def values(self) -> Self:
        return self


def _narrow(sinks: Tensor) -> Tensor:
    """[Hq] where all rows of a head have one sink logit, else [B, Hq, Tq]."""
    rows = sinks[..., 0]
    head = rows[0, :, 0]
    return head if bool((rows == head[None, :, None]).all()) else rows


def _unknown(what: Any) -> RunError:
    name = what if isinstance(what, str) else getattr(what, "__name__", repr(what))
    return RunError(
        f"this bridge does something with its attention scores that interp does not know ({name}); load the model through "
        "transformers, or put a hook on hook_pattern, which makes the layer run dense"
    )
