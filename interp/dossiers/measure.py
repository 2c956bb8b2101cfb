"""The streaming pass: a group of passages through the model, every layer reduced as soon as it has run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.dossiers.metrics import (
    AWAY,
    BY_DISTANCE,
    RECEIVED,
    Metric,
    distance_edges,
    metrics_of,
    probes_for,
    values_of,
)
from interp.dossiers.moments import Moments
from interp.dossiers.part import Part
from interp.dossiers.passages import Passage, batches_of
from interp.dossiers.sampling import Kept
from interp.dossiers.settings import DossierSettings
from interp.dossiers.tokens import TokenSums, summed
from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.texts import single_stack
from interp.inputs.batch import Batch

if TYPE_CHECKING:
    from interp.models.call import AttentionCall
    from interp.models.hooked import HookedModel
    from interp_kernels import Attended, Mask, Probe


def measure_part(
    model: HookedModel,
    passages: Sequence[Passage],
    settings: DossierSettings,
    *,
    measured: Callable[[int], object] = lambda tokens: None,
) -> Part:
    """What these passages say of every head; the same for the same passages in the same order, on the same machine.

    Passages of one length run together, without padding. Memory: the model's own run of up to 8,192 positions, the statistics of
    one layer at a time (O(T)), and the part itself. No T x T map is built.

    Args:
        settings: resolved (``DossierSettings.resolved``).
        measured: told how many positions each forward run had, when it is done.

    Raises:
        InputError: no passage, one longer than ``settings.length``, or a model without one stack of layers of equal heads.
        RunError: the model's activations hold NaN.
    """
    layers = check_model(model)
    if not passages:
        raise InputError("passages: there is none to measure")
    longest = max(map(len, passages))
    if longest > settings.longest:
        raise InputError(f"passages: one has {longest:,} positions, settings.length is {settings.longest:,}")
    run = _Run.of(model, passages, settings, layers)
    for places in batches_of(passages):
        run.add(places)
        measured(len(places) * len(passages[places[0]]))
    return run.part()


def check_model(model: HookedModel) -> tuple[int, ...]:
    """The layers of the model.

    Raises:
        InputError: it does not read token ids through one stack of layers, or its layers differ in their heads.
    """
    layers = tuple(single_stack(model, "head dossiers"))
    differing = {layer.heads for served in model.host.layers.values() for layer in served if layer.heads is not None}
    if len(layers) != len(model.layers) or len(differing) > 1:
        raise InputError(
            f"head dossiers need one stack of layers with the same number of heads each, and {model.name} is not made so; use "
            "HookedModel.capture with probes"
        )
    return layers


@dataclass
class _Run:
    """What has been measured so far of one part.

    scores [P, M, L, H], chance [P, M, L]; by_distance [P, L, H, bins], by_distance_chance [P, L, bins]
    """

    model: HookedModel
    passages: Sequence[Passage]
    settings: DossierSettings
    metrics: tuple[Metric, ...]
    layers: tuple[int, ...]
    scores: np.ndarray
    chance: np.ndarray
    by_distance: np.ndarray
    by_distance_chance: np.ndarray
    by_token: TokenSums

    @classmethod
    def of(
        cls, model: HookedModel, passages: Sequence[Passage], settings: DossierSettings, layers: tuple[int, ...]
    ) -> _Run:
        metrics, heads = metrics_of(model), model.shape.heads
        p, m, count, bins = len(passages), len(metrics), len(layers), len(distance_edges(settings.longest)) - 1
        ids = np.unique(np.concatenate([passage.ids for passage in passages]))
        return cls(
            model,
            passages,
            settings,
            metrics,
            layers,
            scores=np.full((p, m, count, heads), np.nan),
            chance=np.full((p, m, count), np.nan),
            by_distance=np.full((p, count, heads, bins), np.nan),
            by_distance_chance=np.full((p, count, bins), np.nan),
            by_token=TokenSums.zeros(ids, count, heads),
        )

    def add(self, places: Sequence[int]) -> None:
        """One forward run over passages of one length."""
        rows = np.stack([self.passages[place].ids for place in places])
        ids = torch.from_numpy(rows.astype(np.int64)).to(self.model.device)
        probes = probes_for(self.metrics, ids, self.settings.longest)
        batch = self.model.checked(Batch(ids, torch.ones_like(ids, dtype=torch.bool)), beyond_context=False)
        step = _Step(self, np.array(places), self.by_token.places(rows), probes)
        self.by_token.count(step.tokens)
        with torch.no_grad():
            self.model.run(batch, step.probes_of, step.record, logits=False)
        self.model.check_ran(step.masks, self.layers)
        uniform = uniform_stats(probes, [step.masks[layer] for layer in self.layers], ids)
        for at, stats in enumerate(uniform):
            step.add_chance(at, stats)

    def part(self) -> Part:
        settings = self.settings
        # Where no head has a value, neither has chance.
        has_chance = np.array([metric.has_chance for metric in self.metrics])[:, None]
        chance = np.where(np.isnan(self.scores).all(axis=3) | ~has_chance, np.nan, self.chance)
        part = Part(
            settings=settings,
            metrics=tuple(metric.name for metric in self.metrics),
            layers=self.layers,
            heads=self.model.shape.heads,
            passages=len(self.passages),
            tokens=sum(map(len, self.passages)),
            scores=Moments.of(self.scores),
            chance=Moments.of(chance),
            histograms=histograms_of(self.scores, self.metrics, settings.longest),
            by_distance=Moments.of(self.by_distance),
            by_distance_chance=Moments.of(self.by_distance_chance),
            by_token=self.by_token.with_at_most(settings.token_rows or len(self.by_token.ids)),
            kept=Kept.of(self.passages, self.scores, settings.seed),
        )
        return replace(part, kept=part.kept.chosen(settings.pool, settings.strongest, part.by))


@dataclass
class _Step:
    """One forward run: its layers are reduced one by one."""

    run: _Run
    places: np.ndarray
    tokens: Tensor
    probes: list[Probe]
    masks: dict[int, Mask] = field(default_factory=dict)

    def probes_of(self, call: AttentionCall) -> Sequence[Probe]:
        heads = call.q.shape[1]
        if heads != self.run.model.shape.heads:
            raise InputError(
                f"head dossiers need the same number of heads in each layer; layer {call.layer.key} has {heads}"
            )
        return self.probes

    def record(self, call: AttentionCall, attended: Attended) -> None:
        run, layer = self.run, int(call.layer.key)
        at = run.layers.index(layer)
        self.masks[layer] = call.mask
        run.scores[self.places, :, at] = values_of(run.metrics, attended.stats).numpy().swapaxes(0, 1)
        run.by_distance[self.places, at] = attended.stats[BY_DISTANCE].double().cpu().numpy()
        for side, sums in enumerate(self._by_token(attended.stats)):
            run.by_token.sums[side, :, at] += sums

    def add_chance(self, at: int, stats: Mapping[str, Tensor]) -> None:
        run = self.run
        run.chance[self.places, :, at] = values_of(run.metrics, stats).numpy()[..., 0].T
        run.by_distance_chance[self.places, at] = stats[BY_DISTANCE][:, 0].double().cpu().numpy()
        for side, sums in enumerate(self._by_token(stats)):
            run.by_token.chance[side, :, at] += sums[:, 0]

    def _by_token(self, stats: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.run.by_token.ids)
        return summed(stats[AWAY][..., 0], self.tokens, count), summed(stats[RECEIVED], self.tokens, count)


def histograms_of(scores: np.ndarray, metrics: Sequence[Metric], longest: int) -> np.ndarray:
    """How many passages have a value in each bin of each metric: scores [P, M, L, H] -> int64 [M, L, H, bins].

    A value outside of the bins by rounding counts in the outermost one; NaN counts nowhere.
    """
    edges = [metric.edges(longest) for metric in metrics]
    bins = max(len(each) for each in edges) - 1
    counts = np.zeros((*scores.shape[1:], bins), dtype=np.int64)
    flat = counts.reshape(len(metrics), -1, bins)
    for number, each in enumerate(edges):
        values = scores[:, number].reshape(len(scores), -1)
        places = np.clip(np.searchsorted(each, values, side="right") - 1, 0, len(each) - 2)
        passage, head = np.nonzero(~np.isnan(values))
        np.add.at(flat[number], (head, places[passage, head]), 1)
    return counts
