"""The residual stream of one run, block by block: before the attention, after it, and after the block.

For blocks that add what attention and MLP give to the stream as it is:

    x_mid = x + sum_h z_h W_O^h + bias,    x_out = x_mid + mlp        one after the other (Llama, GPT-2)
    x_out = x + sum_h z_h W_O^h + bias + mlp                          side by side (GPT-NeoX, Phi)

Which of the two it is, is seen in the run: something in the block reads x_mid, or the block's output is that sum. Where neither
holds (a norm or a factor behind the attention, as in Gemma 2 and Granite; norms on the stream itself, as in BERT) the parts
of the stream cannot be told this way, and the run is refused. Memory: O(T) a layer, three copies of the stream and the lazy map.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.bridges.host import BridgeHost
from interp.captures.contributions import Projections
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.models.blocks import block_paths
from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer, LayerKey
from interp_kernels import Attended, AttentionMap

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

INSTEAD = "Choose another model"
OUTPUT_ROUNDING = 2**-6
"""How far, relative to sum_j P_ij |v_j|, a head's output may be away from its map times its values: bfloat16 and some."""
ROUNDINGS = 8
"""How many roundings, relative to the sum of the absolute parts, a sum may be away from what the block gave."""


@dataclass(frozen=True, eq=False)
class BlockStream:
    """One block of a run.

    before, after  the stream as the block takes it in and hands it on, [B, T, d]
    middle         the stream between attention and MLP, None where they stand side by side
    attention      what the attention adds, [B, T, d]
    output         the heads' outputs z [B, Hq, T, Dv]
    map            the lazy map of its heads; ``map.operands.v`` are the values [B, Hkv, T, Dv]
    weight         W_O [Hq, Dv, d]
    """

    layer: LayerKey
    before: Tensor
    after: Tensor
    middle: Tensor | None
    attention: Tensor
    output: Tensor
    map: AttentionMap
    weight: Tensor


@dataclass(eq=False)
class _Seen:
    """What hooks have seen of one block so far."""

    before: Tensor | None = None
    after: Tensor | None = None
    attention: Tensor | None = None
    middle: Tensor | None = None
    outputs: list[Tensor] = field(default_factory=list)
    z: Tensor | None = None
    map: AttentionMap | None = None
    weight: Tensor | None = None


def residual_stream(model: HookedModel, batch: Batch) -> list[BlockStream]:
    """Run ``model`` once and keep its residual stream at every block. Edits in force apply.

    Raises:
        InputError: a model whose blocks are not of the form above, or which has blocks without attention; a bridge of
            TransformerLens, whose attention a watch over its components would have run dense.
    """
    if isinstance(model.host, BridgeHost):
        raise InputError(
            f"{model.name} is a bridge of TransformerLens, whose residual stream is not followed; load the same model through "
            "transformers, by its name or folder"
        )
    layers = [(module, layer) for module, served in model.host.layers.items() for layer in served]
    blocks = _blocks(model)
    _check_one_stack(model, [layer for _, layer in layers], blocks)
    seen = {key: _Seen() for key in blocks}
    projections = Projections(model.host.inner, model.host.layers, INSTEAD)

    def record(call: AttentionCall, attended: Attended) -> None:
        found = seen[call.layer.key]
        # A copy: the model may go on in the same memory.
        found.map, found.z = attended.map, attended.output.clone()
        projections.attended(call.layer, attended.output, lambda weight: setattr(found, "weight", weight))

    with projections.watching(), _watched(layers, blocks, seen):
        model.run(batch, lambda call: (), record, logits=False)
    return [_stream(key, found) for key, found in seen.items()]


def check_unedited(layer: LayerKey, z: Tensor, rows: Tensor, values: Tensor, counts: Tensor | None = None) -> None:
    """What heads hand to the model must be what their maps say, sum_j P_ij v_j.

    z: the heads' outputs at n positions, [B, Hq, n, Dv]; rows: P at these, [B, Hq, n, Tk]; values: [B, Hkv, Tk, Dv]; counts:
    which of the positions are looked at, bool [B, n].

    Raises:
        InputError: an edit changed them behind the map.
    """
    b, kv_heads, _, width = values.shape
    n, values = rows.shape[2], values.float()
    p = rows.float().reshape(b, kv_heads, -1, rows.shape[3])  # queries of a group side by side
    shape = (b, rows.shape[1], n, width)
    expected = torch.matmul(p, values).reshape(shape)
    bound = OUTPUT_ROUNDING * torch.matmul(p, values.abs()).reshape(shape) + torch.finfo(torch.float32).tiny
    away = ((z.float() - expected).abs() > bound).any(dim=-1).any(dim=1)  # [B, n]
    if bool((away if counts is None else away & counts).any()):
        raise InputError(
            f"layer {layer}: an edit in force changes what its heads give (ablate, scale, patch), so that it no longer comes "
            "from the tokens that they look at; leave such edits out (cut, uniform and recalibrate are followed)"
        )


def _blocks(model: HookedModel) -> dict[LayerKey, nn.Module]:
    """Layer -> the module that takes in the stream and hands it on."""
    paths = block_paths(model.host.inner, model.host.layers)
    blocks: dict[LayerKey, nn.Module] = {}
    for layer, path in paths.items():
        if path is None:
            raise _refusal(layer, "its attention is not in a numbered block")
        blocks[layer] = model.host.inner.get_submodule(path)
    return blocks


def _check_one_stack(model: HookedModel, layers: list[AttentionLayer], blocks: dict[LayerKey, nn.Module]) -> None:
    numbers = [layer.number for layer in layers]
    if {layer.stack for layer in layers} != {""} or numbers != list(range(len(numbers))):
        raise InputError(
            f"{model.name} is not one stack of blocks that all attend (its layers: {list(model.layers)}), and its residual "
            "stream cannot be followed from block to block"
        )
    if len({id(block) for block in blocks.values()}) < len(blocks):
        raise InputError(f"the layers of {model.name} share their blocks, whose runs cannot be told apart")


@contextmanager
def _watched(
    layers: list[tuple[nn.Module, AttentionLayer]], blocks: dict[LayerKey, nn.Module], seen: dict[LayerKey, _Seen]
) -> Iterator[None]:
    """While it lasts, this thread's runs of the blocks leave what they take in and hand on in ``seen``."""
    here = threading.get_ident()
    handles: list[Any] = []

    def watch(module: nn.Module, before: Any, after: Any) -> None:
        def entered(module: Any, args: Any, kwargs: Any) -> None:
            if before is not None and threading.get_ident() == here:
                before(_first([*args, *kwargs.values()]))

        def left(module: Any, args: Any, output: Any) -> None:
            if after is not None and threading.get_ident() == here:
                after(_first(output if isinstance(output, tuple | list) else [output]))

        handles.append(module.register_forward_pre_hook(entered, with_kwargs=True))
        handles.append(module.register_forward_hook(left))

    try:
        for attention, layer in layers:
            block, found = blocks[layer.key], seen[layer.key]
            inside = {id(module) for module in attention.modules()}
            watch(attention, None, lambda x, found=found: setattr(found, "attention", None if x is None else x.clone()))
            for module in block.modules():
                if module is not block and id(module) not in inside:
                    watch(
                        module,
                        lambda x, found=found: _entered(found, x),
                        lambda x, found=found: None if x is None else found.outputs.append(x),
                    )
            # Cloned, for blocks that add in place.
            watch(
                block,
                lambda x, found=found: setattr(found, "before", None if x is None else x.clone()),
                lambda x, found=found: _left(found, x),
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(values: list[Any] | tuple[Any, ...]) -> Tensor | None:
    return next((x for x in values if isinstance(x, Tensor) and x.is_floating_point()), None)


def _entered(found: _Seen, x: Tensor | None) -> None:
    """Whether what a module of the block reads is the stream after the attention."""
    if x is None or found.middle is not None or found.before is None or found.attention is None:
        return
    shape = found.before.shape
    # Some read it with sequences and tokens in one axis.
    if x.numel() == found.before.numel() and found.attention.shape == shape:
        x = x.reshape(shape)
        if torch.equal(x, found.before + found.attention):
            found.middle = x.clone()


def _left(found: _Seen, x: Tensor | None) -> None:
    found.after = None if x is None else x.clone()
    if found.middle is None and found.before is not None and found.attention is not None and found.after is not None:
        sums = [mlp for mlp in found.outputs if _is_sum(found.after, [found.before, found.attention, mlp])]
        if not sums:
            found.after = None
    found.outputs.clear()


def _is_sum(total: Tensor, parts: list[Tensor]) -> bool:
    if any(part.shape != total.shape for part in parts):
        return False
    wide = [part.double() for part in parts]
    size = torch.stack([part.abs() for part in wide]).sum(dim=0)
    away = (torch.stack(wide).sum(dim=0) - total.double()).abs()
    return bool((away <= ROUNDINGS * torch.finfo(total.dtype).eps * size).all())


def _stream(key: LayerKey, found: _Seen) -> BlockStream:
    if found.before is None or found.attention is None or found.map is None or found.z is None or found.weight is None:
        raise _refusal(key, "its block does not take in and hand on one stream")
    if found.after is None or found.after.shape != found.before.shape:
        raise _refusal(
            key,
            "what its attention gives does not enter the stream as it is (a norm, a factor or a gate stands between, or a norm "
            "is on the stream itself)",
        )
    return BlockStream(key, found.before, found.after, found.middle, found.attention, found.z, found.map, found.weight)


def _refusal(key: LayerKey, why: str) -> InputError:
    return InputError(f"layer {key}: the parts of the residual stream cannot be told, for {why}; choose another model")
