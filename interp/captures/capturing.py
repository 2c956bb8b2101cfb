"""One forward run with probes: what is asked for is checked, measured layer by layer, and put together as a Capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.arguments import switch
from interp.captures.capture import Capture, MeasuredLayer
from interp.captures.contributions import Projections, contributions, norms, written_norms
from interp.captures.extras import Extras
from interp.captures.lengths import check_probes_fit, check_tensors, lengths
from interp.captures.memory import LayerSize, layer_sizes, layers_of, needs_of
from interp.captures.sides import sides_of, tokens_of_batch
from interp.captures.statistic import Statistic, probes_of_names, statistics_of
from interp.edits.narrow import of_heads
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec, head_counts, parse_heads
from interp.models.layers import LayerKey
from interp_kernels import Attended, KeyMass, Mask, Probe, Received

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel
    from interp.views.token_map import TokenMap

APART = 8
"""Heads are measured in a pass of their own where they are at most this part of all: 1 / 8."""


@dataclass
class _Run:
    """What one run is asked for, and what it has measured so far."""

    layers: set[LayerKey]
    heads: Mapping[LayerKey, tuple[int, ...]]  # of layers where not all are asked for
    probes: Mapping[str, list[Probe]]  # stack -> those for its layers
    extras: Extras
    keys_kept: Mapping[str, Tensor | None]  # stack -> [B, Tk]
    queries_kept: Mapping[str, Tensor | None]  # stack -> [B, Tq]
    projections: Projections | None
    check_size: Callable[[AttentionCall], None]
    stats: dict[str, dict[LayerKey, Tensor]] = field(default_factory=dict)
    masks: dict[LayerKey, Mask] = field(default_factory=dict)
    measured: dict[LayerKey, MeasuredLayer] = field(default_factory=dict)

    def probes_of(self, call: AttentionCall) -> Sequence[Probe]:
        if call.layer.key not in self.layers:
            return ()
        self.check_size(call)
        if self._is_apart(call):
            return ()
        return self.probes[call.layer.stack]

    def record(self, call: AttentionCall, attended: Attended) -> None:
        key, stack = call.layer.key, call.layer.stack
        if key not in self.layers:
            return
        chosen = self._heads_of(call)
        stats, backend = attended.stats, attended.backend
        if self._is_apart(call):
            apart = of_heads(call, chosen).attend([_of_heads(probe, chosen) for probe in self.probes[stack]])
            stats, backend = apart.stats, apart.backend
        elif len(chosen) < call.q.shape[1]:
            stats = {name: _chosen(value, chosen) for name, value in stats.items()}
        self.masks[key] = call.mask
        how = self.measured[key] = MeasuredLayer(stack, chosen, call.q.shape[1], call.k.shape[1], backend)
        for name, value in stats.items():
            self._keep(name, key, value)
        self._record_extras(call, attended.output, how)

    def _record_extras(self, call: AttentionCall, z: Tensor, how: MeasuredLayer) -> None:
        key, stack, chosen = call.layer.key, call.layer.stack, how.heads
        if self.extras.outputs:
            # A copy: the model may go on in the same memory.
            self._keep("output", key, _chosen(z, chosen) if len(chosen) < z.shape[1] else z.clone())
        if self.extras.value_norms is not False:
            read = how.kv_heads_read
            values = call.v if len(read) == how.kv_heads else _chosen(call.v, read)
            self._keep("value_norm", key, _only_kept(norms(values), self.keys_kept[stack]))
        if self.projections is None:
            return
        v = call.v

        def use(weight: Tensor) -> None:
            if self.extras.contributions is True:
                self._keep("contribution", key, contributions(z, weight, chosen))
            elif self.extras.contributions == "norm":
                written = written_norms(z, weight, chosen)
                self._keep("contribution_norm", key, _only_kept(written, self.queries_kept[stack]))
            if self.extras.value_norms == "written":
                written = written_norms(v, weight, chosen, how.query_heads // how.kv_heads)
                self._keep("value_written_norm", key, _only_kept(written, self.keys_kept[stack]))

        self.projections.attended(call.layer, z, use)

    def _keep(self, name: str, layer: LayerKey, value: Tensor) -> None:
        self.stats.setdefault(name, {})[layer] = value

    def _heads_of(self, call: AttentionCall) -> tuple[int, ...]:
        total = call.q.shape[1]
        chosen = self.heads.get(call.layer.key, tuple(range(total)))
        if chosen[-1] >= total:
            raise InputError(
                f"head {chosen[-1]} of layer {call.layer.key} does not exist: it has {total} query heads, 0 to {total - 1}"
            )
        return chosen

    def _is_apart(self, call: AttentionCall) -> bool:
        """Whether the chosen heads are measured in a pass of their own, beside the bare pass that the model goes on with."""
        return APART * len(self._heads_of(call)) <= call.q.shape[1]


def capture(
    model: HookedModel,
    inputs: Inputs | Batch,
    probes: Sequence[Probe | str] | Probe | str,
    layers: Iterable[LayerKey] | None,
    *,
    heads: HeadSpec | Iterable[HeadSpec] | None,
    extras: Extras,
    logits: bool,
    beyond_context: bool,
) -> Capture:
    """See ``HookedModel.capture``."""
    logits = switch("logits", logits)
    chosen_heads: dict[LayerKey, tuple[int, ...]] = {}
    if heads is not None:
        if layers is not None:
            raise InputError("heads name their layers; give either heads= or layers=")
        chosen_heads = parse_heads(heads, head_counts(model.host.layers))
        layers = list(chosen_heads)
    wanted = model.wanted_layers(layers)
    chosen = probes_of_names(probes)
    batch = model.checked(inputs, beyond_context=beyond_context)
    stacks = {layer.stack for served in model.host.layers.values() for layer in served}
    check_probes_fit(chosen, batch, layers_of(model, wanted), model.device)
    needs = needs_of(
        chosen,
        layer_sizes(model, wanted, chosen_heads, batch),
        batch,
        model.dtype,
        model.device,
        _beside(model, extras),
    ).also(_bytes_of_logits(model, batch) if logits else {})
    needs.check()
    statistics = _statistics(chosen, extras)
    unsized = {layer.stack for layer in layers_of(model, wanted) if lengths(batch, layer.stack) is None}

    def check_size(call: AttentionCall) -> None:
        """Of a tower the first layer tells what all of them need."""
        if call.layer.stack not in unsized:
            return
        check_tensors(chosen, call.q.shape[0], call.q.shape[1], *call.extent, call.q.device)
        unsized.discard(call.layer.stack)
        keys = [layer.key for layer in layers_of(model, wanted) if layer.stack == call.layer.stack]
        found = [LayerSize(len(chosen_heads.get(key, range(call.q.shape[1]))), *call.extent) for key in keys]
        needs_of(chosen, found, batch, model.dtype, model.device, _beside(model, extras)).check()

    queries_kept = {stack: batch.queries_kept(stack) for stack in stacks}
    run = _Run(
        layers=wanted,
        heads=chosen_heads,
        probes={stack: _of_kept(chosen, queries_kept[stack]) for stack in stacks},
        extras=extras,
        keys_kept={stack: batch.keys_kept(stack) for stack in stacks},
        queries_kept=queries_kept,
        projections=Projections(model.host.inner, model.host.layers) if extras.need_projections else None,
        check_size=check_size,
    )
    with needs.explained(), nullcontext() if run.projections is None else run.projections.watching():
        output = model.run(batch, run.probes_of, run.record, logits=logits)
    model.check_ran(run.masks, wanted if layers is not None else ())
    shape = model.shape
    return Capture(
        stats={name: run.stats[name] for name in statistics if name in run.stats},
        ids=batch.ids,
        keep=batch.keep,
        tokens=tokens_of_batch(model, batch),
        token_rows=batch.token_rows,
        masks=run.masks,
        layers=tuple(run.masks),
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        logits=output if logits else None,
        facts=model.facts()
        | {
            "backend": ", ".join(sorted({str(layer.backend) for layer in run.measured.values()})),
            "beyond_context": not (shape.context is None or batch.tokens <= shape.context),
        },
        statistics=statistics,
        measured=run.measured,
        sides=sides_of(model, batch, {layer.stack for layer in run.measured.values()}),
    )


def _beside(model: HookedModel, extras: Extras) -> dict[str, int]:
    """Numbers that are kept for each head and query beside the probes."""
    width = getattr(model.host.config.get_text_config(), "hidden_size", 0)
    outputs = {"output": _width_of_head(model)} if extras.outputs else {}
    return outputs | ({"contribution": width} if extras.contributions is True else {})


def _bytes_of_logits(model: HookedModel, batch: Batch) -> dict[str, int]:
    """A number for each token that is read and each of the vocabulary; nothing where a model writes no tokens."""
    found = lengths(batch, "decoder") or lengths(batch, "")
    if found is None or model.host.inner is not model.host.model or model.model.get_output_embeddings() is None:
        return {}
    return {"logits": batch.rows * found[0] * model.shape.vocabulary * model.dtype.itemsize}


def _width_of_head(model: HookedModel) -> int:
    config = model.host.config.get_text_config()
    return getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // model.shape.heads


def maps(
    model: HookedModel, inputs: Inputs | Batch, layers: Iterable[LayerKey] | None, *, beyond_context: bool
) -> dict[LayerKey, TokenMap]:
    """See ``HookedModel.maps``."""
    wanted = model.wanted_layers(layers)
    batch = model.checked(inputs, beyond_context=beyond_context)
    found, _ = maps_and_output(model, batch, wanted)
    model.check_ran(found, wanted if layers is not None else ())
    return found


def maps_and_output(
    model: HookedModel, batch: Batch, wanted: set[LayerKey] | None = None, *, logits: bool = False
) -> tuple[dict[LayerKey, TokenMap], Tensor]:
    """One run that keeps the lazy maps of ``wanted`` layers (all by default); with it the logits, or the last hidden state."""
    from interp.views.token_map import TokenMap

    wanted = set(model.layers) if wanted is None else wanted
    found: dict[LayerKey, TokenMap] = {}
    facts = model.facts()

    def record(call: AttentionCall, attended: Attended) -> None:
        if call.layer.key in wanted:
            found[call.layer.key] = TokenMap.of(attended.map, batch, call.layer.key, model.tokenizer, facts)

    shape, width = model.shape, _width_of_head(model)
    # Of each query head its queries and log-sum-exp, of each KV head its keys and values.
    held = {"maps": width + 1 + round(2 * width * shape.kv_heads / shape.heads)}
    needs = needs_of([], layer_sizes(model, wanted, {}, batch), batch, model.dtype, model.device, held)
    needs.check()
    with needs.explained():
        output = model.run(batch, lambda call: (), record, logits=logits)
    return found, output


def _statistics(probes: Sequence[Probe], extras: Extras) -> dict[str, Statistic]:
    """Name -> meaning of all that is asked for.

    Raises:
        InputError: a probe has the name of something else that is kept.
    """
    of_extras = extras.statistics
    named: dict[str, Any] = {}
    for probe in probes:
        named |= statistics_of(probe)
    taken = sorted(named.keys() & of_extras.keys())
    if taken:
        raise InputError(
            f"probes: {taken} are names of outputs, contributions or value norms; give each probe another name="
        )
    return named | of_extras


def _of_kept(probes: list[Probe], keep: Tensor | None) -> list[Probe]:
    if keep is None:
        return probes
    return [replace(p, queries=keep if p.queries is None else p.queries & keep) for p in probes]


def _of_heads(probe: Probe, heads: Sequence[int]) -> Probe:
    """The probe with the weights of these heads, where it has some for each."""
    if isinstance(probe, KeyMass) and probe.weights.ndim == 4:
        return replace(probe, weights=_chosen(probe.weights, heads))
    if isinstance(probe, Received) and probe.weights is not None and probe.weights.ndim == 3:
        return replace(probe, weights=_chosen(probe.weights, heads))
    return probe


def _chosen(value: Tensor, heads: Sequence[int]) -> Tensor:
    """A copy of the entries [B, n, ...] of these heads, which holds on to nothing of the others."""
    return value.index_select(1, torch.tensor(list(heads), device=value.device))


def _only_kept(value: Tensor, keep: Tensor | None) -> Tensor:
    """value [B, H, T] with NaN at padding."""
    return value if keep is None else value.masked_fill(~keep[:, None], torch.nan)
