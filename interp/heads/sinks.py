"""Attention sinks of a model: columns that every query looks at, at the first token and elsewhere, and what goes with them.

    alpha_k = sum_q A[q, k] / (queries that see k),     on a full causal map (T - k) queries, k counted from 0
    Sink_k  = share of heads and samples with alpha_k > 0.3, T = 64

of Gu et al., When Attention Sink Emerges in Language Models (arXiv 2410.10781). Hidden sinks are the columns with
alpha_k > 0.1 but for the first such column of each head: Yu et al., Unveiling and Harnessing Hidden Attention Sinks
(arXiv 2406.15765). Massive activations: see ``interp.heads.massive``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.hidden_sink import MIN_QUERIES
from interp.heads.massive import Place, Stream
from interp.heads.sinks_result import Sinks
from interp.heads.texts import batches_of, single_stack
from interp.results.settings import checksum, settings_of
from interp_kernels import Received

if TYPE_CHECKING:
    from interp.captures.capture import Capture
    from interp.inputs.batch import Batch
    from interp.inputs.rows import Inputs
    from interp.models.hooked import HookedModel

HIDDEN = ("sample", "layer", "head", "position", "token", "alpha", "is_hidden", "value_norm", "mean_value_norm")
ACTIVATIONS = ("place", "rank", "sample", "position", "token", "dimension", "value", "median", "ratio", "is_massive")
STREAM = ("place", "largest", "median", "largest_ratio", "massive", "samples_with")


def sinks(
    model: HookedModel,
    inputs: Inputs | Batch,
    *,
    window: int | None = 64,
    threshold: float = 0.3,
    hidden_threshold: float = 0.1,
    min_queries: int = MIN_QUERIES,
    massive: bool = True,
    massive_size: float = 100.0,
    massive_ratio: float = 1000.0,
    top: int = 3,
    beyond_context: bool = False,
) -> Sinks:
    """Where the heads of a model park their attention, and whether massive activations stand there.

    One forward run over the inputs, O(T) memory. Edits in force on the model are in force here.

    Args:
        inputs: one text or text file is cut into windows; texts, token ids or a ``Batch`` are measured as they are given, and T
            is then their length.
        window: T, positions of a window, special tokens included; None: a text is one sequence. The rate depends on T.
        threshold: alpha_k that counts in Sink_k (epsilon of the paper).
        hidden_threshold: alpha_k that a hidden sink exceeds.
        min_queries: queries that must follow a hidden sink in a causal layer; 1 in ACT's code. With 10 the whole attention of one
            query is no sink.
        massive: look at the residual stream too.
        massive_size, massive_ratio: what |x| exceeds, and how many times the median it is at least.
        top: how many ranks of the largest numbers to keep at each place of the stream.

    Raises:
        InputError: a threshold or number out of range; inputs that do not fit; a model with several stacks of layers.
    """
    _check(window, min_queries, massive, top)
    constants = {
        "window": window,
        "threshold": _number("threshold", threshold, 1.0),
        "hidden_threshold": _number("hidden_threshold", hidden_threshold, 1.0),
        "min_queries": min_queries,
        "massive_size": _number("massive_size", massive_size),
        "massive_ratio": _number("massive_ratio", massive_ratio),
        "top": top,
        "is_causal": model.shape.is_causal,
    }
    layers = single_stack(model, "sinks")
    found = _Found(layers, constants["threshold"])
    stream = Stream(constants["massive_size"], constants["massive_ratio"], top)
    sums: list[str] = []
    for batch in batches_of(model, inputs, window, beyond_context=beyond_context):
        assert batch.ids is not None
        keep = torch.ones_like(batch.ids, dtype=torch.bool) if batch.keep is None else batch.keep
        probe = Received(normalize=True, name="alpha", queries=keep)
        options: dict[str, Any] = {"layers": layers, "value_norms": True, "beyond_context": beyond_context}
        if massive:
            with stream.watching(model, keep):
                capture = model.capture(batch, [probe], **options)
            stream.named(capture.tokens)
        else:
            capture = model.capture(batch, [probe], **options)
        chance = uniform_stats([probe], [capture.masks[layer] for layer in layers], batch.ids)
        found.add(capture, keep, [stats["alpha"] for stats in chance], hidden_threshold, min_queries)
        sums.append(checksum(batch))
    settings = settings_of(
        model,
        method="alpha_k = sum_q A[q, k] / (queries that see k); Sink_k = share of heads and samples with alpha_k > threshold; "
        "hidden sinks: alpha_k > hidden_threshold but for the first such column of a head",
        source="Gu et al., arXiv 2410.10781; Yu et al., arXiv 2406.15765; Sun et al., arXiv 2402.17762",
        constants=constants,
        inputs={"sequences": found.sequences, "tokens": max(found.lengths), "sha256": sums},
    )
    return found.result(settings, stream.places)


@dataclass
class _Found:
    """Sums over samples; positions are filled up with 0 to those of the longest."""

    layers: Sequence[int]
    threshold: float
    alpha: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    above: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    chance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    rates: list[np.ndarray] = field(default_factory=list)  # of each sample, [its positions]
    columns: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def sequences(self) -> int:
        return len(self.rates)

    @property
    def lengths(self) -> list[int]:
        return [len(rate) for rate in self.rates]

    def add(
        self, capture: Capture, keep: Tensor, chance: Sequence[Tensor], hidden_threshold: float, min_queries: int
    ) -> None:
        first = self.sequences
        self._add_columns(capture, keep, hidden_threshold, min_queries)
        heads = max(capture["alpha"][layer].shape[1] for layer in self.layers)
        for row, kept in enumerate(keep):
            n = int(kept.sum())
            alpha = np.full((len(self.layers), heads, n), np.nan)
            level = np.empty((len(self.layers), n))
            for at, layer in enumerate(self.layers):
                of_layer = capture["alpha"][layer][row][:, kept].double().cpu().numpy()
                alpha[at, : len(of_layer)] = of_layer
                level[at] = chance[at][row, 0, kept].double().cpu().numpy()
            is_head = ~np.isnan(alpha)
            above = np.where(is_head, alpha > self.threshold, np.nan)
            self.rates.append((above == 1).sum((0, 1)) / is_head.sum((0, 1)))
            self.alpha, self.above = _sum(self.alpha, alpha), _sum(self.above, above)
            self.chance = _sum(self.chance, level)
        assert self.sequences == first + len(keep)

    def _add_columns(self, capture: Capture, keep: Tensor, threshold: float, min_queries: int) -> None:
        from interp.edits.hidden_sinks import flagged_columns

        first = self.sequences
        places = (keep.cumsum(dim=-1) - 1).tolist()
        for layer in self.layers:
            alpha, norms = capture["alpha"][layer], capture["value_norm"][layer]
            rule = (alpha, capture.masks[layer], capture.keep, threshold)
            flagged = flagged_columns(*rule, min_queries=min_queries, keep_first=False)
            hidden = flagged_columns(*rule, min_queries=min_queries, keep_first=True)
            means = norms.double().nanmean(dim=-1)
            for b, h, k in flagged.nonzero().tolist():
                kv, place = capture.kv_head(h, layer), places[b][k]
                numbers = float(alpha[b, h, k]), bool(hidden[b, h, k]), float(norms[b, kv, k]), float(means[b, kv])
                self.columns.append((first + b, layer, h, place, capture.tokens[b][place], *numbers))

    def result(self, settings: dict[str, Any], places: Sequence[Place]) -> Sinks:
        import pandas as pd

        longest = max(self.lengths)
        rates = np.full((self.sequences, longest), np.nan)
        for row, rate in enumerate(self.rates):
            rates[row, : len(rate)] = rate
        samples = (~np.isnan(rates)).sum(0)
        rate = np.nansum(rates, 0) / samples
        spread = np.nansum((rates - rate) ** 2, 0)
        pairs = samples * (samples - 1)
        stderr = np.sqrt(np.divide(spread, pairs, out=np.full(longest, np.nan), where=pairs > 0))
        activations = [tuple(vars(a).values()) for place in places for a in place.largest.values()]
        stream = [
            (
                number,
                abs(place.largest[1].value),
                float(np.mean(place.medians)),
                max(place.ratios),
                sum(place.massive),
                sum(count > 0 for count in place.massive),
            )
            for number, place in enumerate(places)
        ]
        columns = pd.DataFrame(sorted(self.columns, key=lambda row: row[:4]), columns=list(HIDDEN))
        return Sinks(
            settings=settings,
            layers=tuple(self.layers),
            alpha=self.alpha / samples,
            alpha_above=self.above / samples,
            chance=self.chance / samples,
            rate=rate,
            rate_stderr=stderr,
            samples=samples,
            columns=columns.astype({"is_hidden": bool}),
            activations=pd.DataFrame(activations, columns=list(ACTIVATIONS)),
            stream=pd.DataFrame(stream, columns=list(STREAM)),
        )


def _sum(total: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Sum over equal first axes and positions 0, 1, ..., of which either may have more."""
    longest = max(total.shape[-1], more.shape[-1])
    out = np.zeros((*more.shape[:-1], longest))
    if total.size:
        out[..., : total.shape[-1]] += total
    out[..., : more.shape[-1]] += more
    return out


def _check(window: int | None, min_queries: int, massive: bool, top: int) -> None:
    for name, value, least in (("window", window, 2), ("min_queries", min_queries, 0), ("top", top, 1)):
        if name == "window" and value is None:
            continue
        if type(value) is not int or value < least:
            raise InputError(f"sinks: {name}: expected a whole number of at least {least}, got {value!r}")
    if not isinstance(massive, bool):
        raise InputError(f"sinks: massive: expected True or False, got {massive!r}")


def _number(name: str, value: float, high: float = float("inf")) -> float:
    """A number from 0 to ``high``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= high or value == float("inf"):
        expected = "a number of at least 0" if high == float("inf") else f"a number from 0 to {high:g}"
        raise InputError(f"sinks: {name}: expected {expected}, got {value!r}")
    return float(value)
