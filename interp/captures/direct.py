"""The direct path: how a model's logits depend on what its layers write, with everything else held as it is.

A run is watched function by function. Only what is linear is followed: additions, products with what is held fixed, changes of
shape, norms with their scale (the root mean square or the standard deviation of the actual input) held fixed, the output
projections and the unembedding. Attention, MLPs and all else that is not linear give numbers that do not move. Along that path a
logit is a sum of parts, one for each thing that was ever added to the residual stream; autograd gives each part's weight.

No name of a module is asked for but the unembedding, which transformers names. Whether all was followed that should have been is
for the caller to check: the parts must add up to the logit. Memory: that of the model's run, and of each part the rows that are
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.captures.direct_path import WRITING, DirectPath, Source
from interp.errors import InputError
from interp.models.editing import edits_in_force

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel


@dataclass(eq=False)
class DirectRun:
    """What a run left: the graph from ``sources`` to ``final`` and ``logits``.

    final   what the unembedding took in, [N, d_model]
    raw     what the unembedding gave, [N, vocabulary]
    logits  the model's own, [N, vocabulary]; without a graph where something that is not linear (a soft cap) made them of raw
    """

    sources: list[Source]
    final: Tensor
    raw: Tensor
    logits: Tensor

    @property
    def is_capped(self) -> bool:
        return not self.logits.requires_grad


def direct_run(
    model: HookedModel, batch: Batch, rows: tuple[Tensor, Tensor], *, watch: Callable[[DirectPath], Any] | None = None
) -> DirectRun:
    """Run ``batch`` once and follow the direct path of ``rows``: sequences [N] and columns [N]. Edits in force apply.

    watch: called with the path before the run, to add hooks of its own

    Raises:
        InputError: the model has no unembedding, or no stack of blocks that leads to it.
    """
    unembedding = unembedding_of(model)
    path = DirectPath(blocks_of(model), sequence_shape(batch), rows)
    inner = model.host.inner
    path.parameters = {id(p) for p in inner.parameters()}
    with ExitStack() as stack:
        stack.callback(path.close)
        path.hook_blocks()
        path.hook_unembedding(unembedding)
        if watch is not None:
            watch(path)
        stack.enter_context(edits_in_force(model.host.layers, [path.edit]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(path)
        last = model.run(batch, lambda call: (), lambda call, attended: None, logits=True, differentiable=True)
    if path.final is None or path.raw is None:
        raise InputError(
            f"{model.name}: its logits are not what its unembedding, a {type(unembedding).__name__}, gives"
        )
    return DirectRun(path.sources, path.final[0], path.raw[0], last[0])


def sequence_shape(batch: Batch) -> tuple[int, int]:
    """Sequences and columns of what the logits belong to: of an encoder-decoder the decoder's."""
    given = batch.others.get("decoder_input_ids", batch.ids)
    x = batch.others["inputs_embeds"] if given is None else given
    return x.shape[0], x.shape[1]


def unembedding_of(model: HookedModel) -> nn.Module:
    """The layer that gives logits of tokens.

    Raises:
        InputError: there is none, or it gives something else.
    """
    if not hasattr(model.host.inner, "get_output_embeddings"):
        raise InputError(
            f"{model.name} ({type(model.model).__name__}): what writes into logits is told of models of transformers, which name "
            f"their unembedding, and this holds a {type(model.host.inner).__name__}; load the model from transformers, or a "
            "bridge around it"
        )
    try:
        found = model.host.inner.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        found = None
    weight = getattr(found, "weight", None)
    if (
        not isinstance(found, nn.Module)
        or not isinstance(weight, Tensor)
        or weight.ndim != 2
        or not model.shape.vocabulary
    ):
        raise InputError(
            f"{model.name} ({type(model.model).__name__}) has no unembedding, so that nothing is written into logits of tokens; "
            "load the model with its language-model head"
        )
    return found


def blocks_of(model: HookedModel) -> list[nn.Module]:
    """The blocks that hold the layers which write into the logits' residual stream, in their order.

    Raises:
        InputError: they do not stand in one list, or one of them runs several times (ALBERT).
    """
    writing = [[layer for layer in served if layer.stack in WRITING] for served in model.host.layers.values()]
    if any(len(served) > 1 for served in writing):
        raise InputError(
            f"{model.name} ({type(model.model).__name__}): its layers share their blocks, whose runs cannot be told apart, so "
            "that what they write cannot be followed"
        )
    layers = [layer for served in writing for layer in served]
    lists = {match[1] for layer in layers if (match := re.match(r"(.*?)\.?(\d+)(?:\.|$)", layer.path))}
    if len(lists) != 1:
        raise InputError(
            f"{model.name} ({type(model.model).__name__}): its layers do not stand in one list of blocks, so that what they "
            "write cannot be followed"
        )
    return list(model.host.inner.get_submodule(lists.pop()).children())
