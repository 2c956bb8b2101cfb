"""What an explained number loses when one token is taken out of the input: one run for each token, many of them at once.

How a token j is taken out:

    "unk"   its id becomes the tokenizer's unknown token ("mask": its mask token; or any id that is given)
    "mean"  its input embedding becomes the mean of all tokens' input embeddings
    "zero"  its input embedding becomes 0
    "cut"   no other position attends to it: P'_ij = 0 for i != j, in every layer and head, rows sum to what they did. The
            token itself goes through the model as before, so that it still has a part where its own output is read

Abnar and Zuidema (arXiv 2005.00928) blank out by the unknown token; their code for DistilBERT takes the mask token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.captures.gradients import input_embeddings
from interp.edits.cut import cut
from interp.errors import InputError
from interp.flow.target import Explained
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Ablation = str | int
"""How a token is taken out: "unk", "mask", "mean", "zero", "cut", or the id that takes its place."""
WAYS = ("unk", "mask", "mean", "zero", "cut")
RUN_TOKENS = 8192
"""Token positions of one run, unless a single sequence is longer."""
RUN_LOGITS = 1 << 26
"""Most logits of one run, 256 MB in float32, unless a single sequence has more."""


@dataclass(frozen=True, eq=False)
class TokenAblation:
    """A way to take tokens out, looked up in a model: an id, an embedding [d], or neither for "cut"."""

    how: Ablation
    token: int | None = None
    embedding: Tensor | None = None

    @classmethod
    def of(cls, model: HookedModel, how: Ablation) -> TokenAblation:
        """
        Raises:
            InputError: no such way; the tokenizer has no such token; the model's input embedding cannot be told.
        """
        if isinstance(how, int) and not isinstance(how, bool):
            if not 0 <= how < model.shape.vocabulary:
                raise InputError(f"ablation: token id {how} is outside of the vocabulary of {model.shape.vocabulary}")
            return cls(how, token=how)
        if how not in WAYS:
            raise InputError(f"ablation: expected one of {', '.join(WAYS)}, or a token id, got {how!r}")
        if how in ("unk", "mask"):
            token = getattr(model.tokenizer, f"{how}_token_id", None)
            if token is None:
                raise InputError(f"ablation: {model.name} has no {how} token; take 'mean', or give a token id")
            return cls(how, token=int(token))
        if how == "cut":
            return cls(how)
        embedding = _embedding_of(model)
        mean = _mean(embedding, model.shape.vocabulary)
        return cls(how, embedding=mean if how == "mean" else torch.zeros_like(mean))

    def without(self, model: HookedModel, batch: Batch, columns: Tensor) -> tuple[Batch, AbstractContextManager[Any]]:
        """The batch of one sequence, once for each of ``columns`` with that token taken out, and the context to run it in."""
        assert batch.ids is not None
        count = len(columns)
        ids = batch.ids.expand(count, -1).clone()
        rows = torch.arange(count, device=ids.device)
        columns = columns.to(ids.device)
        if self.token is not None:
            ids[rows, columns] = self.token
        copies = replace(batch, ids=ids, keep=torch.ones_like(ids, dtype=torch.bool), token_rows=())
        if self.how == "cut":
            key = torch.zeros_like(ids, dtype=torch.bool)
            key[rows, columns] = True
            if ids.shape[1] == 1:
                return copies, nullcontext()
            return copies, model.edited(cut(queries=~key, keys=key))
        if self.embedding is None:
            return copies, nullcontext()
        return copies, _replaced(_embedding_of(model), rows, columns, self.embedding)


def without_each(
    model: HookedModel, batch: Batch, objective: Explained, ablation: TokenAblation, done: Callable[[int], object]
) -> Tensor:
    """F of one sequence [1, T] with each of its tokens taken out in turn, [T] in float64. T runs, batched.

    objective: of one sequence, as it was called on the whole input: its target is what was chosen there; done: told of tokens
    """
    assert batch.ids is not None
    length = batch.ids.shape[1]
    at_once = max(1, min(RUN_TOKENS // length, RUN_LOGITS // (length * max(1, model.shape.vocabulary))))
    found: list[Tensor] = []
    for columns in torch.arange(length).split(at_once):
        copies, context = ablation.without(model, batch, columns)
        with context:
            last = model.run(copies, lambda call: (), lambda call, attended: None, logits=True)
        found.append(_values(objective, last))
        done(len(columns))
    return torch.cat(found)


def _values(objective: Explained, last: Tensor) -> Tensor:
    """F of each copy, in float64."""
    if objective.own is not None:
        return torch.stack([objective.own(row[None]).double().reshape(()).cpu() for row in last])
    at = None if objective.at is None else objective.at * len(last)
    copies = Explained(objective.chosen * len(last), at, objective.why_no_at, measure=objective.measure)
    return copies.of(last).double().cpu()


def _embedding_of(model: HookedModel) -> nn.Module:
    found = input_embeddings(model.host.inner)
    if len(found) != 1:
        raise InputError(
            f"ablation: {model.name} has {len(found)} input embeddings, expected 1; take 'cut' or a token id"
        )
    return next(iter(found))


def _mean(embedding: nn.Module, vocabulary: int) -> Tensor:
    """The mean of what the embedding gives, scaled as it scales, in float64: [d]."""
    device = next(embedding.parameters()).device
    with torch.no_grad():
        parts = [embedding(ids).double().sum(dim=0) for ids in torch.arange(vocabulary, device=device).split(1 << 14)]
    return torch.stack(parts).sum(dim=0) / vocabulary


@contextmanager
def _replaced(embedding: nn.Module, rows: Tensor, columns: Tensor, vector: Tensor) -> Iterator[None]:
    """While it lasts, the embedding gives ``vector`` at [rows, columns], in this thread."""
    here = threading.get_ident()

    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        if threading.get_ident() != here:
            return output
        output = output.clone()
        output[rows, columns] = vector.to(output)
        return output

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
