"""A real model whose attention can be watched: one class between the user and transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import interp_kernels
from interp.errors import InputError, RunError
from interp.models.attention import Recording, hooked
from interp.models.capture import Capture
from interp.models.inputs import Batch, Inputs, to_batch
from interp.models.shape import ModelShape, model_shape
from interp.naming import nearest
from interp.versions import versions
from interp_kernels import AttentionMap, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from interp_kernels.api import Attended
    from interp_kernels.mask import Mask

PLAIN_PROBES: dict[str, type[Probe]] = {
    "entropy": interp_kernels.Entropy,
    "peak": interp_kernels.Peak,
    "distance": interp_kernels.Distance,
    "received": interp_kernels.Received,
}
"""Probes that need no arguments and can be asked for by name."""


@dataclass(frozen=True, eq=False, repr=False)
class HookedModel:
    """A transformers model whose attention runs through ``interp_kernels.attend`` while it is captured.

    The model is not changed: outside of ``capture`` and ``maps`` it has its own attention. Build one with ``interp.load``.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None = None

    @property
    def shape(self) -> ModelShape:
        """Layers, heads, widths, context and vocabulary."""
        return model_shape(self.model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"HookedModel({self.name}: {type(self.model).__name__}, {s.layers} layers x {s.heads} heads on {s.kv_heads} KV "
            f"heads, context {s.context}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def __call__(self, inputs: Inputs) -> Any:
        """The model's own output on ``inputs``, through its own attention, as transformers returns it."""
        batch = self.batch(inputs)
        return self.model(input_ids=batch.ids, attention_mask=batch.keep.long(), use_cache=False)

    def batch(self, inputs: Inputs, *, beyond_context: bool = False) -> Batch:
        """Token ids of ``inputs``, padded on the right; see ``interp.models.inputs``.

        Raises:
            InputError: nothing or something unusable was given, or it is longer than the model's context.
        """
        batch = to_batch(inputs, self.tokenizer, self.shape.vocabulary, self.device)
        self.check_length(batch.ids.shape[1], beyond_context=beyond_context)
        return batch

    def check_length(self, tokens: int, *, beyond_context: bool) -> None:
        """Refuse inputs longer than the model was made for, unless asked for and possible."""
        s = self.shape
        if s.context is None or tokens <= s.context:
            return
        longer = f"the input has {tokens:,} tokens, {self.name} is made for {s.context:,}"
        if not s.has_relative_positions:
            raise InputError(f"{longer}, and its learned positions end there; cut the input into windows")
        if not beyond_context:
            raise InputError(
                f"{longer}; cut the input into windows, or allow it with beyond_context=True (--beyond-context)"
            )

    def capture(
        self,
        inputs: Inputs | Batch,
        probes: Sequence[Probe | str] = ("entropy", "peak"),
        layers: Iterable[int] | None = None,
        *,
        logits: bool = False,
        beyond_context: bool = False,
    ) -> Capture:
        """Run the model once and measure ``probes`` in the attention of ``layers`` (all by default).

        Memory: the model's own, plus O(T) for each statistic; no T x T map is built. Padded queries never count: they are
        NaN without reduction, and left out of averages and column sums.

        Args:
            inputs: a text, texts, token ids, or a ``Batch``.
            probes: probes of ``interp_kernels``; those without arguments also by name ("entropy", "peak", "distance",
                "received").
            logits: keep the logits too; else the vocabulary projection is not computed.
            beyond_context: allow inputs longer than the model's context, where its positions are relative.

        Raises:
            InputError: inputs, probes or layers that do not fit.
            RunError: the activations hold NaN, or a layer did not pass through the hooked attention.
        """
        wanted = self._layers(layers)
        chosen = _probes(probes)
        batch = self._checked(inputs, beyond_context)
        if batch.is_padded:
            chosen = [_only_kept(probe, batch.keep) for probe in chosen]
        stats: dict[str, dict[int, Tensor]] = {}
        masks: dict[int, Mask] = {}

        def record(layer: int, attended: Attended, mask: Mask) -> None:
            masks[layer] = mask
            for name, value in attended.stats.items():
                stats.setdefault(name, {})[layer] = value

        recording = Recording(lambda layer: chosen if layer in wanted else (), record)
        output = self._run(batch, recording, logits=logits)
        shape = self.shape
        context = shape.context
        return Capture(
            stats=stats,
            ids=batch.ids,
            keep=batch.keep,
            tokens=[self.token_strings(row[kept].tolist()) for row, kept in zip(batch.ids, batch.keep, strict=True)],
            masks={layer: mask for layer, mask in masks.items() if layer in wanted},
            layers=tuple(sorted(wanted)),
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            logits=output,
            facts=self.facts() | {"beyond_context": context is not None and batch.ids.shape[1] > context},
        )

    def maps(
        self, inputs: Inputs, layers: Iterable[int] | None = None, *, beyond_context: bool = False
    ) -> dict[int, AttentionMap]:
        """The lazy attention map of each layer: q, k, v and log-sum-exp are kept, O(T) memory a layer.

        Rows of padded queries are whatever the model computes there.
        """
        wanted = self._layers(layers)
        maps: dict[int, AttentionMap] = {}

        def record(layer: int, attended: Attended, mask: Mask) -> None:
            if layer in wanted:
                maps[layer] = attended.map

        self._run(self._checked(inputs, beyond_context), Recording(lambda layer: (), record), logits=False)
        return maps

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Readable text of each token id; the id itself where there is no tokenizer."""
        if self.tokenizer is None:
            return [str(i) for i in ids]
        return [str(self.tokenizer.decode([i])) for i in ids]

    def facts(self) -> dict[str, Any]:
        """What a result must say of the model that it came from."""
        return {
            "model": self.name,
            "revision": self.revision,
            "architecture": type(self.model).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "versions": versions(),
        }

    def _checked(self, inputs: Inputs | Batch, beyond_context: bool) -> Batch:
        if isinstance(inputs, Batch):
            self.check_length(inputs.ids.shape[1], beyond_context=beyond_context)
            return inputs
        return self.batch(inputs, beyond_context=beyond_context)

    def _layers(self, layers: Iterable[int] | None) -> set[int]:
        count = self.shape.layers
        if layers is None:
            return set(range(count))
        if not isinstance(layers, Iterable) or isinstance(layers, str):
            raise InputError(f"layers: expected layer numbers such as [0, 1], got {layers!r}")
        wanted = list(layers)
        for layer in wanted:
            if not isinstance(layer, Integral) or not 0 <= layer < count:
                raise InputError(f"layer {layer!r} does not exist: {self.name} has layers 0 to {count - 1}")
        return {int(layer) for layer in wanted}

    def _run(self, batch: Batch, recording: Recording, *, logits: bool) -> Tensor | None:
        if self.model.training:
            raise InputError(
                f"{self.name} is in training mode, where dropout changes the attention; call model.eval() first"
            )
        model = self.model if logits else self.model.base_model
        arguments = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        with torch.no_grad(), hooked(self.model, recording):
            output = model(input_ids=batch.ids, attention_mask=batch.keep.long(), **arguments)
        # Every layer of the model must have reported, or a statistic would be missing in silence.
        seen = recording.layers_seen
        twice = next((layer for layer in seen if seen.count(layer) > 1), None)
        if twice is not None:
            raise RunError(
                f"layer {twice} of {type(self.model).__name__} ran its attention twice in one forward run; "
                "this architecture is not supported for capture yet"
            )
        missing = sorted(set(range(self.shape.layers)) - set(seen))
        if missing:
            raise RunError(
                f"layers {missing} of {type(self.model).__name__} did not pass through the hooked attention; "
                "this architecture is not supported for capture yet"
            )
        if logits and getattr(output, "logits", None) is None:
            raise InputError(f"{type(self.model).__name__} gives no logits; load it with its language-model head")
        last = output.logits if logits else output[0]
        if not bool(torch.isfinite(last).all()):
            raise RunError(
                f"NaN or infinity in the {'logits' if logits else 'last hidden state'}, after the attention of layer "
                f"{seen[-1]} was still finite; check the weights of that layer and after it, and whether {self.dtype} is "
                "wide enough"
            )
        return last if logits else None


def _probes(probes: Sequence[Probe | str]) -> list[Probe]:
    chosen: list[Probe] = []
    for probe in [probes] if isinstance(probes, str | Probe) else probes:
        if isinstance(probe, Probe):
            chosen.append(probe)
        elif probe in PLAIN_PROBES:
            chosen.append(PLAIN_PROBES[probe]())
        else:
            raise InputError(
                f"unknown probe {probe!r}; {nearest(str(probe), PLAIN_PROBES)}. "
                "Probes with arguments are given as objects, such as interp.OffsetMass((1,))"
            )
    return chosen


def _only_kept(probe: Probe, keep: Tensor) -> Probe:
    return replace(probe, queries=keep if probe.queries is None else probe.queries & keep)
