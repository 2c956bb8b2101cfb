"""Lookback Lens: is what the model writes borne out by its context? A logistic regression on every head's lookback ratio.

Chuang et al., "Lookback Lens: Detecting and Mitigating Contextual Hallucinations in Large Language Models Using Only Attention
Maps" (arXiv 2407.07071); voidism/Lookback-Lens. As there: features are means over windows of 8 new tokens, a window counts as
borne out if each of its tokens does, and the regression is scikit-learn's with its default penalty, on unscaled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from interp.errors import InputError
from interp.heads.clusters import check_sklearn
from interp.heads.lookback import SOURCE
from interp.heads.lookback_ratios import WINDOW, LookbackRatios
from interp.naming import head_name
from interp.results.result import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

ITERATIONS = 1000


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LookbackDetector(Result):
    """A fitted detector; make one with ``fit``, use it with ``apply``.

    coefficients  [L, H]; intercept: with x a window's features, P(borne out) = 1 / (1 + exp(-(intercept + coefficients . x)))
    layers        keys of the layers, as strings
    window        new tokens that a feature is the mean over
    windows       how many it was fitted on; share: of them that are borne out
    """

    kind: ClassVar[str] = "lookback_detector"

    coefficients: np.ndarray
    intercept: float
    layers: tuple[str, ...]
    window: int
    windows: int
    share: float

    @classmethod
    def fit(
        cls,
        ratios: LookbackRatios,
        labels: Sequence[Sequence[float] | float],
        *,
        window: int = WINDOW,
        penalty: float = 1.0,
    ) -> Self:
        """Fit it to responses of which it is known what the context bears out.

        Args:
            ratios: of the responses, from ``interp.heads.lookback``.
            labels: for each sequence 1 (borne out) or 0, or so for each of its new tokens.
            window: new tokens that a feature is the mean over.
            penalty: strength of the L2 penalty on the coefficients, 1 / C in scikit-learn's words.

        Raises:
            InputError: labels that do not fit, windows of one kind only, sequences that are too short, no scikit-learn.
        """
        check_sklearn()
        if not isinstance(penalty, int | float) or not 0 < penalty < float("inf"):
            raise InputError(f"penalty: expected a number above 0, got {penalty!r}")
        features, places = _defined(_checked(ratios), window)
        wanted = _labels(ratios, labels)
        y = np.array([min(wanted[s][start:stop]) for s, start, stop in places.itertuples(index=False)])
        if len(set(y.tolist())) < 2:
            raise InputError(
                f"labels: all {len(y)} windows of {window} new tokens are {int(y[0])}; a window is 1 only if all of its tokens "
                "are: give examples of both kinds"
            )
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1 / penalty, max_iter=ITERATIONS).fit(features, y)
        return cls(
            settings={
                **ratios.settings,
                "method": "logistic regression on the mean lookback ratio of each head over a window of new tokens",
                "source": SOURCE,
                "constants": {**ratios.settings.get("constants", {}), "window": window, "penalty": penalty},
            },
            coefficients=fitted.coef_[0].reshape(ratios.ratios.shape[1:3]),
            intercept=float(fitted.intercept_[0]),
            layers=ratios.layers,
            window=window,
            windows=len(y),
            share=float(y.mean()),
        )

    def apply(self, ratios: LookbackRatios) -> pd.DataFrame:
        """One row a window: sequence, start, stop, and the probability that the context bears its tokens out.

        Raises:
            InputError: the ratios are of other layers or heads, or the sequences are too short.
        """
        shape = _checked(ratios).ratios.shape[1:3]
        if ratios.layers != self.layers or shape != self.coefficients.shape:
            raise InputError(
                f"ratios: this detector was fitted on layers {list(self.layers)} of {self.coefficients.shape[1]} heads, and "
                f"these are of layers {list(ratios.layers)} of {shape[1]} heads"
            )
        features, places = _defined(ratios, self.window)
        score = features @ self.coefficients.ravel() + self.intercept
        return places.assign(probability=np.exp(-np.logaddexp(0.0, -score)))

    def auroc(self, ratios: LookbackRatios, labels: Sequence[Sequence[float] | float]) -> float:
        """Area under the ROC curve on other responses: how often a window that is borne out gets more than one that is not.

        Raises:
            InputError: as for ``fit`` and ``apply``.
        """
        check_sklearn()
        found, wanted = self.apply(ratios), _labels(ratios, labels)
        rows = zip(found["sequence"], found["start"], found["stop"], strict=True)
        y = np.array([min(wanted[s][start:stop]) for s, start, stop in rows])
        if len(set(y.tolist())) < 2:
            raise InputError(f"labels: all {len(y)} windows are {int(y[0])}; the area needs examples of both kinds")
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(y, found["probability"]))

    def to_frame(self) -> pd.DataFrame:
        """One row a head: layer, head, coefficient."""
        layer, head = np.indices(self.coefficients.shape)
        return pd.DataFrame(
            {
                "layer": [self.layers[number] for number in layer.ravel()],
                "head": head.ravel(),
                "coefficient": self.coefficients.ravel(),
            }
        )

    def plot(self) -> go.Figure:
        """Coefficient of each head; see ``interp.plots.lookback``."""
        from interp.plots.lookback import coefficients

        return coefficients(self)

    def summary(self) -> str:
        frame = self.to_frame().sort_values("coefficient", kind="stable")
        named = [
            f"{head_name(layer, int(head))} {value:+.2f}"
            for layer, head, value in zip(frame["layer"], frame["head"], frame["coefficient"], strict=True)
        ]
        return (
            f"fitted on {self.windows} windows of {self.window} new tokens, {self.share:.0%} borne out by the context\n"
            f"for it speak {', '.join(named[-3:][::-1])}; against it {', '.join(named[:3])}"
        )


def _checked(ratios: Any) -> LookbackRatios:
    if not isinstance(ratios, LookbackRatios):
        raise InputError(f"ratios: expected those that interp.heads.lookback gives, got {type(ratios).__name__}")
    return ratios


def _defined(ratios: LookbackRatios, window: int) -> tuple[np.ndarray, pd.DataFrame]:
    features, places = ratios.windows(window)
    if np.isnan(features).any():
        raise InputError(
            "ratios: a head looked at neither the context nor what is new in some window, so that its ratio is undefined; choose "
            "a context that every head can see"
        )
    return features, places


def _labels(ratios: LookbackRatios, labels: Any) -> list[list[float]]:
    """0 or 1 of each new token of each sequence."""
    each = list(labels) if np.iterable(labels) else []
    if len(each) != len(ratios.tokens):
        came = len(each) if np.iterable(labels) else repr(labels)
        raise InputError(f"labels: expected one for each of the {len(ratios.tokens)} sequences, got {came}")
    found = []
    for number, (label, tokens) in enumerate(zip(each, ratios.tokens, strict=True)):
        try:
            by_token = [float(label)] * len(tokens) if np.ndim(label) == 0 else [float(value) for value in label]
        except (TypeError, ValueError):
            by_token = []
        if len(by_token) != len(tokens) or not set(by_token) <= {0.0, 1.0}:
            raise InputError(
                f"labels: sequence {number} has {len(tokens)} new tokens; expected 0 or 1, or so many of them, got {label!r:.60}"
            )
        found.append(by_token)
    return found
