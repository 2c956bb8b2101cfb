"""One generation under way: what each run of the model measures, step by step, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

import interp_kernels as ik
from interp.errors import RunError
from interp.models.attention import Recording
from interp.models.call import AttentionCall
from interp.models.capture import Capture
from interp.models.generation_result import Generation
from interp.models.generation_steps import (
    DECODING,
    Step,
    blanked,
    by_position,
    check_row,
    fitted,
    growing_labels,
    last_row,
)
from interp.models.hooked import HookedModel
from interp.models.inputs import Batch
from interp.models.layers import LayerKey
from interp.models.statistic import probes_of_names
from interp_kernels import Attended, Mask


@dataclass(eq=False)
class Taken:
    """What one run of the model measured, by name and layer."""

    stats: dict[str, dict[LayerKey, Tensor]] = field(default_factory=dict)
    masks: dict[LayerKey, Mask] = field(default_factory=dict)

    def add(self, layer: LayerKey, mask: Mask, stats: dict[str, Tensor]) -> None:
        self.masks[layer] = mask
        for name, value in stats.items():
            self.stats.setdefault(name, {})[layer] = value


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
        self.prefill, self.steps = Taken(), []
        self.number = -1
        self.is_encoder_decoder = bool(model.host.config.is_encoder_decoder)
        self.ids: Tensor | None = None if self.is_encoder_decoder else batch.ids
        self.unfinished: list[Tensor] = []
        self.chosen: dict[str, list[ik.Probe]] = {}
        self.growing: set[str] = set()
        self.recording = Recording(model.host.layers, self._probes_of, self._record)
        # First, as other edits may ask where a query stands.
        self.recording.edits = (self, *self.recording.edits)

    def check_first_step(self) -> None:
        """Ask for the probes of the first step before any work is done, where its text is known."""
        if self.asked is not None and self.ids is not None and self.batch.ids is not None:
            self.unfinished = [self._all_unfinished(self.ids)]
            self.number = 0
            self._chosen("", self.ids.shape[1])
            self.number = -1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the model's attention reports here, run by run."""
        model = self.model.model
        with self.model.host.hooked(self.recording):
            handles = [
                model.register_forward_pre_hook(self._begins, with_kwargs=True),
                model.register_forward_hook(self._ends),
            ]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    # The steps of a run, as they come.

    def _begins(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.number += 1
        if self.number > 0:
            self.recording.seen.clear()
            self.chosen.clear()
        elif self.is_encoder_decoder:
            self.ids = kwargs["decoder_input_ids"]
        if self.number == 0:
            assert self.ids is not None
            self.unfinished = [self._all_unfinished(self.ids)]
        self.steps.append(Taken())

    def _ends(self, module: Any, args: Any, output: Any) -> None:
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

    # The attention of a run: an edit that says where a query of cross attention stands, the probes, and their values.

    def operands(self, call: AttentionCall) -> AttentionCall:
        """The library counts the queries of cross attention from 0 at each step; in a full run they stand at their place."""
        if call.layer.stack != "cross" or self.ids is None:
            return call
        return replace(call, mask=call.mask.with_offset(self.ids.shape[1] - call.q.shape[2]))

    def output(self, call: AttentionCall, output: Tensor) -> Tensor:
        return output

    def _probes_of(self, call: AttentionCall) -> Sequence[ik.Probe]:
        layer = call.layer
        if layer.key not in self.wanted:
            return ()
        if self.number > 0:
            return fitted(self._of(call), call)
        keep = self.batch.queries_kept(layer.stack)
        return (
            self.before
            if keep is None
            else [replace(p, queries=keep if p.queries is None else p.queries & keep) for p in self.before]
        )

    def _record(self, call: AttentionCall, attended: Attended) -> None:
        layer = call.layer
        if layer.key not in self.wanted:
            return
        stats, row = attended.stats, call
        if self.number <= 0:
            self.prefill.add(layer.key, call.mask, attended.stats)
            if layer.stack not in DECODING:
                return
            row = last_row(call)
            stats = row.attend(fitted(self._of(row), row)).stats
        stats = by_position(self._of(call), stats, call.first_key)
        self.steps[-1].add(layer.key, row.mask, blanked(stats, self.unfinished[self.number]))

    def _of(self, call: AttentionCall) -> list[ik.Probe]:
        return self._chosen(call.layer.stack, call.first_key + call.k.shape[2])

    def _chosen(self, stack: str, keys: int) -> list[ik.Probe]:
        """The probes of this step for a stack of layers, asked for once."""
        if stack not in self.chosen:
            probes = self.fixed
            if probes is None:
                probes = probes_of_names(self.asked(self._step(stack, keys)))
                check_row(probes)
            self.growing |= growing_labels(probes)
            self.chosen[stack] = probes
        return self.chosen[stack]

    def _step(self, stack: str, keys: int) -> Step:
        assert self.ids is not None
        return Step(
            number=self.number,
            ids=self.ids,
            keep=self._keep(self.ids),
            prompt=self._prompt_length(self.ids),
            unfinished=self.unfinished[self.number],
            stack=stack,
            keys=keys,
        )

    # What is known of the ids.

    @staticmethod
    def _all_unfinished(ids: Tensor) -> Tensor:
        return torch.ones(len(ids), dtype=torch.bool, device=ids.device)

    def _prompt_length(self, ids: Tensor) -> int:
        return ids.shape[1] - self.number

    def _keep(self, ids: Tensor) -> Tensor:
        """[B, T]: the prompt's, then whether the sequence had not ended before each new token."""
        given = self.batch.others.get("decoder_attention_mask") if self.is_encoder_decoder else self.batch.keep
        new = torch.stack(self.unfinished[: self.number], dim=1) if self.number else ids.new_empty(len(ids), 0)
        width = ids.shape[1] - self.number
        first = torch.ones(len(ids), width, dtype=torch.bool, device=ids.device)
        if given is not None:
            first[:, width - given.shape[1] :] = given.bool()
        return torch.cat([first, new.bool()], dim=1)

    def result(self, ids: Tensor, inputs: Any, settings: dict[str, Any], *, measured: bool) -> Generation:
        """Everything by step, once the last token is there."""
        assert self.ids is not None
        prompt = self.ids.shape[1] - len(self.unfinished) + 1
        count = ids.shape[1] - prompt
        self.number = count
        keep = self._keep(ids)
        model, shape = self.model, self.model.shape
        facts = model.facts() | {"generation": settings}

        def capture(taken: Taken, batch_ids: Tensor | None, kept: Tensor | None, **more: Any) -> Capture:
            return Capture(
                stats=taken.stats,
                ids=batch_ids,
                keep=kept,
                tokens=[]
                if batch_ids is None or kept is None
                else [model.token_strings(row[k].tolist()) for row, k in zip(batch_ids, kept, strict=True)],
                masks=taken.masks,
                layers=tuple(taken.masks),
                heads=shape.heads,
                kv_heads=shape.kv_heads,
                facts=facts | more,
            )

        steps = tuple(
            capture(taken, ids[:, prompt + n - 1, None], keep[:, prompt + n, None], step=n)
            for n, taken in enumerate(self.steps[:count])
        )
        return Generation(
            text=self._text(ids[:, prompt:], keep[:, prompt:], inputs),
            ids=ids,
            keep=keep,
            prompt=prompt,
            prefill=capture(self.prefill, self.batch.ids, self.batch.keep) if measured else None,
            steps=steps,
            growing=frozenset(self.growing),
            facts=facts,
        )

    def _text(self, ids: Tensor, keep: Tensor, inputs: Any) -> str | list[str] | None:
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return None
        texts = [
            str(tokenizer.decode(row[kept], skip_special_tokens=True)) for row, kept in zip(ids, keep, strict=True)
        ]
        return texts[0] if _is_single(inputs) else texts


def _is_single(inputs: Any) -> bool:
    """Whether one text or one flat list of ids was given, and not a batch of one."""
    if isinstance(inputs, Tensor):
        return inputs.ndim == 1
    if isinstance(inputs, str):
        return True
    return isinstance(inputs, Sequence) and all(isinstance(item, int) for item in inputs)
