"""Detectors over a model: every head scored for every behaviour, in as few forward runs as can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.detector import Detector, ProbeDetector, RunDetector, Setting
from interp.heads.registry import STANDARD, Wanted, as_list, chosen
from interp.heads.samples import Samples, Sequences, Source
from interp.inputs.batch import Batch
from interp.inputs.tokens import special_around, tokenise
from interp.models.hooked import HookedModel
from interp.naming import named_layers
from interp.scores import HeadScores, Measured

BATCH_TOKENS = 8192
"""Token positions of one forward run, unless a single sequence is longer."""


def scan(
    model: HookedModel,
    detectors: Wanted = STANDARD,
    *,
    text: str | None = None,
    window: int | None = None,
    samples: int = 8,
    seed: int = 0,
    beyond_context: bool = False,
    progress: bool = True,
) -> HeadScores:
    """Score every head of ``model`` for each detector.

    Detectors that share an input share its forward runs. Each score is a mean over samples (windows of the text, or random
    sequences), with its standard error, beside its chance level: what uniform attention over the visible keys would get
    on the same input.

    Args:
        detectors: "standard" (all that need forward runs only and that the model and the input allow), names (see
            ``interp.detectors()``), or detectors with options of their own.
        text: what the detectors that read text are measured on; without it, or without a tokenizer, random tokens.
        window: cut the text into windows of so many positions; without it the text is one sequence.
        samples: how many random sequences to draw.
        seed: of the random tokens.
        beyond_context: allow sequences longer than the model's context, where its positions are relative.
        progress: show a progress bar on stderr.

    Raises:
        InputError: unknown detector; one that does not fit the model or lacks its text; a text too short or too long.
        RunError: the model's activations hold NaN.
    """
    check_options(text, window, samples, seed)
    _check_readable(model)
    wanted, left_out = _fitting(model, as_list(detectors), text, window)
    by_probes = [detector for detector in wanted if isinstance(detector, ProbeDetector)]
    # What runs by itself cuts the text as it needs.
    source = source_of(model, text if by_probes else None, window, samples, seed, beyond_context)
    groups: dict[Samples, list[ProbeDetector]] = {}
    for detector in by_probes:
        groups.setdefault(detector.samples(), []).append(detector)
    made = {recipe: _made(recipe, source, members) for recipe, members in groups.items()}

    measured = {detector.name: Measured([], []) for detector in wanted}
    total = sum(ids.numel() for sequences in made.values() for ids in sequences.ids)
    with tqdm(total=total, unit="token", desc=f"scan {model.name}", disable=not (progress and total)) as bar:
        for recipe, members in groups.items():
            for ids in _batches(made[recipe].ids):
                _measure(model, members, ids, made[recipe].prefix, measured, beyond_context)
                bar.update(ids.numel())
    inputs = {d.name: made[recipe].described for recipe, members in groups.items() for d in members}
    setting = Setting(text, window, samples, seed, beyond_context, progress)
    for detector in wanted:
        if isinstance(detector, RunDetector):
            scored = detector.measure(model, setting)
            measured[detector.name].add(scored.scores.double().cpu(), scored.chance.double().cpu())
            inputs[detector.name] = scored.described
    settings = {
        "detectors": [detector.name for detector in wanted],
        "left_out": left_out,
        "inputs": {detector.name: inputs[detector.name] for detector in wanted},
        "ranges": {detector.name: [detector.low, detector.high] for detector in wanted},
        "text_tokens": None if source.text is None else source.text.numel(),
        "window": window,
        "samples": samples,
        "seed": seed,
        "beyond_context": _is_beyond(model, made.values()),
    }
    return HeadScores.from_samples(measured, wanted, model.layers, settings | {"model": model.facts()})


def check_options(text: str | None, window: int | None, samples: int, seed: int) -> None:
    """Refuse options of ``scan`` that no model could take.

    Raises:
        InputError: one is of another type or out of its range.
    """
    if text is not None and not isinstance(text, str):
        raise InputError(f"text: expected a string, got {type(text).__name__}")
    if window is not None and (type(window) is not int or window < 8):
        raise InputError(f"window: expected an integer of at least 8, got {window!r}")
    if type(samples) is not int or samples < 1:
        raise InputError(f"samples: expected an integer of at least 1, got {samples!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")


def _check_readable(model: HookedModel) -> None:
    if model.shape.vocabulary == 0 or not all(isinstance(layer, int) for layer in model.layers):
        raise InputError(
            f"scan runs detectors on token ids through one stack of layers, and {model.name} is not made so (its layers: "
            f"{named_layers(model.layers)}); use HookedModel.capture with probes"
        )


def _fitting(
    model: HookedModel, given: list[str | Detector], text: str | None, window: int | None
) -> tuple[list[Detector], dict[str, str]]:
    """The detectors to run; those that do not fit are left out of "standard" with the reason, and refused by name."""
    named = {each if isinstance(each, str) else each.name for each in given}
    wanted, left_out = [], {}
    for detector in chosen(given):
        reason = _why_not(detector, model, text, window)
        if reason is None:
            wanted.append(detector)
        elif detector.name not in named:
            left_out[detector.name] = reason
        else:
            raise InputError(f"detector {detector.name!r} cannot be run: {reason}")
    return wanted, left_out


def _why_not(detector: Detector, model: HookedModel, text: str | None, window: int | None) -> str | None:
    """Why a detector cannot be measured, None where it can."""
    context = model.shape.context
    if detector.is_causal and not model.shape.is_causal:
        return f"it is defined for heads that look back only, and {model.name} sees both ways"
    if context is not None and context < detector.positions:
        return f"it needs {detector.positions} positions, and the context of {model.name} is {context}"
    if window is not None and window < detector.positions:
        return f"it needs {detector.positions} positions, and windows of {window} are asked for"
    if detector.needs_text and text is None:
        return "it needs a text; give text= (--text)"
    if detector.needs_text and model.tokenizer is None:
        return f"it needs a text, and {model.name} has no tokenizer"
    return detector.unfit(model)


def _made(recipe: Samples, source: Source, members: Sequence[ProbeDetector]) -> Sequences:
    try:
        made = recipe.make(source)
    except InputError as error:
        raise InputError(f"{', '.join(detector.name for detector in members)}: {error}") from None
    for detector in members:
        detector.check(made.ids)
    return made


def source_of(
    model: HookedModel,
    text: str | None = None,
    window: int | None = None,
    samples: int = 8,
    seed: int = 0,
    beyond_context: bool = False,
) -> Source:
    """What recipes of ``interp.heads.samples`` make inputs for ``model`` from; arguments as of ``scan``.

    Raises:
        InputError: the text cannot be read, or is too long.
    """
    shape = model.shape
    before, after = special_around(model.tokenizer)
    ids = None
    longest = shape.context or 2048
    if text is not None and model.tokenizer is not None:
        ids = torch.tensor(tokenise(text, model.tokenizer, special=False), dtype=torch.int64)
        if int(ids.max()) >= shape.vocabulary:
            raise InputError(
                f"the tokenizer gives token id {int(ids.max())}, outside of the model's vocabulary of {shape.vocabulary}; "
                "it is not the tokenizer of this model"
            )
        whole = ids.numel() + len(before) + len(after)
        if window is None:
            model.check_length(whole, beyond_context=beyond_context)
            longest = max(longest, whole)
    if window is not None:
        model.check_length(window, beyond_context=beyond_context)
        longest = window
    special, bos = special_ids(model)
    usable = min(shape.vocabulary, len(model.tokenizer)) if model.tokenizer is not None else shape.vocabulary
    ordinary = torch.tensor([i for i in range(usable) if i not in special], dtype=torch.int64)
    return Source(ids, longest, before, after, bos, ordinary, seed, samples)


def special_ids(model: HookedModel) -> tuple[set[int], tuple[int, ...]]:
    """Ids that are no ordinary tokens, and what random sequences begin with."""
    config = model.host.config
    named = [getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")]
    special = {i for entry in named for i in (entry if isinstance(entry, list) else [entry]) if i is not None}
    tokenizer = model.tokenizer
    bos = named[0]
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids)
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    inside = isinstance(bos, int) and 0 <= bos < model.shape.vocabulary
    return special, (bos,) if inside else ()  # pyright: ignore[reportReturnType]


def _batches(sequences: Sequence[Tensor]) -> Iterator[Tensor]:
    """Sequences of one length together, [B, T], up to ``BATCH_TOKENS`` positions; no padding."""
    start = 0
    while start < len(sequences):
        length = sequences[start].numel()
        stop = start + 1
        while (
            stop < len(sequences) and sequences[stop].numel() == length and (stop + 1 - start) * length <= BATCH_TOKENS
        ):
            stop += 1
        yield torch.stack(list(sequences[start:stop]))
        start = stop


def _measure(
    model: HookedModel,
    members: Sequence[ProbeDetector],
    ids: Tensor,
    prefix: int,
    measured: dict[str, Measured],
    beyond_context: bool,
) -> None:
    """Run one batch and add each detector's scores [B, L, H] and chance levels [B, L]."""
    ids = ids.to(model.device)
    probes = [probe for detector in members for probe in detector.probes(ids, prefix)]
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
    capture = model.capture(batch, probes, beyond_context=beyond_context)
    uniform = uniform_stats(probes, [capture.masks[layer] for layer in capture.layers], ids)
    for detector in members:
        by_layer = [{name: values[layer] for name, values in capture.stats.items()} for layer in capture.layers]
        scores = torch.stack([detector.score(stats) for stats in by_layer], dim=1)
        chance = torch.stack([detector.score(stats)[:, 0] for stats in uniform], dim=1)
        measured[detector.name].add(scores.double().cpu(), chance.double().cpu())


def _is_beyond(model: HookedModel, made: Iterable[Sequences]) -> bool:
    context = model.shape.context
    return context is not None and any(ids.numel() > context for sequences in made for ids in sequences.ids)
