"""Information-flow routes: the edges that a token's representation was really made of, from the last block down to the input.

Ferrando and Voita, "Information Flow Routes: Automatically Interpreting Language Models at Scale" (arXiv 2403.00824); code:
facebookresearch/llm-transparency-tool. A graph of the residual stream: nodes are tokens after the input, after each attention and
after each block; edges are single heads (from a token to a token), MLPs, and the residual connection.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from interp.captures.residual import BlockStream, check_unedited, residual_stream
from interp.errors import InputError
from interp.heads.token_classes import tokens_of
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.naming import head_name
from interp.progress import Bar
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from pathlib import Path

    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

SOURCE = "Ferrando and Voita, Information Flow Routes, arXiv 2403.00824; facebookresearch/llm-transparency-tool"
THRESHOLD = 0.04
FLOOR = 1e-5
"""Least importance of a part before parts are normalised; theirs."""
PART_NUMBERS = 1 << 22
"""Numbers of the parts of one row that are held at once: 16 MB in float32, and a few times that on the way."""

EDGES = {
    "kind": "str",
    "head": "str",
    "from_stage": "int64",
    "from_position": "int64",
    "to_stage": "int64",
    "to_position": "int64",
    "weight": "float64",
    "flow": "float64",
}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Routes(Result):
    """The graph that ends in one token after the last block.

    A stage is a place in the residual stream: 0 is the input of the first block, 2 l + 1 the stream after the attention of block
    l, 2 l + 2 after block l.

    edges     kind ("attention", "mlp", "residual"), head ("L5H1", "" where it is none), from_stage, from_position, to_stage,
              to_position, weight (share of the node that it leads to, after the threshold; those of a node sum to 1), flow
              (weight times the flow of that node)
    nodes     stage, position, token, flow: what of the last node comes through this one; the last has 1, each stage's sum to 1
    tokens    all tokens of the input
    position  of the last node
    blocks    how many
    """

    kind: ClassVar[str] = "routes"

    edges: pd.DataFrame
    nodes: pd.DataFrame
    tokens: tuple[str, ...]
    position: int
    blocks: int

    def to_frame(self) -> pd.DataFrame:
        """The edges, one a row."""
        return self.edges.copy()

    def inputs(self) -> pd.DataFrame:
        """Position, token and flow of the input's tokens that the routes lead to, largest first. The flows sum to 1."""
        found = self.nodes[self.nodes["stage"] == 0].drop(columns="stage")
        return found.sort_values("flow", ascending=False, ignore_index=True, kind="stable")

    def heads(self) -> pd.DataFrame:
        """Head and its flow over all of its edges, largest first."""
        found = self.edges[self.edges["kind"] == "attention"].groupby("head", sort=True)["flow"].sum().reset_index()
        return found.sort_values("flow", ascending=False, ignore_index=True, kind="stable")

    def plot(self) -> go.Figure:
        """The graph; see ``interp.plots.routes``."""
        from interp.plots.routes import routes_graph

        return routes_graph(self)

    def to_json(self, path: str | Path) -> Path:
        """Write nodes, edges and settings as JSON."""
        from interp.flow.route_files import as_json, written

        return written(path, as_json(self))

    def to_graphml(self, path: str | Path) -> Path:
        """Write the graph as GraphML, for Gephi, yEd, networkx and the like; a node is called "<stage>.<position>"."""
        from interp.flow.route_files import as_graphml, written

        return written(path, as_graphml(self))

    def summary(self) -> str:
        tokens = ", ".join(
            f"{token!r} at {position} ({flow:.2f})"
            for position, token, flow in self.inputs()[["position", "token", "flow"]].head(3).itertuples(index=False)
        )
        heads = ", ".join(f"{head} ({flow:.2f})" for head, flow in self.heads().head(4).itertuples(index=False))
        return (
            f"to {self.tokens[self.position]!r} at {self.position}: {len(self.nodes)} nodes, {len(self.edges)} edges\n"
            f"comes from {tokens}\nthrough {heads or 'no head'}"
        )


def routes(
    model: HookedModel,
    inputs: Inputs | Batch,
    position: int = -1,
    *,
    threshold: float = THRESHOLD,
    floor: float = FLOOR,
    beyond_context: bool = False,
    progress: bool = False,
) -> Routes:
    """The routes by which the representation of one token came about.

    A node y of the stream is a sum of parts p: after an attention, of what each head h brings from each token j,
    P_ij v_j W_O^h, and of the stream before; after a block, of its MLP and the stream before. How much of y a part is:

        e(p) = max(||y|| - ||y - p||, floor), in the L1 norm,    weight = e(p) / sum of e over y's parts

    Parts of up to ``threshold`` are dropped, the others' weights divided by their sum, and the same is done for the nodes that
    they come from, down to the input. Biases are part of y and have no edge, as there. Where attention and MLP stand side by
    side (GPT-NeoX), all parts are those of one node.

    Time: O(T H d) for each node that is reached after an attention; memory O(T) a layer. In the source's code keys that are
    hidden count with the floor, which makes the other weights a little smaller; here only visible keys are parts.

    Args:
        inputs: one sequence, as for ``HookedModel.capture``.
        position: which token's representation after the last block; negative ones count from the end.
        threshold: the largest weight that is dropped, in [0, 1); 0.04 in the source.
        floor: least e of a part, above 0.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.
        progress: show a progress bar over blocks on stderr.

    Raises:
        InputError: several sequences, a position that does not exist, options out of range, a model whose residual stream is not
            a plain sum (see ``interp.captures.residual``).
    """
    for name, value, low in (("threshold", threshold, -1e-300), ("floor", floor, 0.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < 1:
            raise InputError(
                f"{name}: expected a number {'above' if name == 'floor' else 'from'} 0 and below 1, got {value!r}"
            )
    batch = model.checked(inputs, beyond_context=beyond_context)
    if batch.ids is None or len(batch.ids) != 1 or batch.is_padded:
        raise InputError("inputs: expected one sequence of tokens without padding; follow several one by one")
    length = batch.ids.shape[1]
    at = whole(position)
    if at is None or not -length <= at < length:
        raise InputError(f"position: expected an integer from {-length} to {length - 1}, got {position!r}")
    position = at % length
    blocks = residual_stream(model, batch)
    found = _Graph(threshold, floor)
    found.flow[2 * len(blocks), position] = 1.0
    for number in Bar(reversed(range(len(blocks))), total=len(blocks), unit="block", show=progress, what="routes"):
        found.follow(number, blocks[number])
    tokens = tuple(token.text for token in tokens_of(model, batch)[0])
    nodes = pd.DataFrame(
        [(stage, at, tokens[at], flow) for (stage, at), flow in sorted(found.flow.items())],
        columns=["stage", "position", "token", "flow"],
    )
    return Routes(
        settings=settings_of(
            model,
            method="weight of a part p of y: max(||y|| - ||y - p||, floor) in L1, normalised; kept above the threshold",
            source=SOURCE,
            constants={"threshold": threshold, "floor": floor, "position": position},
            inputs=inputs_of(batch),
        ),
        edges=pd.DataFrame(found.edges, columns=list(EDGES)).astype(EDGES),
        nodes=nodes.astype({"flow": "float64"}),
        tokens=tokens,
        position=position,
        blocks=len(blocks),
    )


class _Graph:
    """The graph as it grows from its end to the input."""

    def __init__(self, threshold: float, floor: float) -> None:
        self.threshold, self.floor = threshold, floor
        self.flow: defaultdict[tuple[int, int], float] = defaultdict(float)
        self.edges: list[tuple[Any, ...]] = []

    def follow(self, number: int, block: BlockStream) -> None:
        """From the nodes after block ``number`` to those before it."""
        after, middle, before = 2 * number + 2, 2 * number + 1, 2 * number
        if block.middle is not None:
            for position in self._reached(after):
                y, x = block.after[0, position], block.middle[0, position]
                shares = self._kept(torch.stack([self._e(y, x), self._e(y, y - x)]))
                self._add("residual", "", (middle, position), (after, position), float(shares[0]))
                self._add("mlp", "", (middle, position), (after, position), float(shares[1]))
        target = middle if block.middle is not None else after
        for position in self._reached(target):
            self._attended(block, number, position, (before, position), (target, position))

    def _attended(
        self, block: BlockStream, number: int, position: int, source: tuple[int, int], target: tuple[int, int]
    ) -> None:
        whole = block.after if block.middle is None else block.middle
        y, x = whole[0, position], block.before[0, position]
        # The residual connection first, then an MLP that stands beside the attention, then heads x visible keys.
        single = [self._e(y, x)]
        if block.middle is None:
            single.append(self._e(y, y - x - block.attention[0, position]))
        keys, of_heads = self._of_heads(block, position, y)
        shares = self._kept(torch.cat([torch.stack(single), of_heads.flatten()]))
        self._add("residual", "", source, target, float(shares[0]))
        if block.middle is None:
            self._add("mlp", "", source, target, float(shares[1]))
        heads = shares[len(single) :].view_as(of_heads)
        for head, key in heads.nonzero().tolist():
            name = head_name(block.layer, head)
            self._add("attention", name, (source[0], int(keys[key])), target, float(heads[head, key]))

    def _of_heads(self, block: BlockStream, position: int, y: Tensor) -> tuple[Tensor, Tensor]:
        """The visible keys, and e of every head and visible key, [H, keys]."""
        ops = block.map.operands
        every = torch.arange(ops.keys, device=y.device)
        at, first = (
            torch.tensor(position + ops.offset, device=y.device),
            torch.zeros((), dtype=torch.int64, device=y.device),
        )
        keys = every[ops.mask.allows(at, every, first).expand(ops.keys)]
        rows = block.map.rows(position)  # [1, H, 1, Tk]
        check_unedited(block.layer, block.output[:, :, position : position + 1], rows, ops.v)
        row = rows[0, :, 0]
        weight = block.weight  # [H, Dv, d]
        values = ops.v[0].repeat_interleave(ops.group, dim=0)  # [H, Tk, Dv]
        parts = []
        for chunk in keys.split(max(1, PART_NUMBERS // (weight.shape[0] * weight.shape[2]))):
            p = torch.matmul(row[:, chunk, None].to(weight) * values[:, chunk], weight)  # [H, chunk, d]
            parts.append(self._e(y, p))
        return keys, torch.cat(parts, dim=1)

    def _e(self, y: Tensor, p: Tensor) -> Tensor:
        """max(||y|| - ||y - p||, floor) in L1, over the last axis."""
        y, p = y.double(), p.double()
        return (y.abs().sum() - (y - p).abs().sum(dim=-1)).clamp(min=self.floor)

    def _kept(self, e: Tensor) -> Tensor:
        """Shares of the parts, 0 up to the threshold; the others sum to 1. The largest is kept whatever it is."""
        shares = e / e.sum()
        kept = (shares > self.threshold) | (shares == shares.max())
        shares = torch.where(kept, shares, 0.0)
        return shares / shares.sum()

    def _reached(self, stage: int) -> list[int]:
        return sorted(position for at, position in self.flow if at == stage)

    def _add(self, kind: str, head: str, source: tuple[int, int], target: tuple[int, int], share: float) -> None:
        if share > 0:
            flow = share * self.flow[target]
            self.flow[source] += flow
            self.edges.append((kind, head, *source, *target, share, flow))
