"""One run forward and back: what a number computed from the logits owes to every head's output and to the input.

O(T) memory: the backward pass of ``attend`` recomputes the map tile by tile, and what is kept of it is lazy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import InputError, RunError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.call import AttentionCall
from interp.models.editing import edits_on
from interp.models.layers import LayerKey
from interp_kernels import Attended, AttentionMap

if TYPE_CHECKING:
    from interp.models.attention import Edit
    from interp.models.hooked import HookedModel

Objective = Callable[[Tensor], Tensor]
"""From the logits (or the last hidden state) to the scalar that is differentiated."""


@dataclass(frozen=True, eq=False)
class LayerGradient:
    """One layer of a run that was differentiated.

    output    z [B, Hq, Tq, Dv], the heads' outputs as handed to the model
    gradient  dF/dz, the same shape
    map       the lazy map; ``map.weighted_by(reaching)`` is the lazy map of max(0, P dF/dP)
    reaching  the gradient that reaches the map: dF/dz before edits of z. Without such edits it is ``gradient``; of an ablated
              head it is 0
    """

    output: Tensor
    gradient: Tensor
    map: AttentionMap
    reaching: Tensor


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradient of a scalar F of one run.

    value       F
    logits      what it was computed from, [B, T, vocabulary] (or the last hidden state), without gradient
    layers      of each layer that was asked for
    embeddings  what the model's input embedding gave, and the gradient of F with respect to it, [B, T, d] each; of a model with
                several (an encoder and a decoder, two towers) in the order in which they ran
    batch       what was run
    """

    value: float
    logits: Tensor
    layers: dict[LayerKey, LayerGradient]
    embeddings: tuple[tuple[Tensor, Tensor], ...]
    batch: Batch


def gradients(
    model: HookedModel,
    inputs: Inputs | Batch,
    objective: Objective,
    layers: Iterable[LayerKey] | None = None,
    *,
    logits: bool = True,
    beyond_context: bool = False,
) -> Gradients:
    """Run ``model`` on ``inputs`` and differentiate ``objective`` with respect to every head's output.

    The model's parameters collect no gradient. Edits in force apply.

    Args:
        objective: a differentiable function of the logits [B, T, vocabulary] that gives one number; where padding stands is in
            the batch (``model.batch(inputs).keep``).
        layers: as for ``HookedModel.capture``.
        logits: False: ``objective`` is given the last hidden state.

    Raises:
        InputError: inputs or layers that do not fit; an objective that gives no scalar, or one that depends on nothing.
        RunError: NaN or infinity in the run or in a gradient.
    """
    wanted = model.wanted_layers(layers)
    batch = model.checked(inputs, beyond_context=beyond_context)
    found: dict[LayerKey, Attended] = {}
    calls: dict[LayerKey, AttentionCall] = {}

    def record(call: AttentionCall, attended: Attended) -> None:
        if call.layer.key in wanted:
            found[call.layer.key] = attended
            calls[call.layer.key] = call

    with torch.enable_grad(), _embedded(model) as embedded:
        last = model.run(batch, lambda call: (), record, logits=logits, differentiable=True)
        value = objective(last)
        _check_scalar(value)
        model.check_ran(found, wanted if layers is not None else ())
        outputs = [attended.output for attended in found.values()]
        grads = torch.autograd.grad(value, [*outputs, *embedded], allow_unused=True)
    if all(gradient is None for gradient in grads):
        raise InputError("objective: it depends on nothing that the layers write; compute it from what it is given")
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip([*outputs, *embedded], grads, strict=True)]
    for layer, gradient in zip(found, filled, strict=False):
        if not bool(torch.isfinite(gradient).all()):
            raise RunError(f"layer {layer}: NaN or infinity in the gradient of its heads' outputs; check the objective")
    edits = edits_on(model.host.layers)
    of_layers = {
        layer: LayerGradient(
            attended.output.detach(),
            gradient,
            _detached(attended.map),
            _before_edits(edits, calls[layer], attended.output, gradient),
        )
        for (layer, attended), gradient in zip(found.items(), filled, strict=False)
    }
    of_inputs = [(x.detach(), gradient) for x, gradient in zip(embedded, filled[len(outputs) :], strict=True)]
    return Gradients(float(value.detach()), last.detach(), of_layers, tuple(of_inputs), batch)


def _before_edits(edits: Sequence[Edit], call: AttentionCall, output: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in front of the edits of a layer's output, which are affine: where they are differentiated does not matter."""
    with torch.enable_grad():
        before = output.detach().requires_grad_()
        after = before
        for edit in edits:
            after = edit.output(call, after)
    if after is before:
        return gradient
    if not after.requires_grad:
        return torch.zeros_like(gradient)
    (reaching,) = torch.autograd.grad(after, before, gradient, allow_unused=True)
    return torch.zeros_like(gradient) if reaching is None else reaching


@contextmanager
def _embedded(model: HookedModel) -> Iterator[list[Tensor]]:
    """What input embeddings give this thread while it lasts. It requires a gradient, also where all parameters are frozen."""
    embedded: list[Tensor] = []
    here = threading.get_ident()

    def hook(module: Any, given: Any, output: Any) -> Any:
        if threading.get_ident() != here or not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        root = output.detach().requires_grad_()
        embedded.append(root)
        return root.clone()  # some models go on in place

    handles = [embedding.register_forward_hook(hook) for embedding in input_embeddings(model.host.inner)]
    try:
        yield embedded
    finally:
        for handle in handles:
            handle.remove()


def input_embeddings(model: nn.Module) -> set[nn.Module]:
    """The input embeddings of a model and of its parts: an encoder and a decoder may each have one."""
    found: set[nn.Module] = set()
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            with suppress(NotImplementedError, AttributeError):
                found.add(part.get_input_embeddings())
    return {embedding for embedding in found if isinstance(embedding, nn.Module)}


def _detached(lazy: AttentionMap) -> AttentionMap:
    """The map without the graph of the run, which would keep its activations alive."""
    operands = lazy.operands
    tensors = {name: x.detach() for name, x in vars(operands).items() if isinstance(x, Tensor)}
    return replace(lazy, operands=replace(operands, **tensors), lse=lazy.lse.detach())


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        came = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(f"objective: expected a function that gives one number as a tensor, got {came:.80}")
    if not value.requires_grad:
        raise InputError("objective: what it gives has no gradient; compute it from what it is given, without detach()")
    if not bool(torch.isfinite(value)):
        raise RunError(f"objective: it gave {float(value.detach())}; a finite number is needed")
