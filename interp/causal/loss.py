"""What a model loses on each token: cross-entropy in nats, padding left out, in slices of the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.inputs.reads import Reads

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

SLICE = 2**22
"""Logits that are exponentiated at a time, 16 MB of float32: the T x vocabulary logits are held once, never a second time."""


def token_losses(model: HookedModel, inputs: Inputs | Batch, *, beyond_context: bool = False) -> Tensor:
    """-ln p(token_(t+1) | tokens up to t), in nats: [B, T - 1], float32 (float64 of a float64 model).

    NaN where t or t + 1 is padding. Edits in force apply. Packed documents count as one text. One forward run; memory: its own,
    the logits, and a slice of them in float32.

    Raises:
        InputError: inputs that do not fit; a model that does not predict the next token; no sequence of two tokens.
        RunError: NaN or infinity in the logits.
    """
    check_predicts(model)
    batch = model.checked(inputs, beyond_context=beyond_context)
    check_length(batch)
    logits = model.run(batch, lambda call: (), lambda call, attended: None, logits=True)
    return losses_of(logits, batch)


def losses_of(logits: Tensor, batch: Batch) -> Tensor:
    """The same from logits [B, T, vocabulary], which may carry a graph: gradients flow to them.

    Raises:
        InputError: the logits are not of the batch's tokens.
    """
    ids, keep = batch.ids, batch.keep
    if ids is None or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        shape = "no token ids" if ids is None else f"ids of shape {list(ids.shape)}"
        raise InputError(
            f"loss: expected logits for every token of the input, got shape {list(logits.shape)} for {shape}; give an "
            "objective or a metric of your own"
        )
    rows = max(1, SLICE // (logits.shape[0] * logits.shape[2]))
    parts = []
    for start in range(0, ids.shape[1] - 1, rows):
        stop = min(start + rows, ids.shape[1] - 1)
        given = logits[:, start:stop], ids[:, start + 1 : stop + 1]
        # Not kept for the way back but computed again: else softmax in float32 would be a second copy of the logits.
        parts.append(checkpoint(_losses, *given, use_reentrant=False) if logits.requires_grad else _losses(*given))
    losses = torch.cat(parts, dim=1)
    return losses if keep is None else losses.masked_fill(~counted(batch), torch.nan)


def counted(batch: Batch) -> Tensor:
    """Where a loss counts, [B, T - 1]: neither the token that predicts nor the one that is predicted is padding."""
    assert batch.ids is not None
    if batch.keep is None:
        return torch.ones_like(batch.ids[:, 1:], dtype=torch.bool)
    keep = batch.keep.bool()
    return keep[:, 1:] & keep[:, :-1]


def check_predicts(model: HookedModel) -> None:
    """Refuse a model that has no loss on the next token.

    Raises:
        InputError: it reads no token ids, sees both ways, or has a decoder of its own input.
    """
    shape = model.shape
    if shape.vocabulary == 0:
        why = "it reads no token ids"
    elif Reads(model.host).has_decoder:
        why = "its decoder reads another text than its encoder"
    elif not shape.is_causal:
        why = "its attention sees the token that is to be predicted"
    else:
        return
    raise InputError(
        f"{model.name} has no loss on the next token: {why}; give a metric or an objective of your own (interp.causal.Task)"
    )


def check_length(batch: Batch) -> None:
    """Refuse sequences that predict nothing.

    Raises:
        InputError: one has fewer than two tokens.
    """
    if batch.ids is None:
        raise InputError(
            "loss: expected token ids or text, got inputs without ids; give ids, so that there is a next token"
        )
    short = (~counted(batch).any(dim=1)).nonzero()[:, 0]
    if short.numel() or batch.ids.shape[1] < 2:
        number = int(short[0]) if short.numel() else 0
        raise InputError(
            f"sequence {number} of the input has one token, which predicts nothing; give at least two tokens (a text of a word)"
        )


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, n, vocabulary], [B, n] -> [B, n]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none").view(
        targets.shape
    )
