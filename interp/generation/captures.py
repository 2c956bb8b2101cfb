"""From what the runs of a generation measured to its captures, with the tokens on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp.captures.capture import Capture, Side
from interp.captures.sides import sides_of, tokens_of
from interp.generation.result import Generation
from interp.generation.run import Run, Taken


def put_together(run: Run, ids: Tensor, settings: Mapping[str, Any], *, is_single: bool, measured: bool) -> Generation:
    """The generation of ``run``, whose ids [B, T] are those of the prompt and of the new tokens.

    is_single: its text is one and no batch; measured: whether the prompt was
    """
    prompt, keep = run.prompt, run.keep(ids.shape[1])
    facts = run.model.facts() | {"generation": dict(settings)}
    tokenizer = run.model.tokenizer
    text: str | list[str] | None = None
    if tokenizer is not None:
        new = zip(ids[:, prompt:], keep[:, prompt:], strict=True)
        texts = [str(tokenizer.decode(row[kept], skip_special_tokens=True)) for row, kept in new]
        text = texts[0] if is_single else texts
    return Generation(
        text=text,
        ids=ids,
        keep=keep,
        prompt=prompt,
        prefill=_prefill(run, ids, keep, facts) if measured else None,
        steps=tuple(
            _step(run, n, taken, ids, keep, facts) for n, taken in enumerate(run.steps[: ids.shape[1] - prompt])
        ),
        facts=facts,
    )


def _prefill(run: Run, ids: Tensor, keep: Tensor, facts: dict[str, Any]) -> Capture:
    batch = run.batch
    if run.is_encoder_decoder:
        read = {"decoder_input_ids": ids[:, : run.prompt], "decoder_attention_mask": keep[:, : run.prompt]}
        batch = replace(batch, others={**batch.others, **read})
    sides = sides_of(run.model, batch, {layer.stack for layer in run.prefill.measured.values()})
    return _capture(
        run, run.prefill, Side(batch.ids, batch.keep, tokens_of(run.model, batch.ids, batch.keep)), sides, facts
    )


def _step(run: Run, number: int, taken: Taken, ids: Tensor, keep: Tensor, facts: dict[str, Any]) -> Capture:
    """The row of new token ``number``: its query is the token before, and counts if the sequence had not ended by then."""
    position = run.prompt + number - 1
    query_ids, query_keep = ids[:, position, None], keep[:, position + 1, None]
    query = Side(query_ids, query_keep, tokens_of(run.model, query_ids, query_keep), first=position)
    # Tokens of keys are O(T) strings a step: they are kept where a statistic is as long.
    is_long = any("key" in statistic.axes for statistic in taken.statistics.values())

    def keys(ids: Tensor | None, keep: Tensor | None) -> Side:
        return Side(ids, keep, tokens_of(run.model, ids, keep) if is_long else [])

    sides = {
        stack: (
            query,
            keys(ids[:, : position + 1], keep[:, : position + 1])
            if stack != "cross"
            else keys(run.batch.ids, run.batch.keep)
            if run.is_encoder_decoder
            else Side(),
        )
        for stack in {layer.stack for layer in taken.measured.values()}
    }
    return _capture(run, taken, query, sides, facts | {"step": number})


def _capture(
    run: Run, taken: Taken, side: Side, sides: Mapping[str, tuple[Side, Side]], facts: dict[str, Any]
) -> Capture:
    shape = run.model.shape
    return Capture(
        stats=taken.stats,
        ids=side.ids,
        keep=side.keep,
        tokens=side.tokens,
        masks=taken.masks,
        layers=tuple(taken.masks),
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        facts=facts | {"backend": ", ".join(sorted({str(layer.backend) for layer in taken.measured.values()}))},
        statistics=taken.statistics,
        measured=taken.measured,
        sides=sides,
    )
