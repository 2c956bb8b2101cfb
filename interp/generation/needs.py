"""What a generation will hold in memory: the statistics of its prompt, and those of every new token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp.captures.memory import LayerSize, Needs, layer_sizes, layers_of, needs_of
from interp.generation.steps import DECODING
from interp.inputs.batch import Batch
from interp.models.hooked import HookedModel
from interp.models.layers import LayerKey
from interp_kernels import Probe


def needs_of_generation(
    model: HookedModel,
    batch: Batch,
    wanted: set[LayerKey],
    prefill: Sequence[Probe],
    steps: Sequence[Probe] | None,
    new: int,
) -> Needs:
    """Bytes of the prefill's statistics, and of ``new`` steps of one row each over keys that grow by one a step.

    steps: None where probes are a function of the step, which is known only when it is asked; they are not counted.
    """
    of_prompt = needs_of(prefill, layer_sizes(model, wanted, {}, batch), batch, model.dtype, model.device)
    decoder = batch.others.get("decoder_input_ids")
    prompt = batch.tokens if decoder is None else decoder.shape[1]
    of_steps = Needs({}, 0, batch.rows, 0)
    for stack in DECODING:
        keys = batch.tokens if stack == "cross" else prompt + new // 2  # on average
        found = needs_of_step(model, batch, wanted, stack, steps or [], keys)
        parts = {name: size + of_steps.parts.get(name, 0) for name, size in found.parts.items()}
        of_steps = replace(of_steps, parts=parts, layers=of_steps.layers + found.layers)
    return replace(
        of_prompt,
        parts={
            **{f"{name} of the prompt": size for name, size in of_prompt.parts.items()},
            **{f"{name} of {new:,} new tokens": size * new for name, size in of_steps.parts.items()},
        },
        layers=max(of_prompt.layers, of_steps.layers),
        tokens=prompt + new,
        averaged=None,  # a step cannot be averaged
    )


def needs_of_step(
    model: HookedModel, batch: Batch, wanted: set[LayerKey], stack: str, probes: Sequence[Probe], keys: int
) -> Needs:
    """Bytes of one step in one stack of layers."""
    layers = [layer for layer in layers_of(model, wanted) if layer.stack == stack]
    sizes = [LayerSize(layer.heads or model.shape.heads, 1, keys) for layer in layers]
    # A step cannot be averaged.
    return replace(needs_of(probes, sizes, batch, model.dtype, model.device), averaged=None)
