"""Detectors over a model: every head scored for every behaviour, in as few forward runs as can be."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.detector import Detector, ProbeDetector, RunDetector, Setting
from interp.heads.registry import STANDARD, Wanted, as_list, chosen
from interp.heads.samples import Samples, Sequences, Source
from interp.inputs.batch import Batch
from interp.inputs.tokens import special_around, tokenise
from interp.models.hooked import HookedModel
from interp.naming import named_layers
from interp.progress import Bar
from interp.scores import HeadScores, Measured
from interp_kernels import Probe

BATCH_TOKENS = 8192
"""Token positions of one forward run, unless a single sequence is longer."""
NO_TOKEN = -1
"""Stands for padding where tokens are compared."""


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
    check_readable(model)
    wanted, left_out = fitting(model, as_list(detectors), text, window)
    by_probes = [detector for detector in wanted if isinstance(detector, ProbeDetector)]
    # What runs by itself cuts the text as it needs.
    source = source_of(model, text if by_probes else None, window, samples, seed, beyond_context)
    groups: dict[Samples, list[ProbeDetector]] = {}
    for detector in by_probes:
        groups.setdefault(detector.samples(), []).append(detector)
    made = {recipe: sequences_of(recipe, source, members) for recipe, members in groups.items()}

    measured = {detector.name: Measured([], []) for detector in wanted}
    total = sum(ids.numel() for sequences in made.values() for ids in sequences.ids)
    with Bar(total=total, unit="token", what=f"scan {model.name}", show=progress and total > 0) as bar:
        for recipe, members in groups.items():
            for ids in _batches(made[recipe].ids):
                batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
                found = measure(model, members, batch, made[recipe].prefix, beyond_context)
                for name, (scores, chance) in found.items():
                    measured[name].add(scores, chance)
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
        "methods": {detector.name: detector.facts() for detector in wanted},
        "text_sha256": None if text is None else hashlib.sha256(text.encode()).hexdigest(),
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


def check_readable(model: HookedModel) -> None:
    """Refuse a model without one stack of layers that reads token ids.

    Raises:
        InputError: says what its layers are.
    """
    if model.shape.vocabulary == 0 or not all(isinstance(layer, int) for layer in model.layers):
        raise InputError(
            f"scan runs detectors on token ids through one stack of layers, and {model.name} is not made so (its layers: "
            f"{named_layers(model.layers)}); use HookedModel.capture with probes"
        )


def fitting(
    model: HookedModel,
    given: Sequence[str | Detector],
    text: str | None,
    window: int | None,
    named: Collection[str] | None = None,
) -> tuple[list[Detector], dict[str, str]]:
    """The detectors to run; those that do not fit are left out of "standard" with the reason, and refused by name.

    named: names of those that were asked for by name; None: all but what "standard" stands for

    Raises:
        InputError: one that is named does not fit the model, or lacks its text.
    """
    if named is None:
        named = {each if isinstance(each, str) else each.name for each in given}
    wanted, left_out = [], {}
    for detector in chosen(given):
        if detector.name not in named and not detector.is_standard_for(model):
            continue
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


def sequences_of(recipe: Samples, source: Source, members: Sequence[ProbeDetector]) -> Sequences:
    """The input of detectors that share a recipe.

    Raises:
        InputError: the source does not allow it, or one of them has no score on it.
    """
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


def measure(
    model: HookedModel, members: Sequence[ProbeDetector], batch: Batch, prefix: int, beyond_context: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Run one batch, padded or not: each detector's scores [B, L, H] and chance levels [B, L], float64 on the CPU.

    prefix: how many special tokens stand in front of each sequence
    """
    assert batch.ids is not None
    assert batch.keep is not None
    ids, keep = batch.ids.to(model.device), batch.keep.to(model.device)
    # Detectors compare tokens; the negative ids of padding are no token's, and match nothing.
    told = ids.masked_fill(~keep, NO_TOKEN) if batch.is_padded else ids
    probes = [probe for detector in members for probe in detector.probes(told, prefix)]
    capture = model.capture(Batch(ids, keep), probes, beyond_context=beyond_context)
    counted = [_of_kept(probe, keep) for probe in probes] if batch.is_padded else probes
    uniform = uniform_stats(counted, [capture.masks[layer] for layer in capture.layers], ids)
    found = {}
    for detector in members:
        by_layer = [{name: values[layer] for name, values in capture.stats.items()} for layer in capture.layers]
        scores = torch.stack([detector.score(stats) for stats in by_layer], dim=1)
        chance = torch.stack([detector.score(stats)[:, 0] for stats in uniform], dim=1)
        found[detector.name] = scores.double().cpu(), chance.double().cpu()
    return found


def _of_kept(probe: Probe, keep: Tensor) -> Probe:
    """As a capture does: padded queries do not count."""
    return replace(probe, queries=keep if probe.queries is None else probe.queries & keep)


def _is_beyond(model: HookedModel, made: Iterable[Sequences]) -> bool:
    context = model.shape.context
    return context is not None and any(ids.numel() > context for sequences in made for ids in sequences.ids)
