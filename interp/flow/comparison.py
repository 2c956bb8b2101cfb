"""Do several ways of tracing outputs to tokens agree? Rank correlations on the same outputs, averaged over texts.

Abnar and Zuidema (arXiv 2005.00928) compare raw attention, rollout and flow by Spearman's rank correlation of the tokens' weights
in each example, averaged over the examples. Ties share their mean rank (``interp.flow.ranks``).

Raw attention of a layer, averaged over heads, is rollout through that layer alone and without residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from interp.errors import InputError
from interp.flow.ranks import FEWEST, spearman
from interp.flow.token_weights import TokenWeights
from interp.results.means import give_or_take
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PLACE = "place"
"""Stands for the token's place in its sequence: a method that follows it ranks tokens by how late they come."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Comparison(Result):
    """Rank correlations of methods over the same outputs; see ``compare``.

    correlations  one row for each output and pair: sequence, position, first, second, correlation (NaN where one of the two
                  gives all tokens the same weight)
    methods       their names, ``PLACE`` last
    """

    kind: ClassVar[str] = "flow_comparison"

    correlations: pd.DataFrame
    methods: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair: first, second, correlation (mean over outputs), stderr of that mean, outputs."""
        groups = self.correlations.groupby(["first", "second"], sort=False)["correlation"]
        frame = groups.agg(correlation="mean", stderr="sem", outputs="count").reset_index()
        return frame

    def plot(self) -> go.Figure:
        """Methods x methods: the mean correlation; see ``interp.plots.flow``."""
        from interp.plots.flow import correlation_grid

        return correlation_grid(self)

    def summary(self) -> str:
        return "\n".join(
            f"{row['first']} and {row['second']}: rank correlation {row['correlation']:.2f}{give_or_take(row['stderr'])} over "
            f"{row['outputs']} output{'s' if row['outputs'] != 1 else ''}"
            for row in self.to_frame().to_dict("records")
        )


def compare(results: Mapping[str, TokenWeights]) -> Comparison:
    """Spearman's rank correlation between each two results, over the tokens that an output can draw on.

    One correlation for each output, and their mean with its standard error: give one output a text (the default of the
    analyses), as outputs of one text depend on each other. Each is compared with the tokens' places too.

    Args:
        results: at least two, by name, of the same outputs of the same inputs.

    Raises:
        InputError: fewer; results of other inputs or outputs; no output that can draw on ``FEWEST`` tokens.
    """
    _check_results(results, 2)
    names = list(results)
    if PLACE in names:
        raise InputError(f"results: {PLACE!r} stands for the tokens' places; give that result another name")
    first = results[names[0]]
    for name in names[1:]:
        _check_same(first, results[name], names[0], name)
    correlations = _correlations(results)
    if correlations.empty:
        raise InputError(f"results: no output draws on {FEWEST} tokens or more; give longer inputs or later positions")
    settings = {
        "method": "Spearman's rank correlation of the weights on the tokens that an output can draw on",
        "source": "Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928",
        "constants": {name: result.settings["constants"] for name, result in results.items()},
        "inputs": first.settings["inputs"],
        "model": first.settings["model"],
    }
    return Comparison(settings=settings, correlations=correlations, methods=(*names, PLACE))


def side_by_side(results: Mapping[str, TokenWeights], sequence: int = 0, position: int | None = None) -> go.Figure:
    """One output's weights by several methods, a panel each; see ``interp.plots.flow.token_bars``.

    Raises:
        InputError: results of other inputs, or without that output.
    """
    from interp.plots.flow import token_bars

    _check_results(results, 1)
    names = list(results)
    for name in names[1:]:
        _check_same(results[names[0]], results[name], names[0], name)
    return token_bars(results, [result.row(sequence, position) for result in results.values()])


def _correlations(results: Mapping[str, TokenWeights]) -> pd.DataFrame:
    import pandas as pd

    first = next(iter(results.values()))
    rows = []
    for n, (sequence, position) in enumerate(zip(first.sequence, first.position, strict=True)):
        before = first.encoder_tokens[sequence] if first.encoder_tokens else 0
        count = before + int(position) + 1 if first.is_causal else len(first.tokens[sequence])
        if count < FEWEST:
            continue
        weights = {name: result.weights[n, 0, :count] for name, result in results.items()} | {PLACE: np.arange(count)}
        names = list(weights)
        rows += [
            (int(sequence), int(position), one, other, spearman(weights[one], weights[other]))
            for i, one in enumerate(names)
            for other in names[i + 1 :]
        ]
    return pd.DataFrame(rows, columns=["sequence", "position", "first", "second", "correlation"])


def _check_results(results: Any, least: int) -> None:
    given = dict(results) if isinstance(results, Mapping) else {}
    if len(given) < least or not all(isinstance(n, str) and isinstance(r, TokenWeights) for n, r in given.items()):
        many = "one" if least == 1 else "two"
        raise InputError(
            f"results: expected at least {many} of rollout or attention_flow, by name, such as {{'rollout': found}}, got "
            f"{list(given) if given else type(results).__name__}"
        )


def _check_same(one: TokenWeights, other: TokenWeights, first: str, second: str) -> None:
    for what, same in (
        ("inputs", one.settings["inputs"] == other.settings["inputs"] and one.tokens == other.tokens),
        ("outputs", np.array_equal(one.sequence, other.sequence) and np.array_equal(one.position, other.position)),
    ):
        if not same:
            raise InputError(f"results: {first!r} and {second!r} are of different {what}; make both of the same")
