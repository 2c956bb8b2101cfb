"""Attention flow: how much of an output could come from each input token, as the maximum flow through the layers' attention.

A network with a node for each token on each level; the edge from token q going out of layer l to token k going into it can carry
Abar_l[q, k] (as in rollout). What an output owes to an input is the maximum flow between their nodes, each input for itself; an
output's flows are divided by their sum. Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers (arXiv 2005.00928),
and its code, samiraabnar/attention_flow.

Rollout is one way to send 1 through this network, so that a token's flow is never less than its weight in rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.errors import InputError
from interp.flow.capacities import SCALE, Network, largest_flows, network
from interp.flow.mixing import mixing
from interp.flow.rollout import SOURCE, constants_of
from interp.flow.steps import Fusion, Rule
from interp.flow.token_weights import TokenWeights
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey
from interp.progress import Bar
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

SECONDS_AN_EDGE = 1e-7
"""What one flow takes for each edge of the network, about; measured by benchmarks/analyses.py."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AttentionFlow(TokenWeights):
    """Flow of chosen outputs from the tokens; see ``attention_flow``.

    weights    [N, 1, T]: each output's flows divided by their sum
    low, high  [N, 1, T]: between which the weight of the exact flows lies, whatever was rounded and dropped
    flow       [N, T]: the maximum flow that was found, at most 1; the exact one lies between it and ``flow_high``
    flow_high  [N, T]
    edges      of each sequence's network
    kept       [sequences, layers, 2]: the share of the capacity of attention that kept edges have, on average over the queries
               that can be reached, and of the worst of them; 1 where nothing was dropped. Layers as in settings' "heads"
    """

    kind: ClassVar[str] = "attention_flow"

    low: np.ndarray
    high: np.ndarray
    flow: np.ndarray
    flow_high: np.ndarray
    edges: tuple[int, ...]
    kept: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """One row for each output and token; see ``columns_of_frame``. Columns weight, low, high, flow, flow_high."""
        flows = {"flow": self.flow[:, None], "flow_high": self.flow_high[:, None]}
        return self.columns_of_frame({"weight": self.weights, "low": self.low, "high": self.high, **flows})

    def plot(self, sequence: int = 0, position: int | None = None) -> go.Figure:
        """The weights of one output, a bar a token, with their bounds; see ``interp.plots.flow``."""
        from interp.plots.flow import token_bars

        return token_bars({"attention flow": self}, [self.row(sequence, position)])

    def summary(self) -> str:
        lines = []
        for row in range(min(len(self.sequence), 3)):
            number = int(self.sequence[row])
            tokens = self.tokens[number]
            best = np.argsort(-self.weights[row, 0, : len(tokens)], kind="stable")[:4]
            told = ", ".join(f"{tokens[k]!r} (token {k}) {self.weights[row, 0, k]:.3f}" for k in best)
            lines.append(
                f"output of token {self.position[row]} {self.output_token(row)!r} of sequence {number}: most from {told}"
            )
        if len(self.sequence) > len(lines):
            lines.append(f"and {len(self.sequence) - len(lines)} outputs more")
        gap = float(np.nanmax(self.flow_high - self.flow))
        dropped = (
            "no edge dropped" if self.kept.min() == 1 else f"kept at least {self.kept[..., 1].min():.1%} of each query"
        )
        lines.append(f"flows are at most {gap:.2g} below the exact ones ({dropped})")
        return "\n".join(lines)


def attention_flow(
    model: HookedModel,
    inputs: Inputs | Batch,
    positions: int | Sequence[int] | str | None = None,
    *,
    residual: bool = True,
    fusion: Fusion = "mean",
    normalize: bool = True,
    heads: HeadSpec | Iterable[HeadSpec] | None = None,
    layers: Iterable[LayerKey] | None = None,
    keep: int | None = None,
    max_minutes: float = 5.0,
    beyond_context: bool = False,
    progress: bool = False,
) -> AttentionFlow:
    """Attention flow of chosen outputs: the maximum flow from each to every input token, divided by their sum.

    The network's capacities are the Abar of ``rollout``, with its arguments. Of an encoder-decoder the steps are those of
    rollout; an encoder's output is one node, whichever layers of the decoder look at it.

    The flow is scipy's ``maximum_flow`` on capacities in whole units of 2^-30, rounded down. What the exact flow can be more is
    reported (``flow_high``), from cuts of the network with unrounded capacities; with ``keep`` also what dropped edges could
    carry. Bounds are those of the map as it is computed, in float32.

    Cost: of T tokens and L layers about T flows through L T^2 / 2 edges (causal), each edge read tile by tile: O(L T^2)
    memory, and time that grows as T^3. A run that would take longer than ``max_minutes`` is refused.

    Args:
        positions: as for ``rollout``. Every output is T flows.
        keep: of every query and head, only the largest probabilities (``AttentionMap.topk``): O(L T H keep) memory.
        max_minutes: the longest that it may take, by an estimate.
        progress: show a progress bar on stderr.

    Raises:
        InputError: as for ``rollout``; a run that would take too long, with what it would take; scipy is not installed.
    """
    _check(keep, max_minutes, fusion)
    rule = Rule(residual, fusion, normalize)
    found, wanted = mixing(
        model, inputs, rule, layers=layers, heads=heads, positions=positions, beyond_context=beyond_context
    )
    longest = max(len(found.tokens(number)) for number in range(found.sequences))
    shape = (len(wanted), 1, longest)
    flow, flow_high = np.full(shape, np.nan), np.full(shape, np.nan)
    rows_of = [[n for n, (of, _) in enumerate(wanted) if of == number] for number in range(found.sequences)]
    networks = []
    seconds = 0.0
    for number, rows in enumerate(rows_of):
        networks.append(network(found, number, [wanted[n][1] for n in rows], keep))
        seconds += len(rows) * _seconds(networks[-1])
        _check_time(seconds, max_minutes, keep)
    with Bar(total=len(wanted), unit="output", what=f"attention flow {model.name}", show=progress) as bar:
        for net, rows in zip(networks, rows_of, strict=True):
            for n in rows:
                low, high = largest_flows(net, int(net.outputs[wanted[n][1]]))
                flow[n, 0, : len(low)], flow_high[n, 0, : len(low)] = low, high
                bar.update()
    return AttentionFlow(
        settings=settings_of(
            model,
            method="maximum flow from an output to each input token through capacities Abar, divided by the flows' sum",
            source=SOURCE,
            constants=constants_of(found, rule) | {"keep": keep, "scale": SCALE},
            inputs=inputs_of(found.batch),
        ),
        weights=_over(flow, np.nansum(flow, axis=-1, keepdims=True)),
        # A weight is least where its own flow is least and all others are largest.
        low=_over(flow, np.nansum(flow_high, axis=-1, keepdims=True) - flow_high + flow),
        high=_over(flow_high, np.nansum(flow, axis=-1, keepdims=True) - flow + flow_high),
        flow=flow[:, 0],
        flow_high=flow_high[:, 0],
        edges=tuple(net.edges for net in networks),
        kept=np.stack([net.kept for net in networks]),
        levels=(str(found.steps[-1].layer),),
        sequence=np.array([number for number, _ in wanted]),
        position=np.array([position for _, position in wanted]),
        tokens=tuple(found.tokens(number) for number in range(found.sequences)),
        encoder_tokens=found.encoder_tokens,
        is_causal=found.looks_back,
    )


def _over(flow: np.ndarray, total: np.ndarray) -> np.ndarray:
    """flow / total; 0 where nothing flows at all, NaN where there is no token."""
    return np.divide(flow, total, out=np.where(np.isnan(flow), np.nan, 0.0), where=total > 0)


def _seconds(net: Network) -> float:
    """About what the flows of one output take."""
    return len(net.inputs) * net.edges * SECONDS_AN_EDGE


def _check(keep: object, max_minutes: object, fusion: object) -> None:
    if keep is not None and (type(keep) is not int or keep < 1):
        raise InputError(f"keep: expected None or an integer of at least 1, got {keep!r}")
    if keep is not None and fusion == "max":
        raise InputError("keep: the largest edges of the maximum over heads need all of the map; use fusion='mean'")
    if isinstance(max_minutes, bool) or not isinstance(max_minutes, int | float) or not max_minutes > 0:
        raise InputError(f"max_minutes: expected a number above 0, got {max_minutes!r}")
    try:
        import scipy.sparse.csgraph  # noqa: F401
    except ImportError:
        raise InputError(
            "attention flow needs scipy, which the extra `analysis` brings: pip install 'interp[analysis]'"
        ) from None


def _check_time(seconds: float, max_minutes: float, keep: int | None) -> None:
    if seconds > 60 * max_minutes:
        fewer = "a smaller keep=" if keep else "keep=, which drops all but the largest edges of every query and head"
        raise InputError(
            f"attention flow would take about {seconds / 60:,.0f} minutes or more here, and {max_minutes:g} are allowed; use "
            f"fewer positions, a shorter input, {fewer}, or rollout, which is exact at any length; or allow it with max_minutes="
        )
