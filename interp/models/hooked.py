"""A real model whose attention can be watched: one class between the user and transformers."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import interp_kernels
from interp.errors import InputError, RunError
from interp.models.attention import Recording
from interp.models.call import AttentionCall
from interp.models.capture import Capture
from interp.models.host import Host
from interp.models.inputs import Batch, Inputs, to_batch
from interp.models.layers import LayerKey
from interp.models.shape import ModelShape
from interp.naming import named_layers, nearest
from interp.versions import versions
from interp_kernels import AttentionMap, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """A model whose attention runs through ``interp_kernels.attend`` while it is captured.

    The model is not changed: outside of ``capture`` and ``maps`` it has its own attention. Build one with ``interp.load``.
    """

    host: Host
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None = None

    @property
    def model(self) -> Any:
        """The model itself, as transformers made it."""
        return self.host.model

    @property
    def shape(self) -> ModelShape:
        """Layers, heads, widths, context and vocabulary."""
        return self.host.shape

    @property
    def layers(self) -> tuple[LayerKey, ...]:
        """The layers that attend: ints, or "encoder.3" and the like; see ``interp.models.layers``."""
        return tuple(layer.key for served in self.host.layers.values() for layer in served)

    @property
    def device(self) -> torch.device:
        return self.host.device

    @property
    def dtype(self) -> torch.dtype:
        return self.host.dtype

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"HookedModel({self.name}: {type(self.model).__name__}, {s.layers} layers x {s.heads} heads on {s.kv_heads} KV "
            f"heads, context {s.context}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def __call__(self, inputs: Inputs | Batch) -> Any:
        """The model's own output on ``inputs``, through its own attention, as transformers returns it."""
        batch = inputs if isinstance(inputs, Batch) else self.batch(inputs)
        options = {"use_cache": False} if hasattr(self.host.config, "use_cache") else {}
        return self.model(**batch.arguments, **options)

    def batch(self, inputs: Inputs, *, beyond_context: bool = False) -> Batch:
        """Token ids of ``inputs``, padded on the right; see ``interp.models.inputs``.

        Raises:
            InputError: nothing or something unusable was given, or it is longer than the model's context.
        """
        batch = to_batch(inputs, self.tokenizer, self.shape.vocabulary, self.device)
        self.check_length(batch.tokens, beyond_context=beyond_context)
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
        layers: Iterable[LayerKey] | None = None,
        *,
        logits: bool = False,
        beyond_context: bool = False,
    ) -> Capture:
        """Run the model once and measure ``probes`` in the attention of ``layers`` (all by default).

        Memory: the model's own, plus O(T) for each statistic; no T x T map is built. Padded queries never count: they are
        NaN without reduction, and left out of averages and column sums.

        Args:
            inputs: a text, texts, token ids, the arguments of the model's forward by name, or a ``Batch``.
            probes: probes of ``interp_kernels``; those without arguments also by name ("entropy", "peak", "distance",
                "received").
            layers: ints, or "encoder.3" and the like; see ``HookedModel.layers``.
            logits: keep the logits too; else the vocabulary projection is not computed.
            beyond_context: allow inputs longer than the model's context, where its positions are relative.

        Raises:
            InputError: inputs, probes or layers that do not fit.
            RunError: the activations hold NaN, or a layer did not pass through the hooked attention.
        """
        wanted = self.wanted_layers(layers)
        chosen = probes_of_names(probes)
        batch = self._checked(inputs, beyond_context)
        probes_in = {stack: _only_kept(chosen, batch.queries_kept(stack)) for stack in self._stacks()}
        stats: dict[str, dict[LayerKey, Tensor]] = {}
        masks: dict[LayerKey, Mask] = {}

        def probes_of(call: AttentionCall) -> Sequence[Probe]:
            return probes_in[call.layer.stack] if call.layer.key in wanted else ()

        def record(call: AttentionCall, attended: Attended) -> None:
            if call.layer.key in wanted:
                masks[call.layer.key] = call.mask
                for name, value in attended.stats.items():
                    stats.setdefault(name, {})[call.layer.key] = value

        output = self.run(batch, probes_of, record, logits=logits)
        self._check_ran(masks, wanted if layers is not None else ())
        shape = self.shape
        return Capture(
            stats=stats,
            ids=batch.ids,
            keep=batch.keep,
            tokens=self._tokens(batch),
            masks=masks,
            layers=tuple(masks),
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            logits=output if logits else None,
            facts=self.facts() | {"beyond_context": not (shape.context is None or batch.tokens <= shape.context)},
        )

    def maps(
        self, inputs: Inputs | Batch, layers: Iterable[LayerKey] | None = None, *, beyond_context: bool = False
    ) -> dict[LayerKey, AttentionMap]:
        """The lazy attention map of each layer: q, k, v and log-sum-exp are kept, O(T) memory a layer.

        Rows of padded queries are whatever the model computes there.
        """
        wanted = self.wanted_layers(layers)
        maps: dict[LayerKey, AttentionMap] = {}

        def record(call: AttentionCall, attended: Attended) -> None:
            if call.layer.key in wanted:
                maps[call.layer.key] = attended.map

        self.run(self._checked(inputs, beyond_context), lambda call: (), record, logits=False)
        self._check_ran(maps, wanted if layers is not None else ())
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
            **self.host.facts,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "versions": versions(),
        }

    def wanted_layers(self, layers: Iterable[LayerKey] | None) -> set[LayerKey]:
        """The layers of that name, all for None.

        Raises:
            InputError: one does not exist, or does not attend.
        """
        known = self.layers
        if layers is None:
            return set(known)
        if not isinstance(layers, Iterable) or isinstance(layers, str):
            raise InputError(f"layers: expected layers such as [0, 1] or ['encoder.0'], got {layers!r}")
        wanted = [int(layer) if isinstance(layer, Integral) else layer for layer in layers]
        for layer in wanted:
            if layer not in known or isinstance(layer, bool):
                raise InputError(f"layer {layer!r} does not exist: {self.name} has layers {named_layers(known)}")
        return set(wanted)

    def run(
        self,
        batch: Batch,
        probes_of: Callable[[AttentionCall], Sequence[Probe]],
        record: Callable[[AttentionCall, Attended], None],
        *,
        logits: bool,
    ) -> Tensor:
        """One hooked forward run. Returns the logits, or the last hidden state; see ``Recording`` for the others.

        Raises:
            InputError: the model is in training mode, or has no logits to give.
            RunError: NaN or infinity; or a stack of layers that ran did not run whole.
        """
        if self.model.training:
            raise InputError(
                f"{self.name} is in training mode, where dropout changes the attention; call model.eval() first"
            )
        recording = Recording(self.host.layers, probes_of, record)
        with torch.no_grad(), self.host.hooked(recording):
            last = self.host.forward(batch.arguments, logits=logits)
        self._check_whole(recording.seen)
        if not bool(torch.isfinite(last).all()):
            raise RunError(
                f"NaN or infinity in the {'logits' if logits else 'last hidden state'}, after the attention of layer "
                f"{recording.seen[-1]} was still finite; check the weights of that layer and after it, and whether "
                f"{self.dtype} is wide enough"
            )
        return last

    def _checked(self, inputs: Inputs | Batch, beyond_context: bool) -> Batch:
        if isinstance(inputs, Batch):
            self.check_length(inputs.tokens, beyond_context=beyond_context)
            return inputs
        return self.batch(inputs, beyond_context=beyond_context)

    def _stacks(self) -> set[str]:
        return {layer.stack for served in self.host.layers.values() for layer in served}

    def _tokens(self, batch: Batch) -> list[list[str]]:
        if batch.ids is None or batch.keep is None:
            return []
        return [self.token_strings(row[kept].tolist()) for row, kept in zip(batch.ids, batch.keep, strict=True)]

    def _check_whole(self, seen: Sequence[LayerKey]) -> None:
        """Every layer of a stack that ran must have reported, or a statistic would be missing in silence."""
        expected = [layer for served in self.host.layers.values() for layer in served]
        ran = {layer.stack for layer in expected if layer.key in seen}
        missing = [layer.key for layer in expected if layer.key not in seen and (layer.stack in ran or not ran)]
        if missing:
            raise RunError(
                f"layers {missing} of {type(self.model).__name__} did not pass through the hooked attention; "
                "this architecture is not supported for capture yet"
            )

    def _check_ran(self, ran: Container[LayerKey], asked: Iterable[LayerKey]) -> None:
        idle = [layer for layer in asked if layer not in ran]
        if idle:
            raise InputError(f"layers {idle} do not attend on this input; leave them out, or give what they read")


def probes_of_names(probes: Sequence[Probe | str]) -> list[Probe]:
    """Probes, given as such or by name.

    Raises:
        InputError: no probe has such a name, or it needs arguments.
    """
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


def _only_kept(probes: list[Probe], keep: Tensor | None) -> list[Probe]:
    if keep is None:
        return probes
    return [replace(p, queries=keep if p.queries is None else p.queries & keep) for p in probes]
