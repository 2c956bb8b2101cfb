"""A claim about heads, checked by ablating them and as many others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.causal.ablation import DEFINITIONS, Ablation, ablating, check_ablation, references
from interp.causal.controls import Controls, control_sets
from interp.causal.found import FoundHeads, found_heads
from interp.causal.resampling import RESAMPLES
from interp.causal.task import Task
from interp.causal.tasks import TaskLike, as_task
from interp.causal.verification import CONTROL, FOUND, PLAIN, Verification
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import Head, HeadSpec, head_counts, ordered_heads
from interp.models.layers import LayerKey
from interp.naming import head_name
from interp.progress import Bar
from interp.results.settings import settings_of

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

METHOD = (
    "metric(model with the heads ablated) - metric(model), against the same of control sets: as many heads that were not found, "
    "of the same layers as far as these have others, else of the nearest"
)
SOURCE = "p-value: Phipson and Smyth, arXiv 1603.05766; intervals: percentile bootstrap"


def verify(
    model: HookedModel,
    heads: FoundHeads,
    task: TaskLike,
    *,
    detector: str | None = None,
    ablation: Ablation = "zero",
    controls: int = 20,
    sizes: Iterable[int] | None = None,
    exclude: HeadSpec | Iterable[HeadSpec] = (),
    strict: bool = False,
    text: str | Path | None = None,
    samples: int = 8,
    worse: str | None = None,
    reference: Inputs | Batch | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Verification:
    """Whether these heads matter for a task more than others do: they are ablated, and so are random sets of as many others.

    The effect is metric(ablated) - metric(plain), paired sample by sample. A control set holds no found head and as many heads in
    each layer as the found ones have there; where a layer has too few others, it has the rest from the nearest layers, which the
    result says (``borrowed``), or is refused (``strict``). Sets are distinct; of at most ``controls``, all are taken.

    Cost: 1 + sizes x (1 + controls) evaluations of the metric.

    Args:
        heads: as people write them, ["L2H5", (2, 3)], or the ``HeadScores`` of a scan with ``detector``: its heads above the
            threshold, strongest first.
        task: "induction" (``induction_task``), "perplexity" (``perplexity_task`` of ``text``), "retrieval" (``retrieval_task``),
            a ``Task``, or a function of the model that gives a number or a 1-D tensor of one for each sample, with ``worse``.
        ablation: "zero" (z = 0), "mean" (z = its mean over ``reference``), "uniform" (attention to all visible keys alike).
        controls: how many control sets to draw for each size, at most.
        sizes: how many of the found heads to ablate together, the first ones in their order; None: all of them.
        exclude: heads that no control set may hold, such as those that are known to feed the found ones.
        strict: refuse control heads of other layers.
        samples: of the task "induction".
        worse: "higher" or "lower", of a metric given as a function.
        reference: of a mean ablation; None: the task's own inputs. Its mean is over all positions that are no padding.
        level: what intervals cover.
        seed: of control sets, bootstrap, and the task "induction".

    Raises:
        InputError: heads, task or options that do not fit; too few other heads.
        RunError: the metric or the model gives NaN.
    """
    _check(controls, level, seed)
    check_ablation(ablation)
    found = found_heads(model, heads, detector)
    wanted = _sizes(sizes, len(found))
    chosen = as_task(model, task, text=text, samples=samples, seed=seed, worse=worse, what="verify")
    counts = head_counts(model.host.layers)
    is_empty = exclude is None or (isinstance(exclude, Sized) and len(exclude) == 0)
    left_out = [] if is_empty else ordered_heads(exclude, counts)
    drawn = {
        size: control_sets(
            found[:size], [*found, *left_out], counts, controls, np.random.default_rng([seed, size]), strict=strict
        )
        for size in wanted
    }
    conditions = _conditions(found, drawn)
    if ablation == "mean":
        touched = dict.fromkeys(head for _, _, _, ablated in conditions for head in ablated)
        beyond = any(model.shape.context is not None and batch.tokens > model.shape.context for batch in chosen.batches)
        captures = references(model, touched, chosen, reference, beyond_context=beyond)
    elif reference is not None:
        raise InputError(f"reference: it is for the ablation 'mean', not for {ablation!r}; leave it out")
    else:
        captures = ()
    values = []
    for _, _, _, ablated in Bar(conditions, unit="run", what=f"verify {model.name}", show=progress):
        values.append(_measured(model, chosen, ablation, ablated, captures, values))
    return Verification(
        settings=settings_of(
            model,
            method=METHOD,
            source=SOURCE,
            constants={
                "ablation": ablation,
                "ablation_definition": DEFINITIONS[ablation],
                "reference": None if ablation != "mean" else "the task's inputs" if reference is None else "given",
                "controls": controls,
                "sizes": wanted,
                "excluded": [head_name(*head) for head in left_out],
                "strict": strict,
                "detector": detector,
                "interval": f"bootstrap percentile, {RESAMPLES} resamples of samples and of control sets",
                "level": level,
                "seed": seed,
            },
            inputs={"task": chosen.name, **chosen.inputs},
        ),
        task=chosen.name,
        unit=chosen.unit,
        sample=chosen.sample,
        worse=chosen.worse,
        ablation=ablation,
        heads=tuple(head_name(*head) for head in found),
        table=_table(conditions),
        values=np.stack(values),
        is_all={str(size): each.is_all for size, each in drawn.items()},
        borrowed={str(size): {str(k): n for k, n in each.borrowed.items()} for size, each in drawn.items()},
        level=float(level),
        seed=seed,
    )


Condition = tuple[str, int, int, tuple[Head, ...]]
"""Its name, how many found heads it stands for, the number of its draw (-1: none), and the heads that are ablated."""


def _conditions(found: Sequence[Head], drawn: dict[int, Controls]) -> list[Condition]:
    conditions: list[Condition] = [(PLAIN, 0, -1, ())]
    for size, each in drawn.items():
        conditions.append((FOUND, size, -1, tuple(found[:size])))
        conditions.extend((CONTROL, size, number, heads) for number, heads in enumerate(each.sets))
    return conditions


def _measured(
    model: HookedModel, task: Task, ablation: Ablation, heads: tuple[Head, ...], captures: Any, before: list[np.ndarray]
) -> np.ndarray:
    if heads:
        with model.edited(ablating(ablation, heads, captures)):
            values = task.measured(model)
    else:
        values = task.measured(model)
    if before and values.size != before[0].size:
        raise InputError(
            f"task {task.name!r}: its metric gave {before[0].size} samples for the plain model and {values.size} for an ablated "
            "one; effects are paired, so give the same samples each time"
        )
    return values


def _table(conditions: Sequence[Condition]) -> pd.DataFrame:
    layers = {size: _by_layer(heads) for name, size, _, heads in conditions if name == FOUND}
    rows = [
        {
            "condition": name,
            "size": size,
            "draw": draw,
            "heads": " ".join(head_name(*head) for head in heads),
            "in_layers": (_by_layer(heads) & layers.get(size, Counter())).total(),
        }
        for name, size, draw, heads in conditions
    ]
    return pd.DataFrame(rows)


def _by_layer(heads: Iterable[Head]) -> Counter[LayerKey]:
    return Counter(layer for layer, _ in heads)


def _sizes(sizes: Iterable[int] | None, found: int) -> list[int]:
    given = [found] if sizes is None else list(sizes) if isinstance(sizes, Iterable) else [sizes]
    for size in given:
        if type(size) is not int or not 1 <= size <= found:
            raise InputError(f"sizes: expected integers from 1 to {found} (the heads given), got {size!r}")
    if not given:
        raise InputError("sizes: expected at least one number of heads, got none; leave sizes out for all heads")
    return sorted(set(given))


def _check(controls: Any, level: Any, seed: Any) -> None:
    if type(controls) is not int or controls < 1:
        raise InputError(f"controls: expected an integer of at least 1, got {controls!r}")
    if not isinstance(level, float) or not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, such as 0.95, got {level!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
