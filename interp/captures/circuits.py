"""What a head would read from a token's embedding and write into the logits, from the weights alone: its value-output circuit.

For a head h with the values v = B e + constant and the unembedding's input x = A^T z + everything else,

    B_h [Dv, d] = d v / d e       e: what the input embedding gives for a token
    A_h [Dv, d] = d x / d z

along the direct path, that is through no other head and no MLP. W_V and W_O are in them, and so are the weights of the norms
on the way, their centring, and what else is linear there (multipliers, projections of the embedding): they are taken by autograd
from a run on single tokens, not from weights by name, so that fused, grouped and low-rank projections need no code. The scales of
the norms are those of that token, one positive factor for all of A_h and one for all of B_h: eigenvalues keep their angles and
logits their order. That nothing else depends on the token is looked at with a second one.

In the words of Elhage et al. (2021): for the unembedding W_U, (W_U A_h^T B_h W_E) is their W_U W_OV^h W_E, norms folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.captures.direct import DirectRun, direct_run, unembedding_of
from interp.captures.direct_path import DirectPath, replaced_input
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.models.call import AttentionCall
from interp.models.layers import LayerKey

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

ROWS = 512
"""Numbers of v and of x that one run differentiates."""
CHECKED = 16
"""Of these so many are compared for a second token."""
ROUNDINGS = 8
"""How many roundings, relative to their size, the two may be apart but for a factor."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """One layer: reads B [Hkv, Dv, d_embedding] and writes A [H, Dv, d_model], float32 (float64 of float64 models), on CPU."""

    reads: Tensor
    writes: Tensor

    def of_head(self, head: int) -> tuple[Tensor, Tensor]:
        """B_h [Dv, d_embedding] and A_h [Dv, d_model] of a query head."""
        return self.reads[head * self.reads.shape[0] // self.writes.shape[0]], self.writes[head]


@dataclass(frozen=True, eq=False)
class Circuits:
    """All layers, and the tables between which they stand, [V, d] each: of the tokens that both know."""

    layers: dict[LayerKey, Circuit]
    embedding: Tensor
    unembedding: Tensor


def circuits(model: HookedModel) -> Circuits:
    """The value-output circuits of all heads; see the top of the file.

    Cost: a run on about as many single tokens as the model is wide, and back. Memory: twice that of the attention's value and
    output weights, in float32.

    Raises:
        InputError: the model has no unembedding or several stacks of layers; heads whose values are not a linear function of the
            embedding, or whose outputs do not reach the unembedding by a linear one; edits are in force.
    """
    check_plain(model)
    first, second = (model.shape.vocabulary * n // 3 for n in (1, 2))
    found = _differentiated(model, first, None)
    _check_alike(model, found, _differentiated(model, second, CHECKED))
    e, u = (_wide(m.weight) for m in (model.host.inner.get_input_embeddings(), unembedding_of(model)))  # pyright: ignore[reportArgumentType]
    known = min(e.shape[0], u.shape[0])
    layers = {layer: Circuit(reads, writes) for layer, (reads, writes) in found.items()}
    return Circuits(layers, e[:known], u[:known])


def check_plain(model: HookedModel) -> None:
    """Refuse, before anything is run, a model whose heads have no circuits from tokens to logits.

    Raises:
        InputError: see ``circuits``.
    """
    unembedding_of(model)
    stacks = {layer.stack for served in model.host.layers.values() for layer in served}
    if stacks != {""} or not isinstance(model.host.inner.get_input_embeddings(), nn.Module):
        raise InputError(
            f"{model.name} ({type(model.model).__name__}): circuits from embedding to unembedding are told of models with one "
            f"stack of layers that reads tokens; its stacks are {sorted(stacks)}"
        )
    if "edits" in model.facts():
        raise InputError("circuits are those of the weights, which no edit changes; leave the context of model.edited")


_Found = dict[LayerKey, tuple[Tensor, Tensor]]


def _differentiated(model: HookedModel, token: int, at_most: int | None) -> _Found:
    """Layer -> B [Hkv, Dv, d], A [H, Dv, d], by runs on ``token`` alone.

    at_most: so many rows of B (over heads and columns, [n, d]) and columns of A ([H, Dv, n]) instead
    """
    reads: dict[LayerKey, list[Tensor]] = {}
    writes: dict[LayerKey, list[Tensor]] = {}
    shapes: dict[LayerKey, torch.Size] = {}
    start, total = 0, 1
    count = min(ROWS, _width(model)) if at_most is None else at_most
    while start < total:
        ids = torch.full((count, 1), token, device=model.device)
        values = _Values(model, start, at_most)
        run = direct_run(
            model,
            Batch(ids, torch.ones_like(ids, dtype=torch.bool)),
            (
                torch.arange(len(ids), device=model.device),
                torch.zeros(len(ids), dtype=torch.int64, device=model.device),
            ),
            watch=values.watch,
        )
        shapes |= values.shapes
        for layer, rows in values.found.items():
            reads.setdefault(layer, []).append(rows)
        for layer, columns in _writes(model, run, start, at_most):
            writes.setdefault(layer, []).append(columns)
        widest = max([run.final.shape[1], *(shape.numel() for shape in shapes.values())])
        start, total = start + len(ids), widest if at_most is None else 0
    found: _Found = {}
    for layer in model.layers:
        a, b = torch.cat(writes[layer], dim=2), torch.cat(reads[layer])
        found[layer] = (b if at_most is not None else b.unflatten(0, shapes[layer]), a)
    return found


def _width(model: HookedModel) -> int:
    return int(model.host.inner.get_input_embeddings().weight.shape[1])


def _writes(model: HookedModel, run: DirectRun, start: int, at_most: int | None) -> list[tuple[LayerKey, Tensor]]:
    """Columns of A: d x[start + b] / d z of the b-th row."""
    if not run.final.requires_grad:
        raise _refusal(
            model, "between its last layer and its unembedding stands something that is not linear (a layer of its own)"
        )
    heads = [source for source in run.sources if source.kind == "heads"]
    chosen, value = _picked(run.final, start, at_most)
    if value is None:
        return []
    weights = torch.autograd.grad(value, [source.value for source in heads], allow_unused=True)
    columns = []
    for source, weight in zip(heads, weights, strict=True):
        if weight is None or source.layer is None:
            raise _refusal(
                model, f"the heads of layer {source.layer} do not go through a linear projection to the unembedding"
            )
        columns.append((source.layer, _wide(weight[:chosen]).permute(1, 2, 0)))  # [H, Dv, rows]
    return columns


class _Values:
    """Rows of B, layer after layer while a model runs: of row b of the batch d v[start + b] / d e."""

    def __init__(self, model: HookedModel, start: int, at_most: int | None) -> None:
        self.model, self.start, self.at_most = model, start, at_most
        self.found: dict[LayerKey, Tensor] = {}
        self.shapes: dict[LayerKey, torch.Size] = {}
        self._embedded: Tensor | None = None
        self._given: tuple[Tensor, Tensor] | None = (
            None  # what an attention module took in: on the path, and the leaf in its place
        )

    def watch(self, path: DirectPath) -> None:
        path.keeps_sources = False
        path.on_values.append(self._values)
        embedding = self.model.host.inner.get_input_embeddings()
        path.handles.append(embedding.register_forward_hook(self._embedding(path)))
        path.handles += [
            attention.register_forward_pre_hook(self._attention(path), with_kwargs=True)
            for attention in self.model.host.entrances
        ]

    def _embedding(self, path: DirectPath) -> Callable[..., Any]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            if not path.is_here:
                return output
            with path.pause():
                self._embedded = output.detach().requires_grad_()
                path.open = {id(self._embedded)}
                return self._embedded.clone()  # some models go on in place

        return hook

    def _attention(self, path: DirectPath) -> Callable[..., Any]:
        def cut(x: Tensor) -> Tensor:
            leaf = x.detach().requires_grad_()
            self._given = x, leaf
            path.open = {id(leaf)}
            return leaf.clone()

        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if not path.is_here:
                return None
            with path.pause():
                return replaced_input(given, named, cut)

        return hook

    def _values(self, call: AttentionCall) -> None:
        layer, v = call.layer.key, call.v  # [B, Hkv, 1, Dv]
        given, self._given = self._given, None
        self.shapes[layer] = torch.Size((v.shape[1], v.shape[3]))
        if given is None or self._embedded is None or not given[0].requires_grad or not v.requires_grad:
            raise _refusal(self.model, f"the values of layer {layer} are not a linear function of the residual stream")
        with torch.enable_grad():
            chosen, value = _picked(v[:, :, 0].flatten(1), self.start, self.at_most)
            if value is None:
                return
            (inside,) = torch.autograd.grad(value, [given[1]], allow_unused=True)
            weight = None
            if inside is not None:
                # Layers share the way from the embedding to here.
                (weight,) = torch.autograd.grad(
                    given[0], [self._embedded], inside, retain_graph=True, allow_unused=True
                )
            if weight is None:
                raise _refusal(
                    self.model, f"the values of layer {layer} are not a linear function of the residual stream"
                )
        self.found[layer] = _wide(weight[:chosen, 0])


def _picked(x: Tensor, start: int, at_most: int | None) -> tuple[int, Tensor | None]:
    """Of x [B, n] the sum of x[b, start + b], and how many there are; at most so many, spread over all n, of the check."""
    b, n = x.shape
    count = min(b, n - start)
    if count <= 0:
        return 0, None
    rows = torch.arange(count, device=x.device)
    columns = rows + start if at_most is None else torch.linspace(0, n - 1, count, device=x.device).long()
    return count, x[rows, columns].sum()


def _check_alike(model: HookedModel, found: _Found, other: _Found) -> None:
    """What another token gives may differ by a positive factor for each head, and by nothing else."""
    for layer, (b, a) in found.items():
        of_b, of_a = other[layer]
        flat = b.flatten(0, 1)
        rows = torch.linspace(0, len(flat) - 1, len(of_b)).long()
        kv = rows // b.shape[1]
        columns = torch.linspace(0, a.shape[2] - 1, of_a.shape[2]).long()
        pairs = [(flat[rows][kv == head], of_b[kv == head]) for head in kv.unique()]
        pairs += list(zip(a[:, :, columns], of_a, strict=True))
        if not all(_is_alike(x, y, model.dtype) for x, y in pairs):
            raise _refusal(
                model,
                f"what the heads of layer {layer} read or write depends on the token in other ways than by a scale (a gate)",
            )


def _is_alike(x: Tensor, y: Tensor, dtype: torch.dtype) -> bool:
    if not bool(x.any()) and not bool(y.any()):
        return True
    factor = (x * y).sum() / (x * x).sum()
    epsilon = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return bool(factor > 0) and bool((y - factor * x).norm() <= ROUNDINGS * epsilon * y.norm())


def _wide(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32))


def _refusal(model: HookedModel, why: str) -> InputError:
    return InputError(
        f"{model.name} ({type(model.model).__name__}): the circuits of its heads cannot be told from its weights, for {why}"
    )


def heads_of(found: Circuits) -> Sequence[tuple[int, int, Tensor, Tensor]]:
    """Every head: the place of its layer, its number, B_h and A_h."""
    return [
        (at, head, *circuit.of_head(head))
        for at, circuit in enumerate(found.layers.values())
        for head in range(circuit.writes.shape[0])
    ]
