"""The network of attention flow: what each token can pass down, attention by attention, and the largest flow through it.

A node is a token on a level; an edge (q on the level above) -> (k on the level below) can carry Abar_qk (``interp.flow.steps``).
scipy's maximum flow takes integers, and long inputs have too many edges to keep; for both the flow that is found is a lower
bound of the exact one, and cuts of the exact network give an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.errors import InputError
from interp.flow.mixing import Mixing
from interp.flow.steps import Step

if TYPE_CHECKING:
    from scipy.sparse import coo_array, csr_array

SCALE = 1 << 30
"""Units of capacity in 1. What leaves a node is at most 1, so that no sum of flows passes 2^31."""

MOST_EDGES = 20_000_000
"""Edges that are held: about 0.5 GB, with what scipy makes of them."""


@dataclass(frozen=True, eq=False)
class Network:
    """Part of the network of one sequence: what can be reached from the outputs that are asked for.

    capacity  [nodes, nodes], float64: the kept edges
    units     the same in whole units of 1 / SCALE, rounded down
    dropped   [nodes]: the capacity of each node's edges that were not kept
    read      [nodes]: whose edges were read, all that kept edges lead to; and those at the bottom, which have none
    place     [nodes]: an output draws on no node with a higher place than its own; the batch's padding has the highest
    level     [nodes]: the level of each node
    below     [levels]: the level that dropped edges of a level's nodes lead to, -1 at the bottom
    outputs   [T] nodes of the output side's tokens
    inputs    [T'] nodes of all sides' tokens at the bottom, sides in the order of ``Mixing.sides``
    entering  [T']: the capacity of all edges that lead to each input, dropped ones too; None where none were dropped
    kept      [steps, 2]: of each step, the share of all capacity that the kept edges have on average over the rows that were
              read, and the least of a row
    """

    capacity: coo_array
    units: csr_array
    dropped: np.ndarray
    read: np.ndarray
    place: np.ndarray
    level: np.ndarray
    below: np.ndarray
    outputs: np.ndarray
    inputs: np.ndarray
    entering: np.ndarray | None
    kept: np.ndarray

    @property
    def edges(self) -> int:
        return self.capacity.nnz


def network(found: Mixing, sequence: int, positions: Sequence[int], keep: int | None) -> Network:
    """The network below the outputs of one sequence. Nodes are the batch's columns, padding included, which nothing reaches.

    Args:
        keep: edges kept for each query and head, the largest; None: all of them.

    Raises:
        InputError: more than ``MOST_EDGES`` edges.
    """
    from scipy.sparse import coo_array

    widths = found.widths
    columns = {name: side.columns[sequence].cpu().numpy() for name, side in found.sides.items()}
    levels = _Levels()
    for name in widths:
        levels.add(name, widths[name])
    outputs = levels.start[found.output] + columns[found.output]
    reached = {name: np.zeros(width, dtype=bool) for name, width in widths.items()}
    reached[found.output][columns[found.output][list(positions)]] = True
    edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    read: list[tuple[np.ndarray, np.ndarray]] = []
    ends: list[tuple[int, int]] = []
    kept = []
    for step in found.steps:
        rows = np.flatnonzero(reached[step.queries])
        above, above_level = levels.start[step.queries], levels.at[step.queries]
        levels.add(step.queries, widths[step.queries])
        _check_edges(sum(len(c) for _, _, c in edges) + (_visible(step, rows) if keep is None else 0))
        part = _read(step, sequence, rows, keep)
        holds = part.stays > 0
        edges += [
            (above + part.q, levels.start[step.keys] + part.k, part.capacity),
            (above + rows[holds], levels.start[step.queries] + rows[holds], part.stays[holds]),
        ]
        _check_edges(sum(len(c) for _, _, c in edges))
        read.append((above + rows, part.lost))
        ends.append((above_level, levels.at[step.keys]))
        share = 1 - np.divide(part.lost, part.whole, out=np.zeros_like(part.lost), where=part.whole > 0)
        kept.append((share.mean(), share.min()) if rows.size else (1.0, 1.0))
        reached[step.queries] = np.zeros(widths[step.queries], dtype=bool)
        reached[step.queries][rows[holds]] = True
        reached[step.keys][part.k] = True
    source, sink, carried = (np.concatenate(each) for each in zip(*edges, strict=True))
    capacity = coo_array((carried, (source, sink)), shape=(levels.nodes, levels.nodes)).tocsr()
    capacity.sum_duplicates()
    units = capacity.copy()
    units.data = np.floor(units.data * SCALE).astype(np.int32)
    units.eliminate_zeros()
    units.indices, units.indptr = units.indices.astype(np.int32), units.indptr.astype(np.int32)
    level = np.concatenate(levels.of_nodes)
    is_read, dropped = np.isin(level, list(levels.at.values())), np.zeros(levels.nodes)
    for nodes, lost in read:
        is_read[nodes], dropped[nodes] = True, lost
    below = dict(ends)
    last = max(position for position in positions)
    return Network(
        capacity.tocoo(),
        units,
        dropped,
        is_read,
        np.concatenate([_places(found, columns, name, width) for name, width in levels.sides]),
        level,
        np.array([below.get(number, -1) for number in range(len(levels.of_nodes))]),
        outputs,
        np.concatenate([levels.start[name] + columns[name] for name in found.sides]),
        None if keep is None else _entering(found, sequence, columns, levels, ends, last),
        np.array(kept)[::-1],
    )


def _check_edges(count: int) -> None:
    if count > MOST_EDGES:
        raise InputError(
            f"attention flow: the network has {count:,} edges or more, and {MOST_EDGES:,} are allowed; keep the largest of each "
            "query and head with keep=, or choose a shorter input"
        )


def _visible(step: Step, rows: np.ndarray) -> int:
    """How many edges the rows have at most, padding included."""
    ops = step.lazy.operands
    spans = (ops.mask.key_span(int(q) + ops.offset, int(q) + ops.offset, ops.keys) for q in rows)
    return sum(stop - start for start, stop in spans)


class _Levels:
    """Levels of nodes, as they are added, each with a node for every column of the batch on one side."""

    def __init__(self) -> None:
        self.nodes = 0
        self.of_nodes: list[np.ndarray] = []
        self.sides: list[tuple[str, int]] = []
        self.start: dict[str, int] = {}
        """The first node of each side's lowest level."""
        self.at: dict[str, int] = {}
        """The number of that level."""

    def add(self, side: str, width: int) -> None:
        self.start[side], self.at[side] = self.nodes, len(self.of_nodes)
        self.of_nodes.append(np.full(width, len(self.of_nodes)))
        self.sides.append((side, width))
        self.nodes += width


def _places(found: Mixing, columns: dict[str, np.ndarray], side: str, width: int) -> np.ndarray:
    """See ``Network.place``."""
    places = np.full(width, np.iinfo(np.int64).max)
    places[columns[side]] = np.arange(len(columns[side])) if found.looks_back and side == found.output else 0
    return places


def _entering(
    found: Mixing,
    sequence: int,
    columns: dict[str, np.ndarray],
    levels: _Levels,
    ends: Sequence[tuple[int, int]],
    last: int,
) -> np.ndarray:
    """The capacity of all edges into each input, from tokens that an output up to ``last`` can draw on."""
    into = {name: torch.zeros(width, dtype=torch.float64) for name, width in found.widths.items()}
    for step, (_, end) in zip(found.steps, ends, strict=True):
        if end != levels.at[step.keys]:
            continue
        own = columns[step.queries]
        rows = own[: last + 1] if found.looks_back and step.queries == found.output else own
        weights = step.lazy.lse.new_zeros(step.lazy.shape[0], step.lazy.shape[2], 1)
        weights[sequence, torch.from_numpy(rows).to(weights.device)] = 1.0
        moved, stays = (x[sequence, :, 0].double().cpu() for x in step.pull(weights))
        into[step.keys] += moved
        if step.keys == step.queries:
            into[step.keys] += stays
    every = torch.cat([into[name][columns[name]] for name in found.sides]).numpy()
    # Sums over the rows in float32, whose rounding may not make the bound too low.
    return every * (1 + max(found.widths.values()) * float(np.finfo(np.float32).eps))


def largest_flows(net: Network, source: int) -> tuple[np.ndarray, np.ndarray]:
    """The maximum flow from a node to every input, between bounds: low [T'] and high [T'].

    low is the maximum flow through the kept edges, rounded down. high is the least of the capacities of some cuts of the
    network with all of its edges, unrounded: a dropped edge is taken to cross a cut wherever it could.
    """
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    alone = np.zeros(len(net.level), dtype=bool)
    alone[source] = True
    reached = np.zeros(len(net.level), dtype=bool)
    reached[breadth_first_order(net.units, source, return_predecessors=False)] = True
    low, high = np.zeros(len(net.inputs)), np.zeros(len(net.inputs))
    for number, sink in enumerate(net.inputs):
        if reached[sink]:
            found = maximum_flow(net.units, int(source), int(sink))
            low[number] = found.flow_value / SCALE
            left = net.units - found.flow
            left.eliminate_zeros()
        else:
            left = net.units.copy()
        # Two least cuts of the kept edges: the one nearest to the source, and the one nearest to the sink.
        near = np.zeros(len(net.level), dtype=bool)
        near[breadth_first_order(left, source, return_predecessors=False)] = True
        far = np.ones(len(net.level), dtype=bool)
        far[breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)] = False
        high[number] = min(_cut(net, near, source), _cut(net, far & net.read, source))
    high = np.minimum(high, _cut(net, alone, source))
    if net.entering is not None:
        high = np.minimum(high, net.entering)
    return low, np.maximum(high, low)


def _cut(net: Network, inside: np.ndarray, source: int) -> float:
    """Capacity of what leads out of a set of read nodes, in the network with all of its edges."""
    crossing = float(net.capacity.data[inside[net.capacity.row] & ~inside[net.capacity.col]].sum())
    is_open = np.zeros(len(net.below), dtype=bool)
    is_open[net.level[~inside & (net.place <= net.place[source])]] = True
    # Nothing was dropped of the nodes at the bottom, below which there is no level.
    return crossing + float(net.dropped[inside & is_open[net.below[net.level]]].sum())


@dataclass(frozen=True, eq=False)
class _Read:
    """The edges of some rows of a step.

    q, k, capacity  [edges] of attention: query, key and what it can carry
    stays           [rows]: what each row's token keeps of itself
    lost, whole     [rows]: capacity of attention that was dropped, and all of it
    """

    q: np.ndarray
    k: np.ndarray
    capacity: np.ndarray
    stays: np.ndarray
    lost: np.ndarray
    whole: np.ndarray


def _read(step: Step, sequence: int, rows: np.ndarray, keep: int | None) -> _Read:
    if not rows.size:
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        return _Read(none, none, nothing, nothing, nothing, nothing)
    return _all_edges(step, sequence, rows) if keep is None else _largest_edges(step, sequence, rows, keep)


def _all_edges(step: Step, sequence: int, rows: np.ndarray) -> _Read:
    """Of a block of rows after the other."""
    edges, stays, whole = [], [], []
    for block in step.row_blocks(int(rows[0]), int(rows[-1]) + 1):
        wanted = torch.from_numpy(rows[(rows >= block.start) & (rows < block.stop)])
        if not wanted.numel():
            continue
        fused = step.fused(block, sequence)[0].double().cpu()[wanted - block.start]
        a, e = step.rule.factors(fused.sum(dim=-1))
        share = (a[:, None] * fused).numpy()
        q, k = np.nonzero(share)
        edges.append((wanted.numpy()[q], k, share[q, k]))
        stays.append(e.numpy())
        whole.append(share.sum(axis=1))
    q, k, capacity = (np.concatenate(each) for each in zip(*edges, strict=True))
    return _Read(q, k, capacity, np.concatenate(stays), np.zeros(len(rows)), np.concatenate(whole))


def _largest_edges(step: Step, sequence: int, rows: np.ndarray, keep: int) -> _Read:
    """The ``keep`` largest of every head: of a key that some heads keep, these heads' part of the mean."""
    keys = step.lazy.shape[3]
    of_heads = [step.lazy.head(sequence, h).topk(min(keep, keys)) for h in step.heads]
    value, index = (
        torch.cat([x[0] for x in each])[:, rows].cpu() for each in zip(*of_heads, strict=True)
    )  # [n, rows, k]
    sums = step.row_sums()[sequence].double().cpu()[rows]
    a, e = step.rule.factors(sums)
    share = a[None, :, None] * value.double() / len(step.heads)
    whole = a * sums
    lost = (whole - share.sum(dim=(0, 2))).clamp(min=0.0)
    there = index >= 0
    q = torch.from_numpy(rows)[None, :, None].expand_as(index)
    return _Read(q[there].numpy(), index[there].numpy(), share[there].numpy(), e.numpy(), lost.numpy(), whole.numpy())
