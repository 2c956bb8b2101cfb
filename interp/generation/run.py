"""One generation under way: what each run of the model measures, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

import interp_kernels as ik
from interp.captures.capture import MeasuredLayer
from interp.captures.lengths import check_tensors
from interp.captures.statistic import Statistic, probes_of_names, statistics_of
from interp.errors import RunError
from interp.generation.needs import needs_of_step
from interp.generation.steps import (
    DECODING,
    WRITING,
    Step,
    blanked,
    by_position,
    check_row,
    fitted,
    last_row,
)
from interp.inputs.batch import Batch
from interp.models.attention import Recording
from interp.models.call import AttentionCall
from interp.models.hooked import HookedModel
from interp.models.hooking import recording_of
from interp.models.layers import LayerKey
from interp_kernels import Attended, Mask


@dataclass(eq=False)
class Taken:
    """What one run of the model measured, by name and layer."""

    stats: dict[str, dict[LayerKey, Tensor]] = field(default_factory=dict)
    masks: dict[LayerKey, Mask] = field(default_factory=dict)
    measured: dict[LayerKey, MeasuredLayer] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)

    def add(
        self, call: AttentionCall, probes: Sequence[ik.Probe], stats: dict[str, Tensor], backend: str | None
    ) -> None:
        key, heads = call.layer.key, call.q.shape[1]
        self.masks[key] = call.mask
        self.measured[key] = MeasuredLayer(call.layer.stack, tuple(range(heads)), heads, call.k.shape[1], backend)
        for name, value in stats.items():
            self.stats.setdefault(name, {})[key] = value
        for probe in probes:
            if probe.label not in self.statistics:
                self.statistics |= statistics_of(probe)


class Endings(StoppingCriteria):
    """Hears of every new token, and knows which sequences have ended."""

    def __init__(self, heard: Callable[[Tensor, Tensor], None], ends: Tensor, others: StoppingCriteriaList) -> None:
        self.heard, self.ends, self.others = heard, ends, others

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        done = torch.isin(input_ids[:, -1], self.ends)
        if len(self.others):
            done = done | self.others(input_ids, scores, **kwargs)
        self.heard(input_ids, done)
        return done


class Run:
    """One generation under way: which step it is at, and what was measured so far."""

    def __init__(
        self,
        model: HookedModel,
        batch: Batch,
        wanted: set[LayerKey],
        fixed: list[ik.Probe] | None,
        asked: Any,
        before: list[ik.Probe],
        ends: Tensor,
        criteria: StoppingCriteriaList,
        bar: Any,
    ) -> None:
        self.model, self.batch, self.wanted, self.bar = model, batch, wanted, bar
        self.fixed, self.asked, self.before = fixed, asked, before
        self.endings = Endings(self._heard, ends, criteria)
        self.prefill = Taken()
        self.steps: list[Taken] = []
        self.number = -1
        self.is_encoder_decoder = bool(getattr(model.host.config, "is_encoder_decoder", False))
        self.ids: Tensor | None = None
        self.prompt = 0
        self.unfinished: list[Tensor] = []  # before each new token, [B]
        self.chosen: dict[str, list[ik.Probe]] = {}
        self.recording = Recording(model.host.layers, self._probes_of, self._record)
        # First, as other edits may ask where a query stands.
        self.recording.edits = (self, *self.recording.edits)

    def check_first_step(self) -> None:
        """Ask for the probes of the first step before any work is done, where its text is known."""
        if self.asked is not None and not self.is_encoder_decoder and self.batch.ids is not None:
            self._starts(self.batch.ids)
            self.number = 0
            stacks = {layer.stack for served in self.model.host.layers.values() for layer in served}
            self._chosen(next((stack for stack in WRITING if stack in stacks), ""), self.prompt)
            self.number = -1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the model's attention reports here, run by run."""
        model = self.model.host.inner
        with self.model.host.hooked(self.recording):
            handles = []
            try:
                handles.append(model.register_forward_pre_hook(self._begins, with_kwargs=True))
                handles.append(model.register_forward_hook(self._ends))
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _starts(self, ids: Tensor) -> None:
        self.ids, self.prompt = ids, ids.shape[1]
        self.unfinished = [torch.ones(len(ids), dtype=torch.bool, device=ids.device)]

    def _is_own(self) -> bool:
        """Whether a run of the model is this generation's, and not another thread's or one begun from within."""
        return recording_of(next(iter(self.model.host.layers))) is self.recording

    def _begins(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not self._is_own():
            return
        self.number += 1
        if self.number > 0:
            self.recording.seen.clear()
            self.chosen.clear()
        else:
            ids = kwargs["decoder_input_ids"] if self.is_encoder_decoder else self.batch.ids
            assert ids is not None
            self._starts(ids)
        self.steps.append(Taken())

    def _ends(self, module: Any, args: Any, output: Any) -> None:
        if not self._is_own():
            return
        self.model.check_whole(self.recording.seen)
        if not bool(torch.isfinite(output.logits[:, -1]).all()):
            raise RunError(
                f"NaN or infinity in the logits of new token {self.number}, after the attention of layer "
                f"{self.recording.seen[-1]} was still finite; check the weights after it, and whether {self.model.dtype} "
                "is wide enough"
            )

    def _heard(self, ids: Tensor, done: Tensor) -> None:
        self.ids = ids
        self.unfinished.append(self.unfinished[-1] & ~done)
        self.bar.update()

    def operands(self, call: AttentionCall) -> AttentionCall:
        """The library counts the queries of cross attention from 0 at each step; in a full run they stand at their place."""
        if call.layer.stack in WRITING and self.number > 0:
            self._check_position(call)
        if call.layer.stack != "cross" or self.ids is None:
            return call
        return replace(call, mask=call.mask.with_offset(self.ids.shape[1] - call.q.shape[2]))

    def _check_position(self, call: AttentionCall) -> None:
        """A cache whose masks do not say where its query and keys stand would hide keys in silence."""
        assert self.ids is not None
        columns, keys = self.ids.shape[1], call.first_key + call.k.shape[2]
        if (call.first_query, keys) != (columns - call.q.shape[2], columns):
            raise RunError(
                f"layer {call.layer.key}: after {columns} tokens the cache of {type(self.model.model).__name__} puts its query "
                f"at position {call.first_query} of {keys} keys, which is not its place; this architecture is not supported "
                "for generation yet (capture its forward runs instead)"
            )

    def output(self, call: AttentionCall, output: Tensor) -> Tensor:
        return output

    def _probes_of(self, call: AttentionCall) -> Sequence[ik.Probe]:
        layer = call.layer
        if layer.key not in self.wanted:
            return ()
        if self.number > 0:
            return () if _reads_again(call) else self._fitted(call)
        keep = self._queries_kept(layer.stack)
        return (
            self.before
            if keep is None
            else [replace(p, queries=keep if p.queries is None else p.queries & keep) for p in self.before]
        )

    def _queries_kept(self, stack: str) -> Tensor | None:
        """Of the prompt; what the library gives a decoder to begin with stands in no batch, and is no padding."""
        if self.is_encoder_decoder and stack in ("decoder", "cross"):
            given = self.batch.others.get("decoder_attention_mask")
            return None if given is None or bool(given.all()) else given.bool()
        return self.batch.queries_kept(stack)

    def _record(self, call: AttentionCall, attended: Attended) -> None:
        layer = call.layer
        if layer.key not in self.wanted:
            return
        if self.number <= 0:
            self.prefill.add(call, self.before, attended.stats, attended.backend)
            if layer.stack not in DECODING:
                return
        if self.number <= 0 or _reads_again(call):
            call = last_row(call)
            attended = call.attend(self._fitted(call))
        probes = self._of(call)
        stats = by_position(probes, attended.stats, call.first_key)
        self.steps[-1].add(call, probes, blanked(stats, self.unfinished[self.number]), attended.backend)

    def _fitted(self, call: AttentionCall) -> list[ik.Probe]:
        probes = fitted(self._of(call), call)
        check_tensors(probes, call.q.shape[0], call.q.shape[1], 1, call.k.shape[2], call.q.device)
        return probes

    def _of(self, call: AttentionCall) -> list[ik.Probe]:
        return self._chosen(call.layer.stack, call.first_key + call.k.shape[2])

    def _chosen(self, stack: str, keys: int) -> list[ik.Probe]:
        """The probes of this step for a stack of layers, asked for once."""
        if stack not in self.chosen:
            probes = self.fixed
            if probes is None:
                probes = probes_of_names(self.asked(self._step(stack, keys)))
                check_row(probes)
                needs_of_step(self.model, self.batch, self.wanted, stack, probes, keys).check()
            self.chosen[stack] = probes
        return self.chosen[stack]

    def _step(self, stack: str, keys: int) -> Step:
        assert self.ids is not None
        return Step(
            number=self.number,
            ids=self.ids,
            keep=self.keep(self.ids.shape[1]),
            prompt=self.prompt,
            unfinished=self.unfinished[self.number],
            stack=stack,
            keys=keys,
        )

    def keep(self, columns: int) -> Tensor:
        """[B, columns]: the prompt's, then whether the sequence had not ended before each new token."""
        given = self.batch.others.get("decoder_attention_mask") if self.is_encoder_decoder else self.batch.keep
        everything = torch.ones(len(self.unfinished[0]), self.prompt, dtype=torch.bool, device=self.model.device)
        if given is not None:
            # The library may put a start token before the decoder's ids that were given.
            everything[:, self.prompt - given.shape[1] :] = given.bool()
        return torch.cat([everything, *(each[:, None] for each in self.unfinished[: columns - self.prompt])], dim=1)


def _reads_again(call: AttentionCall) -> bool:
    """Whether a step reads the whole text again, as in a model that knows no cache: its last row is the step's."""
    return call.q.shape[2] > 1
