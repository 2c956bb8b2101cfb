"""What a generation will hold in memory: the statistics of its prompt, and those of every new token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp.captures.memory import LayerSize, Needs, layer_sizes, needs_of
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
    layers = []
    for served in model.host.layers.values():
        for layer in served:
            if layer.key in wanted and layer.stack in DECODING:
                keys = batch.tokens if layer.stack == "cross" else prompt + new // 2  # on average
                layers.append(LayerSize(layer.heads or model.shape.heads, 1, keys))
    of_steps = needs_of(steps or [], layers, batch, model.dtype, model.device)
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
