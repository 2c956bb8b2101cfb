"""What each head writes into the residual stream, z_h W_O^h, and the norms of it.

The output projection W_O is found by watching the run, not by its name: it is the first linear layer that runs after the
attention function. It must take in exactly the heads' outputs side by side, and its output, which the attention module must
hand on as it is, must be the sum of the heads' parts and the bias. Where something stands between, as a gate or a norm, no
head's part can be told from the others', and the run is refused.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import InputError
from interp.models.layers import AttentionLayer, LayerKey, LayersOf

CHUNK = 4096
"""Tokens whose norms are computed at once."""
SAMPLED = 16
"""Tokens at which the sum over the heads is compared with the projection's own output."""
INSTEAD = "Ask for outputs=True and value_norms=True, which need no projection, or choose other layers or heads"
ROUNDINGS = 16
"""How many roundings, relative to sum |z| |W_O| + |bias|, that sum may be away from it."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Heads' outputs z [B, Hq, Tq, Dv] on their way to the projection, and what to do with W_O [Hq, Dv, d_model]."""

    layer: AttentionLayer
    z: Tensor
    use: Callable[[Tensor], None]


class Projections:
    """Finds the output projection of each attention while a model runs; see the top of this file.

    ``attended`` announces the heads' outputs of a layer as they are handed to the model; when their projection has run and is
    verified, ``use`` is called with its weights W_O [Hq, Dv, d_model]. ``instead``: what a refusal tells the user to do.
    """

    def __init__(self, model: nn.Module, layers: LayersOf, instead: str = INSTEAD) -> None:
        self.model, self.layers, self.instead = model, layers, instead
        self._waiting: _Waiting | None = None
        self._found: dict[nn.Module, tuple[LayerKey, Tensor]] = {}

    def attended(self, layer: AttentionLayer, z: Tensor, use: Callable[[Tensor], None]) -> None:
        self._check_none_waits()
        self._waiting = _Waiting(layer, z, use)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the linear layers of the model are watched in this thread. A compiled model runs without its graph.

        Raises:
            InputError: what follows the attention of an announced layer is not its output projection.
        """
        here = threading.get_ident()

        def linear(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if self._waiting is not None and threading.get_ident() == here:
                self._projected(module, given, output)

        def attention(module: nn.Module, given: object, output: object) -> None:
            if module in self._found and threading.get_ident() == here:
                self._check_handed_on(*self._found.pop(module), output)

        watched = [m for m in self.model.modules() if isinstance(m, nn.Linear | Conv1D)]
        handles = [m.register_forward_hook(linear) for m in watched]
        handles += [m.register_forward_hook(attention) for m in self.layers]
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
            self._check_none_waits()
        finally:
            for handle in handles:
                handle.remove()
            self._waiting = None
            self._found.clear()

    def _projected(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        key, z = waiting.layer.key, waiting.z
        b, heads, t, width = z.shape
        taken = given[0] if given and given[0].numel() == z.numel() else None
        if taken is None or not torch.equal(taken.to(z.dtype).reshape(b, t, heads, width), z.transpose(1, 2)):
            raise self._refusal(
                key,
                f"the linear layer that runs next, a {type(module).__name__}, takes in something else than the heads' "
                "outputs; a gate, a norm or another step stands between",
            )
        weight = _weight(module, z)
        if weight is None or not _is_sum_of_heads(z, weight, getattr(module, "bias", None), output):
            raise self._refusal(
                key,
                f"the output of its projection, a {type(module).__name__}, is not the sum of the heads' parts and a bias",
            )
        for attention, served in self.layers.items():
            if any(layer.key == key for layer in served) and any(m is module for m in attention.modules()):
                self._found[attention] = (key, output)
        waiting.use(weight)

    def _check_handed_on(self, key: LayerKey, projected: Tensor, output: object) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(first, Tensor) or not torch.equal(first.reshape(-1), projected.reshape(-1)):
            raise self._refusal(
                key,
                "its attention module changes the output of the projection before it hands it on (an adapter, a residual "
                "connection or a norm of its own)",
            )

    def _check_none_waits(self) -> None:
        if self._waiting is not None:
            raise self._refusal(self._waiting.layer.key, "no linear layer takes in the heads' outputs")

    def _refusal(self, key: LayerKey, why: str) -> InputError:
        return InputError(
            f"layer {key}: what each head writes into the residual stream cannot be told, for {why}. {self.instead}"
        )


def contributions(z: Tensor, weight: Tensor, heads: Sequence[int]) -> Tensor:
    """z_h W_O^h, what each of ``heads`` writes into the residual stream: [B, n, Tq, d_model], in the dtype of z.

    z: [B, Hq, Tq, Dv]; weight: W_O [Hq, Dv, d_model]. Their sum over all heads, plus the projection's bias, is the output of
    the attention module.
    """
    return torch.matmul(_of(z, 1, heads), _of(weight, 0, heads))


def written_norms(x: Tensor, weight: Tensor, heads: Sequence[int], group: int = 1) -> Tensor:
    """||x W_O^h|| of each of ``heads``, [B, n, T], without the vectors: O(T) memory. float32, of float64 float64.

    x: z [B, Hq, T, Dv], or the values [B, Hkv, T, Dv] with ``group`` query heads to each KV head; weight: [Hq, Dv, d_model].

    With the triangular factor R of W_O^h transposed = Q R, ||x W_O^h|| = ||R x||: Q has orthonormal columns. The Gram matrix
    R^T R would give the same squared, with half of the digits where heads write little of what they hold.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    factor = torch.linalg.qr(_of(weight, 0, heads).to(dtype).mT, mode="r").R  # [n, min(d_model, Dv), Dv]
    read = [head // group for head in heads]
    parts = [
        torch.linalg.vector_norm(torch.matmul(_of(part, 1, read).to(dtype), factor.mT), dim=-1)
        for part in x.split(CHUNK, dim=2)
    ]
    return torch.cat(parts, dim=-1)


def norms(x: Tensor) -> Tensor:
    """||x|| over the last axis, without a copy of x in the wider type: [B, H, T]. float32, of float64 float64."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))


def _of(x: Tensor, axis: int, index: Sequence[int]) -> Tensor:
    """Entries of an axis; x itself for all of them."""
    if list(index) == list(range(x.shape[axis])):
        return x
    return x.index_select(axis, torch.tensor(list(index), device=x.device))


def _weight(module: nn.Module, z: Tensor) -> Tensor | None:
    """W_O [Hq, Dv, d_model] as a view of the layer's weights, which Conv1D keeps transposed; None where these do not fit."""
    weight = getattr(module, "weight", None)
    heads, width = z.shape[1], z.shape[3]
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype != z.dtype:
        return None
    by_input = weight if isinstance(module, Conv1D) else weight.T
    if by_input.shape[0] != heads * width:
        return None
    return by_input.unflatten(0, (heads, width)).detach()


def _is_sum_of_heads(z: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor) -> bool:
    """At ``SAMPLED`` tokens: |sum_h z_h W_O^h + bias - output| within the rounding of the output's dtype."""
    width = weight.shape[2]
    b, _, t, _ = z.shape
    if output.numel() != b * t * width or not output.is_floating_point():
        return False
    tokens = torch.linspace(0, b * t - 1, min(SAMPLED, b * t), device=z.device).long()
    wide = torch.promote_types(z.dtype, torch.float32)
    of_tokens = z[tokens // t, :, tokens % t].transpose(0, 1).to(wide)  # [Hq, n, Dv]
    w = weight.to(wide)
    total, bound = (of_tokens @ w).sum(dim=0), (of_tokens.abs() @ w.abs()).sum(dim=0)  # [n, d_model]
    if bias is not None:
        total, bound = total + bias, bound + bias.abs()
    epsilon = torch.finfo(output.dtype).eps
    if output.is_cuda and output.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        epsilon = math.ldexp(1.0, -10)
    away = (total - output.reshape(b * t, width)[tokens]).abs()
    return bool((away <= ROUNDINGS * epsilon * bound).all())
