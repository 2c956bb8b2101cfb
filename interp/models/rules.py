"""Reads a mask function of transformers by running it on symbols, which torch.compile can trace.

``causal(batch, head, query, key)`` says ``key <= query``: run on the symbols below, that comparison gives a Mask. Names and
closures of functions, by which ``visibility`` knows them elsewhere, are out of reach while a graph is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError
from interp_kernels import Mask


def mask_by_symbols(function: Callable[..., Any]) -> Mask:
    """The Mask of a function made of causal, full and sliding-window rules and their conjunctions.

    Raises:
        InputError: it says something else.
    """
    rule = function(None, None, _Query(), _Key())
    if not isinstance(rule, _Rule) or (rule.bounds_the_past_alone and not rule.mask.is_causal):
        raise InputError(
            "this model's attention mask is not made of causal, full and sliding-window rules; such a mask is captured "
            "without torch.compile only"
        )
    return rule.mask


@dataclass(frozen=True)
class _Rule:
    """What a comparison of symbols says. ``bounds_the_past_alone``: the Mask's window holds beside a causal rule only."""

    mask: Mask
    bounds_the_past_alone: bool = False
    device: None = None

    def to(self, device: None) -> _Rule:
        return self

    def __and__(self, other: _Rule) -> _Rule:
        return _Rule(self.mask & other.mask, self.bounds_the_past_alone or other.bounds_the_past_alone)


@dataclass(frozen=True)
class _Behind:
    """The position so many keys before the query's."""

    keys: int


class _Distance:
    """Between query and key."""

    def __abs__(self) -> _Distance:
        return self

    def __le__(self, most: int) -> _Rule:
        return _Rule(Mask.full(window=most + 1))


class _Query:
    def new_ones(self, shape: tuple[()], dtype: Any) -> _Rule:
        return _Rule(Mask.full())

    def __ge__(self, position: int) -> _Rule:
        return _Rule(Mask.full())

    def __sub__(self, other: _Key | int) -> _Distance | _Behind:
        return _Distance() if isinstance(other, _Key) else _Behind(other)


class _Key:
    def __le__(self, query: _Query) -> _Rule:
        return _Rule(Mask.causal())

    def __gt__(self, behind: _Behind) -> _Rule:
        return _Rule(Mask.full(window=behind.keys), bounds_the_past_alone=True)
