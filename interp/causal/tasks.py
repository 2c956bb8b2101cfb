"""Tasks that claims about heads are checked on: a repeated span is predicted, a text is predicted, a needle is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.causal.loss import check_length, check_predicts, counted, token_losses
from interp.causal.task import Metric, Task, batches_of, check_worse
from interp.errors import InputError
from interp.heads.samples import RepeatedRandom, Source
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.naming import nearest
from interp.results.settings import checksum
from interp.scan import BATCH_TOKENS, special_ids

if TYPE_CHECKING:
    from interp.heads import Trial
    from interp.models.hooked import HookedModel

NATS = "nats per token"
WINDOW = 256
"""Positions of a window of prose where none is given: many windows say more about the spread than a few long ones."""
HELD_OUT = 1_000_000
"""Added to the seed, so that no sequence is one of those on which a scan of the same seed finds induction heads."""
NAMES = ("induction", "perplexity", "retrieval")

TaskLike = str | Task | Metric
"""A task, the name of one, or a metric."""


def induction_task(model: HookedModel, *, span: int = 50, samples: int = 8, seed: int = 0) -> Task:
    """Loss on the second copy of a repeated random span, in nats per token: what induction heads are said to make small.

    Input: BOS, then ``span`` random tokens, twice (drawn without replacement where the vocabulary allows it); the loss is the
    mean over the second copy but for its first token, which nothing foretells. A sample is a sequence, with a seed of its own;
    none is one of those that the detector "induction" is measured on with the same seed.

    Source: the input of Olsson et al., In-context Learning and Induction Heads (arXiv 2209.11895).

    Raises:
        InputError: numbers out of range; a model that does not predict the next token, or whose context is too short.
    """
    for name, value, low in (("span", span, 3), ("samples", samples, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise InputError(f"induction_task: {name}: expected an integer of at least {low}, got {value!r}")
    check_predicts(model)
    special, bos = special_ids(model)
    usable = (
        min(model.shape.vocabulary, len(model.tokenizer)) if model.tokenizer is not None else model.shape.vocabulary
    )
    ordinary = torch.tensor([i for i in range(usable) if i not in special], dtype=torch.int64)
    longest = model.shape.context or 2 * span + 1
    if len(bos) + 2 * span > longest:
        raise InputError(
            f"induction_task: span: {span} tokens, twice, are more than the context of {model.name}, {longest}; give at most "
            f"{(longest - len(bos)) // 2}"
        )
    sequences = RepeatedRandom(span).make(Source(None, longest, (), (), bos, ordinary, HELD_OUT + seed, samples))
    batches = batches_of(torch.stack(sequences.ids), model, BATCH_TOKENS)
    first = sequences.prefix + span

    def metric(edited: HookedModel) -> Tensor:
        return torch.cat([token_losses(edited, batch)[:, first:].mean(dim=1) for batch in batches])

    return Task(
        "loss on the second copy of repeated random tokens",
        metric,
        worse="higher",
        unit=NATS,
        sample="sequence",
        inputs={"input": sequences.described, "span": span, "samples": samples, "seed": seed, **_sums(batches)},
        batches=tuple(batches),
    )


def perplexity_task(
    model: HookedModel, inputs: Inputs | Batch | Path, *, length: int | None = None, beyond_context: bool = False
) -> Task:
    """Loss on a text in nats per token; its exponential is the perplexity.

    A text or text file is cut into consecutive windows of ``length`` positions, each a sample; what is left at the end and does
    not fill a window is left out, unless it is all that there is. Anything else (texts, ids, a batch) is run as it is, each
    sequence a sample. A sample's loss is the mean over its tokens but the first; special tokens that close a window and padding
    do not count.

    Args:
        length: positions of a window, special tokens included; 256 or the context, whichever is less.

    Raises:
        InputError: a model that does not predict the next token; inputs that do not fit, or predict nothing.
    """
    check_predicts(model)
    if isinstance(inputs, str | Path):
        batches, counts, described = _windows(model, inputs, length, beyond_context)
    else:
        if length is not None:
            raise InputError("perplexity_task: length cuts a text into windows; leave it out where sequences are given")
        batch = model.checked(inputs, beyond_context=beyond_context)
        check_length(batch)
        batches, counts, described = [batch], [counted(batch)], {}

    def metric(edited: HookedModel) -> Tensor:
        parts = []
        for batch, count in zip(batches, counts, strict=True):
            losses = token_losses(edited, batch, beyond_context=beyond_context)
            parts.append(losses.masked_fill(~count, torch.nan).nanmean(dim=1))
        return torch.cat(parts)

    return Task(
        "loss on text",
        metric,
        worse="higher",
        unit=NATS,
        sample="window" if described else "sequence",
        inputs={**described, **_sums(batches)},
        batches=tuple(batches),
    )


def retrieval_task(model: HookedModel, trials: Sequence[Trial] | None = None) -> Task:
    """Recall of a needle in a haystack: ROUGE-1 recall of the greedy answer, in percent. A sample is a trial.

    Args:
        trials: of ``interp.heads.needle_trials``; None: its defaults, 5 lengths x 5 depths x 3 needles.

    Source: the trials of Wu et al. (arXiv 2404.15574), as ``interp.heads.needle_trials`` makes them.

    Raises:
        InputError: no trial; or what ``needle_trials`` refuses.
    """
    from interp.heads import Trial, needle_recall, needle_trials
    from interp.heads.trials import checksum_of

    given = needle_trials(model) if trials is None else tuple(trials) if isinstance(trials, Iterable) else (trials,)
    if not all(isinstance(trial, Trial) for trial in given):
        raise InputError(
            f"retrieval_task: expected trials, as interp.heads.needle_trials makes them, got {trials!r:.60}"
        )
    if not given:
        raise InputError(
            "retrieval_task: expected at least one trial, as interp.heads.needle_trials makes them, got none"
        )
    return Task(
        "recall of the needle",
        lambda edited: needle_recall(edited, given),
        worse="lower",
        unit="percent",
        sample="trial",
        inputs={
            "trials": len(given),
            "lengths": sorted({t.length for t in given}),
            "depths": sorted({t.depth for t in given}),
            "sha256": checksum_of(given),
        },
    )


def as_task(
    model: HookedModel,
    task: TaskLike,
    *,
    text: str | Path | None,
    samples: int,
    seed: int,
    worse: str | None,
    what: str,
) -> Task:
    """The task that is meant: one by name with its defaults, one given, or a metric with its direction.

    Raises:
        InputError: an unknown name; what it needs is missing; or what it does not take is given.
    """
    is_metric = callable(task) and not isinstance(task, Task)
    if worse is not None and not is_metric:
        raise InputError(f"{what}: worse says which way a metric of your own is worse; leave it out, the task says it")
    if text is not None and not (isinstance(task, str) and task == "perplexity"):
        raise InputError(f"{what}: text is for the task 'perplexity'; leave it out, or give task='perplexity'")
    if isinstance(task, Task):
        return task
    if task == "induction":
        return induction_task(model, samples=samples, seed=seed)
    if task == "perplexity":
        if text is None:
            raise InputError(
                f"{what}: the task 'perplexity' needs a text; give text=, or a task of perplexity_task(model, ...)"
            )
        return perplexity_task(model, text)
    if task == "retrieval":
        return retrieval_task(model)
    if isinstance(task, str):
        raise InputError(
            f"{what}: unknown task {task!r}; {nearest(task, NAMES)}; or give an interp.causal.Task or a metric"
        )
    if not is_metric:
        raise InputError(f"{what}: task: expected a name ({', '.join(NAMES)}), a Task or a metric, got {task!r:.60}")
    if worse is None:
        raise InputError(
            f"{what}: say which way your metric is worse: worse='higher' for a loss, worse='lower' for an accuracy"
        )
    check_worse(worse)
    return Task(getattr(task, "__name__", type(task).__name__).strip("<>"), task, worse)  # pyright: ignore[reportArgumentType]


def _windows(
    model: HookedModel, text: str | Path, length: int | None, beyond_context: bool
) -> tuple[list[Batch], list[Tensor], dict[str, Any]]:
    """Batches of equal windows, where their losses count [n, T - 1], and what they are."""
    if length is None:
        length = min(WINDOW, model.shape.context or WINDOW)
    cut = model.windows(text, length, beyond_context=beyond_context)
    windows = [window for window in cut if window.batch.tokens == cut.length] or [cut[0]]
    ids = torch.cat([window.batch.ids for window in windows if window.batch.ids is not None])
    is_new = torch.cat([window.is_new for window in windows])[:, 1:]
    # Of a text without special tokens around it the first token is new, and nothing predicts it.
    if not bool(is_new.any(dim=1).all()):
        raise InputError("perplexity_task: the text has one token, which nothing predicts; give a longer text")
    batches = batches_of(ids, model, BATCH_TOKENS)
    counts = list(is_new.split([len(batch.ids) for batch in batches if batch.ids is not None]))
    described = {
        "windows": len(windows),
        "positions": ids.shape[1],
        "tokens_left_out": len(cut.ids) - sum(int(window.is_new.sum()) for window in windows),
    }
    return batches, counts, described


def _sums(batches: Sequence[Batch]) -> dict[str, Any]:
    return {"sha256": [checksum(batch) for batch in batches if batch.ids is not None]}
