"""What heads write, taken from a run: the reference of a mean ablation, the source of a patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from interp.edits.edit import Chosen, Heads, chosen_heads
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.inputs import Batch, Inputs
from interp.models.layers import LayerKey
from interp_kernels import Attended

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True, eq=False, repr=False)
class HeadOutputs:
    """z of one run: each head's mix of values, before the output projection.

    z       layer -> [B, n, T, Dv], of the heads in ``heads``
    heads   layer -> its n query heads, ascending
    counts  layer -> how many query heads it has
    keep    layer -> [B, T], False at padding; None without
    """

    z: Mapping[LayerKey, Tensor]
    heads: Mapping[LayerKey, tuple[int, ...]]
    counts: Mapping[LayerKey, int]
    keep: Mapping[LayerKey, Tensor | None]

    def of(self, layer: LayerKey, heads: Iterable[int] | None, what: str) -> Tensor:
        """z of these heads of a layer (None: all of them), [B, n, T, Dv].

        Raises:
            InputError: they are not in it. ``what`` names the argument.
        """
        held = self.heads.get(layer, ())
        wanted = list(range(self.counts.get(layer, 0)) if heads is None else heads)
        missing = [head for head in wanted if head not in held]
        if missing or not wanted:
            named = f"heads {missing} of layer {layer!r}" if missing else f"layer {layer!r}"
            raise InputError(
                f"{what} does not hold {named}; take the outputs of these heads too, with interp.edits.outputs"
            )
        if wanted == list(held):
            return self.z[layer]
        return self.z[layer][:, [held.index(head) for head in wanted]]

    def __repr__(self) -> str:
        shapes = {layer: list(z.shape) for layer, z in self.z.items()}
        return f"HeadOutputs([B, heads, T, Dv] by layer: {shapes})"


def outputs(
    model: HookedModel, inputs: Inputs | Batch, heads: Heads = "all", layers: Iterable[LayerKey] | None = None
) -> HeadOutputs:
    """Run the model on ``inputs`` and keep what heads write: O(T) memory, B n T Dv numbers a layer.

    Args:
        model: edits in force on it are in force here too.
        inputs: as of ``HookedModel.capture``.
        heads: which heads, "all" by default.
        layers: with heads="all", which layers.

    Raises:
        InputError: a head or layer does not exist, or does not attend on this input.
    """
    chosen = chosen_heads(model, heads, layers, "outputs")
    batch = inputs if isinstance(inputs, Batch) else model.batch(inputs)
    z: dict[LayerKey, Tensor] = {}
    kept: dict[LayerKey, tuple[int, ...]] = {}
    counts: dict[LayerKey, int] = {}
    keep: dict[LayerKey, Tensor | None] = {}

    def record(call: AttentionCall, attended: Attended) -> None:
        key, present = call.layer.key, attended.output.shape[1]
        if key in chosen:
            kept[key], counts[key] = _existing(chosen, key, present), present
            keep[key] = batch.queries_kept(call.layer.stack)
            z[key] = attended.output.detach()[:, list(kept[key])]

    model.run(batch, lambda call: (), record, logits=False)
    idle = [layer for layer in chosen if layer not in z]
    if (idle and layers is not None) or not z:
        raise InputError(f"outputs: layers {idle} do not attend on this input; leave them out, or give what they read")
    return HeadOutputs(z, kept, counts, keep)


def _existing(chosen: Chosen, layer: LayerKey, present: int) -> tuple[int, ...]:
    heads = chosen[layer]
    if heads is None:
        return tuple(range(present))
    if heads[-1] >= present:
        raise InputError(f"outputs: head {heads[-1]} of layer {layer!r} does not exist; it has {present} query heads")
    return heads


def check_fits(model: HookedModel, layer: LayerKey, z: Tensor, count: int, what: str) -> None:
    """Refuse outputs of a layer of another shape, as far as the model says it before it runs.

    Raises:
        InputError: another number of heads, or of columns of a head.
    """
    for module, served in model.host.layers.items():
        for each in served:
            if each.key != layer:
                continue
            widths = [getattr(module, name, None) for name in ("v_head_dim", "head_dim")]
            width = next((w for w in widths if isinstance(w, int)), z.shape[-1])
            if each.heads not in (None, count) or width != z.shape[-1]:
                raise InputError(
                    f"{what}: expected outputs of {each.heads or count} query heads of width {width} for layer {layer!r} of "
                    f"{model.name}, got {count} of width {z.shape[-1]}; take them from the same model"
                )
