"""Needle-in-a-haystack trials: prompts of exact lengths in which it is known where the needle's tokens stand.

    trials = needle_trials(model, lengths=[256, 512], depths=[0, 50, 100])
    recall = needle_recall(model, trials)  # interp.heads.recall

A prompt is  [special tokens]  haystack .. needle .. haystack  [what asks for it],  cut by tokens so that all of it has just the
length that was asked for. The needle stands between two sentences, at the place nearest to its depth. (The code of Wu et al.,
arXiv 2404.15574, takes the last place before it, which in a short text may be far away.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.heads.haystack import Haystack, built_in_haystack, haystack_of
from interp.heads.needles import Needle, checked_needles
from interp.heads.prompts import Asked, Prompt, asked_for, prompt_kind
from interp.naming import named_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from interp.models.hooked import HookedModel


NEW_TOKENS = 50
"""Longest answer of Wu et al. (arXiv 2404.15574), in tokens."""

DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
LENGTHS = 5
LONGEST = 50_000
"""Longest prompt where no lengths are given, as in the run of Wu et al., however much longer the context is."""

LEAST_HAY = 16
"""Tokens of haystack in the shortest prompt where no lengths are given."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One prompt with a needle in it.

    number     its place among the trials that were made together
    length     tokens of the prompt, special tokens and question included
    depth      where the needle was to stand, in percent of the haystack: 0 its start, 100 its end
    placed     where it stands, in the same percent: between the two sentences nearest to it
    needle     the number of its needle
    ids        token ids of the prompt, int64 [length]
    statement  positions of the needle's tokens, ascending
    answer     positions of those of them that are the answer: what the score is of
    asked      the answer in words, what recall is of
    stop       texts that end an answer
    max_new_tokens   longest answer, in tokens
    beyond_context   whether prompt and answer may be longer than the model's context
    """

    number: int
    length: int
    depth: float
    placed: float
    needle: int
    ids: np.ndarray
    statement: tuple[int, ...]
    answer: tuple[int, ...]
    asked: str
    stop: tuple[str, ...]
    max_new_tokens: int
    beyond_context: bool = False


def needle_trials(
    model: HookedModel,
    *,
    lengths: Sequence[int] | None = None,
    longest: int | None = None,
    depths: Sequence[float] | None = None,
    needles: Sequence[Needle] | int | None = None,
    haystack: str | Path | None = None,
    prompt: Prompt = "auto",
    max_new_tokens: int = NEW_TOKENS,
    stop: Sequence[str] | None = None,
    seed: int = 0,
    beyond_context: bool = False,
) -> tuple[Trial, ...]:
    """A trial for each length, depth and needle, in that order. Nothing is run.

    Args:
        lengths: of the prompts, in tokens; by default five, evenly spaced up to what leaves room for the answer in the
            model's context (at most ``LONGEST``).
        longest: prompt and answer together have at most so many tokens, where no lengths are given.
        depths: of the needle, in percent of the haystack; by default 0, 25, 50, 75 and 100.
        needles: yours, or how many of the built-in ones; by default 3.
        haystack: a text, or a text file; long enough, as it is not repeated. By default the demo's prose and, once that is
            used up, made-up sentences.
        prompt: "cloze" lets the model go on with the needle's words; "question" puts a question; "chat" puts it through the
            tokenizer's chat template; "auto" is "chat" where there is such a template, else "cloze".
        max_new_tokens: longest answer.
        stop: texts that end an answer, wherever they stand in it but for white space at its start. By default a new line,
            as in the code of Wu et al., and of a cloze also the full stop that ends the needle's sentence.
        seed: of the built-in needles and sentences.
        beyond_context: allow prompts longer than the model's context, where its positions are relative.

    Raises:
        InputError: what was given does not fit together or the model: said before anything is run.
    """
    tokenizer = _tokenizer_of(model)
    _check_numbers(max_new_tokens, seed, stop)
    wanted_depths = _depths(depths)
    made = checked_needles(needles, seed)
    kind = prompt_kind(prompt, tokenizer)
    asked = [asked_for(needle, number, kind, tokenizer, stop) for number, needle in enumerate(made)]
    wanted_lengths = _lengths(model, lengths, longest, max(each.size for each in asked), max_new_tokens, beyond_context)
    hay = _haystack(haystack, tokenizer, max(wanted_lengths), seed)
    _check_haystack(hay, made, asked, wanted_lengths)
    cells = [(length, depth, n) for length in wanted_lengths for depth in wanted_depths for n in range(len(made))]
    return tuple(
        _trial(number, length, depth, n, asked[n], made[n].answer, hay, max_new_tokens, beyond_context)
        for number, (length, depth, n) in enumerate(cells)
    )


def _trial(
    number: int,
    length: int,
    depth: float,
    needle: int,
    asked: Asked,
    answer: str,
    hay: Haystack,
    max_new_tokens: int,
    beyond_context: bool,
) -> Trial:
    room = length - asked.size
    window, gaps = hay.window(room)
    place = int(gaps[np.abs(gaps - depth / 100 * room).argmin()])
    ids = np.concatenate([asked.before, window[:place], asked.needle, window[place:], asked.after]).astype(np.int64)
    first = len(asked.before) + place
    return Trial(
        number=number,
        length=length,
        depth=depth,
        placed=100 * place / room,
        needle=needle,
        ids=ids,
        statement=tuple(range(first, first + len(asked.needle))),
        answer=tuple(first + index for index in asked.answer),
        asked=answer,
        stop=asked.stop,
        max_new_tokens=max_new_tokens,
        beyond_context=beyond_context,
    )


def checksum_of(trials: Sequence[Trial]) -> str:
    """SHA-256 of the prompts, of where their needles stand, and of what ends an answer, so that equal trials can be told."""
    digest = hashlib.sha256()
    for trial in trials:
        digest.update(trial.ids.tobytes())
        digest.update(repr((trial.statement, trial.answer, trial.asked, trial.stop)).encode())
    return digest.hexdigest()


def unfit(model: HookedModel) -> str | None:
    """Why needles cannot be hidden from a model, None where they can."""
    from interp.generation.generate import check_generates

    if getattr(model.host.config, "is_encoder_decoder", False) or not model.shape.is_causal:
        return f"needles are looked for by models that read and write one text, and {model.name} is not made so"
    if not all(isinstance(layer, int) for layer in model.layers):
        return f"needles are looked for through one stack of layers; {model.name} has {named_layers(model.layers)}"
    try:
        check_generates(model)
    except InputError as error:
        return str(error)
    if model.tokenizer is None:
        return f"{model.name} has no tokenizer, and needles are texts; load(..., tokenizer=...) with one"
    return None


def _tokenizer_of(model: HookedModel) -> PreTrainedTokenizerBase:
    if reason := unfit(model):
        raise InputError(reason)
    assert model.tokenizer is not None
    return model.tokenizer


def _check_numbers(max_new_tokens: int, seed: int, stop: Sequence[str] | None) -> None:
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise InputError(f"max_new_tokens: expected an integer of at least 1, got {max_new_tokens!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to 2**32 - 1, got {seed!r}")
    if stop is None:
        return
    if (
        not isinstance(stop, Sequence)
        or isinstance(stop, str)
        or not all(isinstance(text, str) and text for text in stop)
    ):
        raise InputError(f"stop: expected a list of texts that are not empty, got {stop!r:.80}")


def _depths(depths: Sequence[float] | None) -> list[float]:
    if depths is None:
        return list(DEPTHS)
    if not isinstance(depths, Sequence | np.ndarray) or isinstance(depths, str) or not len(depths):
        raise InputError(f"depths: expected at least one number from 0 to 100 (percent), got {depths!r:.80}")
    for depth in depths:
        if not isinstance(depth, Real) or isinstance(depth, bool) or not 0 <= depth <= 100:
            raise InputError(f"depths: expected numbers from 0 to 100 (percent of the haystack), got {depth!r}")
    found = [float(depth) for depth in depths]
    if len(set(found)) < len(found):
        raise InputError(f"depths: {found} holds a depth twice; give each once")
    return found


def _lengths(
    model: HookedModel, lengths: Sequence[int] | None, longest: int | None, size: int, new: int, beyond_context: bool
) -> list[int]:
    """size: tokens of the largest prompt without haystack; new: of the answer"""
    context = model.shape.context
    room = (LONGEST + new if context is None else context) - new
    beyond = beyond_context and model.shape.has_relative_positions
    if longest is not None and (type(longest) is not int or longest < 1 or lengths is not None):
        expected = "no lengths beside it" if lengths is not None else "an integer of at least 1"
        raise InputError(f"longest: expected {expected}, got {longest!r}")
    if lengths is None:
        bound = (
            f"longest={longest:,}" if longest is not None else f"{model.name} is made for {context or LONGEST:,} tokens"
        )
        if longest is not None and context is not None and longest > context and not beyond:
            raise InputError(f"longest: {longest:,} tokens are more than the context of {model.name}, {context:,}")
        most, least = min(room, LONGEST) if longest is None else longest - new, size + LEAST_HAY
        if most < least:
            raise InputError(
                f"{bound}, and needle and question ({size:,} tokens) and an answer of up to {new:,} leave no room for a "
                "haystack; ask for fewer max_new_tokens or shorter needles"
            )
        return sorted({round(length) for length in np.linspace(max(least, most / LENGTHS), most, LENGTHS)})
    if not isinstance(lengths, Sequence | np.ndarray) or isinstance(lengths, str) or not len(lengths):
        raise InputError(f"lengths: expected at least one number of tokens, got {lengths!r:.80}")
    found = []
    for length in lengths:
        if not isinstance(length, int | np.integer) or isinstance(length, bool) or length < 1:
            raise InputError(f"lengths: expected integers, numbers of tokens, got {length!r}")
        if length <= size:
            raise InputError(
                f"lengths: {length:,} tokens have no room for needle and question, which take {size:,}; give longer ones"
            )
        if context is not None and length + new > context and not beyond:
            how = "; or allow it with beyond_context=True" if model.shape.has_relative_positions else ""
            raise InputError(
                f"lengths: a prompt of {length:,} tokens and an answer of up to {new:,} are longer than the context of "
                f"{model.name}, {context:,}; give at most {max(0, room):,}, or fewer max_new_tokens{how}"
            )
        found.append(int(length))
    if len(set(found)) < len(found):
        raise InputError(f"lengths: {found} holds a length twice; give each once")
    return found


def _haystack(given: str | Path | None, tokenizer: PreTrainedTokenizerBase, longest: int, seed: int) -> Haystack:
    if given is None:
        return built_in_haystack(tokenizer, longest, seed)
    if isinstance(given, Path):
        from interp.inputs.textfile import read_text

        given = read_text(given, "haystack")
    if not isinstance(given, str) or not given.strip():
        raise InputError(f"haystack: expected a text or the Path of a text file, got {given!r:.80}")
    return haystack_of(given, tokenizer, longest)


def _check_haystack(
    hay: Haystack,
    needles: Sequence[Needle],
    asked: Sequence[Asked],
    lengths: Sequence[int],
) -> None:
    most = max(lengths) - min(each.size for each in asked)
    if hay.ids.size < most:
        raise InputError(
            f"haystack: it has {hay.ids.size:,} tokens, and a prompt of {max(lengths):,} needs {most:,} of them; give a longer "
            "text or shorter lengths (a text is not repeated: its copy would be found by the heads that are looked for)"
        )
    for number, needle in enumerate(needles):
        if needle.answer.casefold() in hay.text.casefold():
            raise InputError(
                f"haystack: the answer of needles[{number}], {needle.answer!r}, stands in it already; give another needle or "
                "text"
            )
