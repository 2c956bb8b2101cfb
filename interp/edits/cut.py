"""Cut edges: chosen queries no longer see chosen keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from interp.arguments import check_dense, shown, switch
from interp.edits.edit import Edit, Heads
from interp.edits.narrow import MAX_CLASSES, compute_dtype, of_heads, row_sinks, with_class_bias, with_row_sinks
from interp.edits.positions import FURTHEST, Positions, Where
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.layers import LayerKey
from interp_kernels.integers import whole_numbers


def cut(
    *,
    queries: Where = None,
    keys: Where = None,
    pairs: Iterable[tuple[int, int]] | None = None,
    heads: Heads = "all",
    layers: Iterable[LayerKey] | None = None,
    renormalize: bool = True,
) -> Edit:
    """Cut the edges from ``queries`` to ``keys``, every one to every one, or those in ``pairs``.

    With C_i the keys that are cut from query i, before the softmax, so that the row's other keys share all of its mass:

        P'_ij = 0 for j in C_i,    P_ij / (1 - sum_(k in C_i) P_ik) for the others    (with sinks, these take their share too)

    With ``renormalize=False``, after the softmax: P'_ij = 0 for j in C_i and P_ij for the others, so that the row sums to less
    than 1. A row whose every key is cut gives output 0. Attention knockout of Geva et al. (arXiv 2304.14767) is the former.

    Cost: none beyond the pass itself; without renormalisation one pass more over the chosen heads, without their values.

    Args:
        queries, keys: see ``Where``; None is all.
        pairs: (query, key) positions, of all sequences of the batch, in place of queries and keys. Their keys may differ in at
            most 255 ways by the set of queries that they are cut from.
        heads: which heads, "all" by default.
        layers: with heads="all", which layers.

    Raises:
        InputError: positions that cannot be read, pairs beside queries or keys, or pairs that make too many classes of keys.
    """
    renormalize = switch("cut: renormalize", renormalize)
    if pairs is None:
        if queries is None and keys is None:
            raise InputError("cut: expected queries=, keys= or both, or pairs=; without them every edge would be cut")
        edges: Edges = Block(Positions.of("cut: queries", queries), Positions.of("cut: keys", keys))
    elif queries is None and keys is None:
        edges = Pairs.of(pairs)
    else:
        raise InputError("cut: give either pairs=, or queries= and keys=, not both")
    return Cut(heads=heads, layers=layers, edges=edges, renormalize=renormalize)


class Edges(Protocol):
    """Edges as classes of keys: those of one class are cut from the same queries."""

    def of_call(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Which class is cut from which query, bool [1|B, Tq, C], and the class of each key, int64 [1|B, Tk].

        Class 0 is cut from none.
        """
        ...


@dataclass(frozen=True, eq=False)
class Block:
    """Every edge from some queries to some keys."""

    queries: Positions
    keys: Positions

    def of_call(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        rows = self.queries.among_queries(call)
        return torch.stack([torch.zeros_like(rows), rows], dim=-1), self.keys.among_keys(call).long()

    def __repr__(self) -> str:
        return f"<queries {self.queries}, keys {self.keys}>"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Single edges, with their keys sorted into classes of equal sets of queries.

    rows     for each class but 0, the queries that it is cut from
    columns  for each class but 0, its keys
    """

    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, pairs: Any) -> Pairs:
        if isinstance(pairs, Tensor):
            check_dense("cut: pairs", pairs)
        if isinstance(pairs, Tensor | np.ndarray):
            pairs = pairs.tolist()
        if not isinstance(pairs, Iterable) or isinstance(pairs, str):
            raise InputError(f"cut: expected pairs of positions such as [(5, 0), (6, 1)], got {shown(pairs, 60)}")
        cut_from: defaultdict[int, set[int]] = defaultdict(set)
        for pair in pairs:
            found = whole_numbers(pair)
            if found is None or len(found) != 2 or not 0 <= min(found) <= max(found) < FURTHEST:
                raise InputError(f"cut: expected pairs of positions (query, key), both from 0 on, got {pair!r:.60}")
            cut_from[found[1]].add(found[0])
        if not cut_from:
            raise InputError("cut: expected at least one pair of positions (query, key), got none")
        classes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for key in sorted(cut_from):
            classes[tuple(sorted(cut_from[key]))].append(key)
        if len(classes) >= MAX_CLASSES:
            raise InputError(
                f"cut: the keys of these pairs are cut from {len(classes)} different sets of queries, at most "
                f"{MAX_CLASSES - 1} are possible; give whole blocks as queries= and keys=, or cut fewer keys at once"
            )
        return cls(tuple(classes), tuple(tuple(keys) for keys in classes.values()))

    def of_call(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        device = call.q.device
        i = torch.arange(call.first_query, call.first_query + call.q.shape[2], device=device)
        j = torch.arange(call.first_key, call.first_key + call.k.shape[2], device=device)
        classes = torch.zeros_like(j)
        rows = [torch.zeros_like(i, dtype=torch.bool)]
        for number, (queries, keys) in enumerate(zip(self.rows, self.columns, strict=True), start=1):
            classes = torch.where(torch.isin(j, torch.tensor(keys, device=device)), number, classes)
            rows.append(torch.isin(i, torch.tensor(queries, device=device)))
        return torch.stack(rows, dim=-1)[None], classes[None]

    def __repr__(self) -> str:
        edges = sum(len(rows) * len(keys) for rows, keys in zip(self.rows, self.columns, strict=True))
        return f"<{edges} pairs>"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Cut(Edit):
    """See ``cut``.

    Without renormalisation. Let L_i = ln sum_(j in C_i) exp(s_ij) be the log-sum-exp of the cut keys, as a pass over them
    alone gives it, and t_i the row's sink logit (-inf where there is none). Hide the cut keys and let a sink with the logit
    ln(exp(t_i) + exp(L_i)) stand in the row: then it is normalised by the same sum as before,

        sum_(j not in C_i) exp(s_ij) + exp(t_i) + exp(L_i) = sum_j exp(s_ij) + exp(t_i),

    so that P'_ij = P_ij for the keys that are left. All of it is in logarithms: no mass is too small.
    """

    name = "cut"

    edges: Edges
    renormalize: bool

    def edited_call(self, call: AttentionCall, heads: tuple[int, ...]) -> AttentionCall:
        is_cut, classes = self.edges.of_call(call)
        is_cut, classes = is_cut[:, None], classes[:, None]
        edited = with_class_bias(call, heads, _hiding(is_cut, call.q), classes)
        if self.renormalize:
            return edited
        alone = replace(of_heads(call, heads), sinks=None)
        with torch.no_grad():
            cut_away = with_class_bias(alone, range(len(heads)), _hiding(~is_cut, call.q), classes).attend().lse
        return with_row_sinks(edited, heads, torch.logaddexp(row_sinks(call, heads), cut_away))


def _hiding(hidden: Tensor, like: Tensor) -> Tensor:
    """0 where a class is seen, -inf where it is hidden."""
    return torch.zeros_like(hidden, dtype=compute_dtype(like)).masked_fill(hidden, -torch.inf)
