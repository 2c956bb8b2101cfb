"""Faithfulness: do the tokens that a method calls important change the output when they are taken out?

As in section 4 of Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928), with their code
(samiraabnar/attention_flow): for each example, Spearman's rank correlation over the input tokens between a method's scores and
(1) the effect of taking each token out, F - F without it, and (2) input gradients of F. Mean and standard error over examples.

F is the probability of a target, or its logit. Scores without a sign are compared with the absolute effect, as the source
does it for all; scores with one (gradient times input) with the signed effect. Ties get their mean rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.errors import InputError, RunError
from interp.flow.faithfulness_result import Faithfulness
from interp.flow.methods import ABLATION, GRADIENTS, METHODS, RESERVED, Example, Method, Methods, chosen_methods
from interp.flow.ranks import FEWEST, spearman
from interp.flow.relevance import check_followed
from interp.flow.target import (
    Explained,
    Measure,
    Target,
    explained,
    is_encoder_decoder,
    output_columns,
    token_name,
    tokens_read,
)
from interp.flow.token_ablation import Ablation, TokenAblation, without_each
from interp.inputs.batch import Batch
from interp.progress import Bar
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    from interp.inputs.convert import Inputs
    from interp.models.hooked import HookedModel

SOURCE = (
    "Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928, and samiraabnar/attention_flow"
)


def faithfulness(
    model: HookedModel,
    texts: Inputs | Batch,
    methods: Methods = None,
    target: Target = None,
    *,
    at: int | Sequence[int] | None = None,
    ablation: Ablation = "mean",
    measure: Measure = "probability",
    special: bool = True,
    own: bool = True,
    beyond_context: bool = False,
    progress: bool = True,
) -> Faithfulness:
    """Compare methods with the effect of taking each input token out, and with input gradients, on the same examples.

    T runs of T tokens for an example of T tokens, batched (8,192 positions at once): O(T^3) attention, O(T^2) the rest; and what
    each method costs. One stack of layers (decoders and encoders); edits in force apply to all of it.

    Args:
        texts: the examples: a text, texts, or token ids; each is run without padding.
        methods: names (see ``interp.flow.METHODS``), a mapping from names to functions of ``interp.flow.Example`` that give a
            number a token, or None for all of ``METHODS`` that the model allows; the others are left out, with the reason in
            ``settings`` and in the summary.
        target, at: as for ``interp.flow.relevance``, one for all examples or one for each. A function is given the logits of
            one sequence, [1, T, V].
        ablation: how a token is taken out: "unk" or "mask" (the tokenizer's token in its place), an id, "mean" (the mean input
            embedding), "zero" (no input embedding), "cut" (the other positions do not see it).
        measure: F is the target's "probability", as in the source, or its "logit". Relevance explains the logit either way.
        special: False: special tokens are not compared.
        own: False: the token of the output itself is not compared (of relevance it holds the 1 of the identity).
        progress: show a progress bar on stderr, in tokens taken out.

    Raises:
        InputError: examples, methods or a target that do not fit; no example of three tokens; an encoder-decoder.
        RunError: a method gives NaN, infinity, or not one number a token.
    """
    _check_model(model)
    chosen = chosen_methods(methods)
    batch = model.checked(texts, beyond_context=beyond_context)
    alone = _one_by_one(model, batch, beyond_context)
    whole = explained(model, batch, target, at, measure)
    way = TokenAblation.of(model, ablation)
    if all(part.tokens < FEWEST for part in alone):
        raise InputError(f"texts: rank correlations need {FEWEST} tokens, and no example has as many; give longer ones")
    wanted = {name: method for name, method in METHODS.items() if name in GRADIENTS} | chosen
    # What was not asked for by name may not fit the model.
    left_out: dict[str, str] | None = {} if methods is None else None
    found: list[_Scored] = []
    total = sum(part.tokens for part in alone)
    with Bar(total=total, unit="token", what=f"faithfulness {model.name}", show=progress) as bar:
        for number, part in enumerate(alone):
            given_at = at[number] if isinstance(at, Sequence) else at
            one = target if callable(target) else whole.wanted[number]
            found.append(
                _scored(model, part, one, given_at, measure, wanted, way, bar.update, beyond_context, left_out)
            )
    for each in found:
        for name in left_out or ():
            each.scores.pop(name, None)
    fitting = {name: method for name, method in chosen.items() if name not in (left_out or ())}
    settings = {"ablation": ablation, "measure": measure, "left_out": left_out or {}}
    return _result(model, batch, found, fitting, special=special, own=own, settings=settings)


@dataclass(frozen=True, eq=False)
class _Scored:
    """One example: its scores by name, F, and what was explained."""

    batch: Batch
    position: int
    scores: dict[str, np.ndarray]
    value: float
    target: int | None
    strings: tuple[str, ...]


def _scored(
    model: HookedModel,
    batch: Batch,
    target: Target,
    at: int | None,
    measure: Measure,
    methods: dict[str, Method],
    way: TokenAblation,
    done: object,
    beyond_context: bool,
    left_out: dict[str, str] | None,
) -> _Scored:
    """left_out: gains the methods that do not fit the model, and why; None: they are errors."""
    objective = explained(model, batch, target, at, measure)
    last = model.run(batch, lambda call: (), lambda call, attended: None, logits=True)
    value = float(objective(last))
    read = tokens_read(model, batch)
    [[position]] = output_columns(model, read, objective, None)
    fixed = target if callable(target) else objective.chosen[0]
    example = Example(model, batch, position, fixed, at if at is not None else _at(objective), measure, beyond_context)
    scores: dict[str, np.ndarray] = {}
    for name, method in methods.items():
        try:
            if name not in (left_out or ()):
                scores[name] = _checked(name, method.scores(example), batch.tokens)
        except InputError as error:
            # Gradients are what the others are compared with.
            if left_out is None or name in GRADIENTS:
                raise
            left_out[name] = str(error)
    assert callable(done)
    scores[ABLATION] = value - without_each(model, batch, objective, way, done).numpy()
    return _Scored(batch, position, scores, value, None if callable(target) else objective.chosen[0], read.strings[0])


def _at(objective: Explained) -> int | None:
    return None if objective.at is None else objective.at[0]


def _result(
    model: HookedModel,
    batch: Batch,
    found: list[_Scored],
    methods: dict[str, Method],
    *,
    special: bool,
    own: bool,
    settings: dict[str, object],
) -> Faithfulness:
    import pandas as pd

    rows, tables = [], []
    for number, each in enumerate(found):
        compared = _compared(model, each, special=special, own=own)
        for name, values in each.scores.items():
            tables.append(
                pd.DataFrame(
                    {
                        "example": number,
                        "position": np.arange(len(values)),
                        "token": each.strings,
                        "is_compared": compared,
                        "name": name,
                        "value": values,
                    }
                )
            )
        for name, method in methods.items():
            for reference in RESERVED:
                if reference == name:
                    continue
                is_signed = method.is_signed and (reference == ABLATION or METHODS[reference].is_signed)
                pair = each.scores[name][compared], each.scores[reference][compared]
                rho = spearman(*pair) if is_signed else spearman(*map(np.abs, pair))
                rows.append(
                    {
                        "example": number,
                        "method": name,
                        "reference": reference,
                        "spearman": rho,
                        "tokens": int(compared.sum()),
                    }
                )
    has_target = all(each.target is not None for each in found)
    made = settings_of(
        model,
        method="Spearman's rank correlation over tokens of scores with F - F without the token, and with gradients of F",
        source=SOURCE,
        constants={
            **settings,
            "target": [each.target for each in found] if has_target else "a function",
            "positions": [each.position for each in found],
            "special": special,
            "own": own,
            "ties": "mean rank",
            "methods": {name: method.source for name, method in methods.items()},
        },
        inputs=inputs_of(batch),
    )
    return Faithfulness(
        settings=made,
        correlations=pd.DataFrame(rows),
        scores=pd.concat(tables, ignore_index=True),
        targets=tuple(token_name(model, each.target) for each in found if each.target is not None),
        values=tuple(each.value for each in found),
    )


def _compared(model: HookedModel, each: _Scored, *, special: bool, own: bool) -> np.ndarray:
    """Which tokens count, bool [T]: those that the output can see, and of these the ones that are asked for."""
    count = np.ones(each.batch.tokens, dtype=bool)
    if model.shape.is_causal:
        count[each.position + 1 :] = False
    if not own:
        count[each.position] = False
    if not special and each.batch.token_rows:
        count &= ~np.array([token.is_special for token in each.batch.token_rows[0].tokens])
    return count


def _checked(name: str, scores: object, length: int) -> np.ndarray:
    try:
        values = np.asarray(scores.detach().cpu() if isinstance(scores, torch.Tensor) else scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise RunError(f"method {name!r}: expected a number for each of {length} tokens, got {scores!r:.60}") from None
    if values.shape != (length,):
        raise RunError(
            f"method {name!r}: expected a number for each of {length} tokens, got shape {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise RunError(f"method {name!r}: it gave NaN or infinity")
    return values


def _check_model(model: HookedModel) -> None:
    if is_encoder_decoder(model):
        raise InputError(
            f"faithfulness is for one stack of layers, and {model.name} has an encoder and a decoder: its methods' scores "
            "would be on two sides"
        )
    check_followed(model)


def _one_by_one(model: HookedModel, batch: Batch, beyond_context: bool) -> list[Batch]:
    """Each sequence by itself, without padding."""
    if batch.ids is None or batch.keep is None or batch.others.keys() - {"position_ids"}:
        raise InputError("texts: expected texts or token ids alone, one sequence an example")
    alone = []
    for number, (ids, keep) in enumerate(zip(batch.ids, batch.keep.bool(), strict=True)):
        part = model.checked(ids[keep][None], beyond_context=beyond_context)
        rows = batch.token_rows[number : number + 1] or part.token_rows
        alone.append(Batch(part.ids, part.keep, part.others, rows))
    return alone
