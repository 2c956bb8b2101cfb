"""Rollout and attention flow by their formulas, on whole maps that a model itself returns. Shares no code with interp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.interp.zoo import oracle


def maps_alone(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Each attention's map [H, Tq, Tk] of one sequence without padding, in the order in which the modules stand."""
    _, listened = oracle.run(model, inputs, dtype)
    return [listened[module][0][0] for module in model.modules() if listened.get(module)]


def shares(
    p: Tensor,
    *,
    residual: bool = True,
    fusion: str = "mean",
    normalize: bool = True,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Abar [Tq, Tk] of self attention, from P [H, T, T]. ``heads``: those that count, none of them: the identity."""
    itself = torch.eye(p.shape[-1], dtype=p.dtype)
    if heads is not None and not heads:
        return itself
    p = p if heads is None else p[list(heads)]
    fused = p.mean(dim=0) if fusion == "mean" else p.max(dim=0).values
    if normalize:
        whole = fused + itself if residual else fused
        return whole / whole.sum(dim=-1, keepdim=True)
    return 0.5 * fused + 0.5 * itself if residual else fused


def rolled(of_layers: Sequence[Tensor]) -> list[Tensor]:
    """What every output draws from each level, by whole products: from the first level (the input) to the last, the output."""
    above = [torch.eye(of_layers[0].shape[-1], dtype=of_layers[0].dtype)]
    for share in reversed(of_layers):
        above.insert(0, above[0] @ share)
    return above


def both_sides(encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor]) -> list[Tensor]:
    """Abar of every attention of an encoder-decoder over the encoder's and the decoder's tokens side by side, in their order."""
    e, d = encoder[0].shape[-1], decoder[0].shape[-1]
    steps = [torch.block_diag(shares(p), torch.eye(d, dtype=p.dtype)) for p in encoder]
    for p, c in zip(decoder, cross, strict=True):
        steps.append(torch.block_diag(torch.eye(e, dtype=p.dtype), shares(p)))
        looks = torch.zeros(e + d, e + d, dtype=p.dtype)
        looks[:e, :e] = torch.eye(e)
        looks[e:, :e] = 0.5 * c.mean(dim=0)
        looks[e:, e:] = 0.5 * torch.eye(d)
        steps.append(looks)
    return steps


def network(of_layers: Sequence[Tensor]) -> nx.DiGraph:
    """Node (l, q) is token q going out of layer l - 1; an edge (l, q) -> (l - 1, k) can carry Abar_qk."""
    graph = nx.DiGraph()
    for level, share in enumerate(of_layers, 1):
        for q, k in (share > 0).nonzero().tolist():
            graph.add_edge((level, q), (level - 1, k), capacity=float(share[q, k]))
    return graph


def flows(graph: nx.DiGraph, source: tuple[int, int], tokens: int) -> list[float]:
    """The maximum flow from the output ``source`` to each input token."""
    return [
        nx.maximum_flow_value(graph, source, (0, k), flow_func=nx.algorithms.flow.edmonds_karp)
        if (0, k) in graph
        else 0.0
        for k in range(tokens)
    ]
