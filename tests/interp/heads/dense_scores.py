"""Each detector by its definition, from dense maps and token ids alone. Shares no code with interp.

A is one sequence's map [H, T, T]. A score is [H]; None where no query counts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def previous_token(a: Tensor, ids: list[int]) -> Tensor:
    return torch.stack([a[:, i, i - 1] for i in range(1, len(ids))]).mean(0)


def next_token(a: Tensor, ids: list[int]) -> Tensor:
    """Of encoders alone, and therefore not among ``ORACLES``."""
    return torch.stack([a[:, i, i + 1] for i in range(len(ids) - 1)]).mean(0)


def current_token(a: Tensor, ids: list[int]) -> Tensor:
    return torch.stack([a[:, i, i] for i in range(len(ids))]).mean(0)


def first_token_sink(a: Tensor, ids: list[int]) -> Tensor:
    return torch.stack([a[:, i, 0] for i in range(len(ids))]).sum(0) / len(ids)


def hidden_sink(a: Tensor, ids: list[int]) -> Tensor:
    """The largest column but the first, of those that at least 10 queries follow; each over the queries that see it."""
    columns = []
    for k in range(1, len(ids) - 10):
        seen = [i for i in range(len(ids)) if float(a[:, i, k].max()) > 0]
        columns.append(a[:, seen, k].sum(-1) / len(seen))
    return torch.stack(columns).max(0).values


def duplicate_token(a: Tensor, ids: list[int]) -> Tensor | None:
    """Mass on earlier copies, mean over the queries that have one."""
    found = []
    for i, token in enumerate(ids):
        copies = [j for j in range(i) if ids[j] == token]
        if copies:
            found.append(a[:, i, copies].sum(-1))
    return torch.stack(found).mean(0) if found else None


def induction(a: Tensor, ids: list[int]) -> Tensor:
    """ids: perhaps BOS, then N tokens, twice. Mean over the second half of A[i, i-(N-1)]."""
    n = len(ids) // 2
    assert ids[-n:] == ids[-2 * n : -n]
    return torch.stack([a[:, i, i - (n - 1)] for i in range(len(ids) - n, len(ids))]).mean(0)


def induction_text(a: Tensor, ids: list[int]) -> Tensor | None:
    """Mass on tokens that follow an earlier copy of the query's token, mean over the queries whose token came before."""
    found = []
    for i, token in enumerate(ids):
        if token in ids[:i]:
            after = [j for j in range(1, i + 1) if ids[j - 1] == token]
            found.append(a[:, i, after].sum(-1))
    return torch.stack(found).mean(0) if found else None


def copying(a: Tensor, ids: list[int]) -> Tensor | None:
    """Mass on tokens up to the query that equal the next token, mean over the queries that have one."""
    found = []
    for i in range(len(ids) - 1):
        equal = [j for j in range(i + 1) if ids[j] == ids[i + 1]]
        if equal:
            found.append(a[:, i, equal].sum(-1))
    return torch.stack(found).mean(0) if found else None


def broad(a: Tensor, ids: list[int]) -> Tensor | None:
    """What is not on the strongest key, of the attention on keys; mean over the queries from the tenth on."""
    found = [1 - a[:, i].max(-1).values / a[:, i].sum(-1) for i in range(9, len(ids))]
    return torch.stack(found).mean(0) if found else None


ORACLES: dict[str, Callable[[Tensor, list[int]], Tensor | None]] = {
    each.__name__: each
    for each in (
        previous_token,
        current_token,
        first_token_sink,
        hidden_sink,
        duplicate_token,
        induction,
        induction_text,
        copying,
        broad,
    )
}


def uniform(visible: Tensor) -> Tensor:
    """The map that gives each visible key the same. visible: bool [T, T] -> [1, T, T]."""
    return (visible / visible.sum(dim=-1, keepdim=True))[None].double()
