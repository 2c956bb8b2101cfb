"""The dense ways that ``benchmarks/analyses.py`` measures beside ours: eager attention of transformers, whole maps, plain torch.

Each takes the demo model and ids [1, T], and gives the numbers that its namesake there gives.
"""

from __future__ import annotations

import numpy as np
import torch

from interp.models.hooked import HookedModel

EXPLAINED = 7
"""The token whose logit, after the last one, relevance explains."""
SMOOTHED = 0.001
"""Mass that is spread over the keys before divergences are taken, as in Clark et al. (arXiv 1906.04341)."""
THRESHOLD, FLOOR = 0.04, 1e-5
"""Of routes, as in Ferrando and Voita (arXiv 2403.00824)."""


def whole_maps(model: HookedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """P [H, T, T] of each layer."""
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model.host.inner.model(input_ids=ids, use_cache=False, output_attentions=True).attentions
    return [p[0] for p in maps]


def dense_maps(model: HookedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """Abar [T, T] of each layer."""
    itself = torch.eye(ids.shape[1])
    return [0.5 * p.mean(dim=0) + 0.5 * itself for p in whole_maps(model, ids)]


def dense_rollout(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    first, *others = dense_maps(model, ids)
    whole = first
    for shares in others:
        whole = shares @ whole
    return whole[-1].numpy()


def dense_flow(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    import networkx as nx

    graph = nx.DiGraph()
    maps = dense_maps(model, ids)
    for level, shares in enumerate(maps, 1):
        for q, k in shares.nonzero().tolist():
            graph.add_edge((level, q), (level - 1, k), capacity=float(shares[q, k]))
    source = (len(maps), ids.shape[1] - 1)
    by = nx.algorithms.flow.edmonds_karp
    return np.array([nx.maximum_flow_value(graph, source, (0, k), flow_func=by) for k in range(ids.shape[1])])


def dense_relevance(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    model.model.set_attn_implementation("eager")
    output = model.model(input_ids=ids, use_cache=False, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[0, -1, EXPLAINED], output.attentions)
    whole = torch.eye(ids.shape[1])
    for p, gradient in zip(output.attentions, gradients, strict=True):
        whole = whole + (p.detach() * gradient)[0].clamp(min=0).mean(dim=0) @ whole
    return whole[-1].numpy()


def dense_norm_attention(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    model.model.set_attn_implementation("eager")
    blocks = model.model.model.layers
    values: list[torch.Tensor] = []
    handles = [block.self_attn.v_proj.register_forward_hook(lambda _, __, v: values.append(v)) for block in blocks]
    with torch.no_grad():
        maps = model.model.model(input_ids=ids, use_cache=False, output_attentions=True).attentions
        for handle in handles:
            handle.remove()
        rows = []
        for p, v, block in zip(maps, values, blocks, strict=True):
            heads, width = p.shape[1], block.self_attn.head_dim
            of_heads = v[0].unflatten(-1, (-1, width)).repeat_interleave(heads * width // v.shape[-1], dim=1)
            mixed = (p[0, :, -1].T[..., None] * of_heads).flatten(1)  # [T, heads width]
            rows.append(block.self_attn.o_proj(mixed).norm(dim=-1))
    return torch.stack(rows).numpy().ravel()


def dense_sinks(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    """alpha of every head and position."""
    seen = torch.arange(ids.shape[1], 0, -1)
    return np.stack([(p.double().sum(dim=1) / seen).numpy() for p in whole_maps(model, ids)])


def dense_surface(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    """Mean entropy and mean distance of every head."""
    place = torch.arange(ids.shape[1], dtype=torch.float32)
    away = (place[:, None] - place).abs()
    maps = whole_maps(model, ids)
    entropy = [-torch.special.xlogy(p, p).sum(dim=-1).mean(dim=-1) for p in maps]
    distance = [(p * away).sum(dim=-1).mean(dim=-1) for p in maps]
    return torch.stack([torch.stack(entropy), torch.stack(distance)]).numpy()


def dense_divergences(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    """Of the heads of the last two layers, every pair: the mean over rows."""
    maps = [p.double() for p in whole_maps(model, ids)[-2:]]
    smooth = (1 - SMOOTHED) * torch.cat(maps) + SMOOTHED / ids.shape[1]
    found = np.zeros((len(smooth), len(smooth)))
    for one in range(len(smooth)):
        for other in range(one):
            p, q = smooth[one], smooth[other]
            middle = ((p + q) / 2).log()
            both = torch.xlogy(p, p) - p * middle + torch.xlogy(q, q) - q * middle
            found[one, other] = found[other, one] = float(both.sum(dim=-1).mean()) / 2
    return found


def dense_importance(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    """mean |z . dL/dz| of every head, L the summed loss."""
    model.model.set_attn_implementation("eager")
    outputs: list[torch.Tensor] = []
    blocks = model.model.model.layers
    handles = [block.self_attn.o_proj.register_forward_pre_hook(lambda _, z: outputs.append(z[0])) for block in blocks]
    logits = model.model(input_ids=ids, use_cache=False, output_attentions=True).logits
    for handle in handles:
        handle.remove()
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
    gradients = torch.autograd.grad(loss, outputs)
    width = blocks[0].self_attn.head_dim
    products = [
        (z.detach() * g)[0].unflatten(-1, (-1, width)).sum(dim=-1) for z, g in zip(outputs, gradients, strict=True)
    ]
    return torch.stack([product.abs().mean(dim=0) for product in products]).numpy()


def dense_routes(model: HookedModel, ids: torch.Tensor) -> np.ndarray:
    """Flow of the last token's routes to each input token that they reach: the vector of every pair of every head is made."""
    stream: dict[str, list[torch.Tensor]] = {"before": [], "middle": [], "values": []}
    blocks = model.model.model.layers
    handles = []
    for block in blocks:
        hooks = (
            (block.input_layernorm.register_forward_pre_hook, lambda _, x: stream["before"].append(x[0])),
            (block.post_attention_layernorm.register_forward_pre_hook, lambda _, x: stream["middle"].append(x[0])),
            (block.self_attn.v_proj.register_forward_hook, lambda _, __, v: stream["values"].append(v)),
        )
        handles += [register(hook) for register, hook in hooks]
    maps = whole_maps(model, ids)
    for handle in handles:
        handle.remove()
    length = ids.shape[1]
    flow = torch.zeros(length, dtype=torch.float64)
    flow[-1] = 1
    for number in reversed(range(len(blocks))):
        before, middle = stream["before"][number][0], stream["middle"][number][0]
        # An MLP's edge leads where the residual connection's does, so that the flow of a token stays with it.
        attention = blocks[number].self_attn
        heads = maps[number].shape[0]
        values = stream["values"][number][0].unflatten(-1, (-1, attention.head_dim))
        values = values.repeat_interleave(heads // values.shape[1], dim=1)
        weight = attention.o_proj.weight.T.detach().unflatten(0, (heads, attention.head_dim))
        written = torch.einsum("thd,hde->hte", values, weight)
        parts = maps[number][..., None] * written[:, None]  # [H, T, T, d]
        left = (middle[:, None] - parts).abs().sum(dim=-1)
        found = torch.zeros_like(flow)
        for position in flow.nonzero()[:, 0].tolist():
            size = middle[position].double().abs().sum()
            of_heads = (size - left[:, position, : position + 1].double()).clamp(min=FLOOR)
            own = (size - (middle[position] - before[position]).double().abs().sum()).clamp(min=FLOOR)
            shares = torch.cat([own[None], of_heads.flatten()])
            shares = shares / shares.sum()
            shares = torch.where((shares > THRESHOLD) | (shares == shares.max()), shares, 0.0)
            shares = shares / shares.sum() * flow[position]
            found[position] += shares[0]
            found[: position + 1] += shares[1:].view(heads, -1).sum(dim=0)
        flow = found
    return flow[flow > 0].numpy()
