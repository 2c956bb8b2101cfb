"""Lookback ratio: does a head that writes on look at the context that it was given, or at what it has written itself?

Chuang et al., "Lookback Lens: Detecting and Mitigating Contextual Hallucinations in Large Language Models Using Only Attention
Maps" (arXiv 2407.07071); voidism/Lookback-Lens. ``interp.heads.lookback_detector`` is the classifier on these ratios.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.detector import RunDetector, Scored, Setting
from interp.heads.lookback_ratios import LookbackRatios
from interp.inputs.tokens import special_around, tokenise
from interp.progress import Bar
from interp.results.settings import settings_of
from interp_kernels import KeyMass
from interp_kernels.integers import whole_numbers

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

SOURCE = "Chuang et al., Lookback Lens, arXiv 2407.07071; voidism/Lookback-Lens"
METHOD = "mean attention per context token / (that + mean attention per new token), per head and new token"

Context = slice | None
"""Which tokens of a prompt are its context; None: all of them."""


def lookback(
    model: HookedModel,
    prompts: str | Sequence[str],
    responses: str | Sequence[str | Sequence[int]] | None = None,
    *,
    max_new_tokens: int = 64,
    context: Context | Sequence[Context] = None,
    beyond_context: bool = False,
    progress: bool = False,
    **settings: Any,
) -> LookbackRatios:
    """How much each head looks back at the context, for every new token of a response that is generated, or given.

    With P the row of a head that produced new token n, C the context's tokens in the prompt, and N the n tokens that were new
    before it (the query's own among them):

        ratio = c / (c + w),     c = sum_(j in C) P_j / |C|,     w = sum_(j in N) P_j / |N|

    Source and symbols: arXiv 2407.07071, A(context) is c and A(new) is w. Their code counts the marker that ends their prompts
    ("Answer:") as new; here what the model wrote is new, so that token 0 has no ratio.

    A response, given or generated, is read with its prompt in one forward run, O(T) memory: its rows are those that produced it.

    Args:
        prompts: one or several.
        responses: of each prompt the text, or the token ids, that followed it; None: they are generated, greedily unless
            ``settings`` say otherwise. A text is tokenised by itself.
        max_new_tokens: of responses that are generated.
        context: which tokens of the prompt are the context, counted without padding and special tokens included: a slice for
            all prompts, or one for each; None: all of them.
        beyond_context: allow sequences longer than the model's context, where its positions are relative.
        progress: show a progress bar on stderr.
        settings: of generation; see ``HookedModel.generate``.

    Raises:
        InputError: no tokenizer, a model that sees both ways, prompts and responses of different numbers, a context without
            tokens, or what generation refuses.
    """
    reason = _unfit(model)
    if reason is not None:
        raise InputError(f"lookback: {reason}")
    texts = [prompts] if isinstance(prompts, str) else list(prompts) if np.iterable(prompts) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"prompts: expected a text or texts, got {prompts!r:.80}")
    asked = [tokenise(text, model.tokenizer) for text in texts]
    contexts = _contexts(context, asked)
    if responses is None:
        answers = _generated(model, texts, max_new_tokens, beyond_context, progress, settings)
    else:
        if settings:
            raise InputError(f"settings {sorted(settings)} are of generation, and responses are given; leave them out")
        answers = _given(model, responses, len(texts))
    parts = [
        _ratios(model, prompt, answer, places, beyond_context)
        for prompt, answer, places in Bar(
            zip(asked, answers, contexts, strict=True),
            total=len(asked),
            unit="response",
            what=f"lookback {model.name}",
            show=progress,
        )
    ]
    longest = max(part.shape[-1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, 0), (0, longest - part.shape[-1])), constant_values=np.nan) for part in parts]
    return LookbackRatios(
        settings=settings_of(
            model,
            method=METHOD,
            source=SOURCE,
            constants={"generated": responses is None, "context": [str(c) for c in contexts]}
            | ({"max_new_tokens": max_new_tokens, "generation": settings} if responses is None else {}),
            inputs={
                "prompts": [len(ids) for ids in asked],
                "new_tokens": [len(ids) for ids in answers],
                "sha256": hashlib.sha256(repr((asked, answers)).encode()).hexdigest(),
            },
        ),
        ratios=np.stack(padded),
        layers=tuple(str(layer) for layer in model.layers),
        tokens=tuple(tuple(model.token_strings(ids)) for ids in answers),
    )


def _unfit(model: HookedModel) -> str | None:
    if model.tokenizer is None:
        return f"it needs texts, and {model.name} has no tokenizer"
    if not model.shape.is_causal or not all(isinstance(layer, int) for layer in model.layers):
        return f"it is defined for models that write on what they were given, and {model.name} is not one stack of such layers"
    return None


def _contexts(context: Any, asked: Sequence[Sequence[int]]) -> list[range]:
    """The columns of each prompt that are its context."""
    if context is not None and not isinstance(context, slice | Sequence):
        raise InputError(
            f"context: expected a slice of the prompt's tokens, or one for each prompt, got {context!r:.60}"
        )
    each = [context] * len(asked) if context is None or isinstance(context, slice) else list(context)
    if len(each) != len(asked):
        raise InputError(f"context: expected one for each of the {len(asked)} prompts, got {len(each)}")
    found = []
    for prompt, wanted in zip(asked, each, strict=True):
        if wanted is not None and not isinstance(wanted, slice):
            raise InputError(f"context: expected a slice of the prompt's tokens, or None for all, got {wanted!r:.60}")
        try:
            columns = range(len(prompt)) if wanted is None else range(*wanted.indices(len(prompt)))
        except (TypeError, ValueError):
            raise InputError(f"context: expected a slice of whole numbers, got {wanted}") from None
        if not columns:
            raise InputError(f"context: {wanted} holds none of the prompt's {len(prompt)} tokens")
        found.append(columns)
    return found


def _generated(
    model: HookedModel,
    texts: Sequence[str],
    max_new_tokens: int,
    beyond_context: bool,
    progress: bool,
    settings: dict[str, Any],
) -> list[list[int]]:
    """New token ids of each prompt, up to its end of sequence."""
    answers = []
    for text in texts:
        generation = model.generate(
            text,
            max_new_tokens,
            [],
            prefill_probes=None,
            beyond_context=beyond_context,
            progress=progress,
            **settings,
        )
        answers.append(generation.new_ids[0][generation.new_keep[0]].tolist())
    return answers


def _given(model: HookedModel, responses: Any, count: int) -> list[list[int]]:
    each = [responses] if isinstance(responses, str) else list(responses) if np.iterable(responses) else None
    if each is None:
        raise InputError(f"responses: expected a text, or for each prompt a text or token ids, got {responses!r:.80}")
    if len(each) != count:
        raise InputError(f"responses: expected one for each of the {count} prompts, got {len(each)}")
    return [_response(model, number, response) for number, response in enumerate(each)]


def _response(model: HookedModel, number: int, response: Any) -> list[int]:
    if isinstance(response, str):
        ids = tokenise(response, model.tokenizer, special=False) if response else []
    else:
        ids = whole_numbers(response)
    if ids is None:
        raise InputError(f"responses: number {number}: expected a text or the ids of tokens, got {response!r:.60}")
    if not ids:
        raise InputError("responses: one is empty; leave its prompt out")
    return ids


def _ratios(
    model: HookedModel, prompt: Sequence[int], answer: Sequence[int], context: range, beyond_context: bool
) -> np.ndarray:
    """[L, H, N] of one sequence.

    The rows of a full run over prompt and answer are those that produced it, as each sees what stood before it and no more.
    """
    t, first = len(prompt) + len(answer), len(prompt)
    weights = torch.zeros(t, 2)
    weights[list(context), 0] = 1
    weights[first:, 1] = 1
    rows = torch.zeros(t, dtype=torch.bool)
    rows[first - 1 : t - 1] = True
    probe = KeyMass(weights.to(model.device), name="mass", queries=rows.to(model.device))
    capture = model.capture([[*prompt, *answer]], [probe], beyond_context=beyond_context)
    mass = capture.stacked("mass")[:, 0, :, first - 1 : t - 1].double()  # [L, H, N, 2]
    new = torch.arange(len(answer), dtype=torch.float64)  # tokens that are new before token n
    return _ratio(mass[..., 0] / len(context), mass[..., 1] / new).float().numpy()


def _ratio(context: Tensor, new: Tensor) -> Tensor:
    """c / (c + w), NaN where nothing is new (0 / 0) or both are 0."""
    return context / (context + new)


@dataclass(frozen=True)
class Lookback(RunDetector):
    """Mean lookback ratio over the tokens that the model writes on after passages of a text, in [0, 1].

    ``samples`` passages, evenly spread over the text, that make prompts of ``prompt_tokens`` tokens with the tokenizer's special
    ones, and ``new_tokens`` greedy tokens after each. ``window`` cuts nothing: a ratio depends on how long both are, so that
    windows which cannot hold them are refused; give other lengths.
    """

    name: str = "lookback"
    definition: str = "mean over written tokens of attention per context token / (that + attention per new token)"
    source: str = SOURCE
    threshold: float = 0.5
    threshold_source: str = "what uniform attention gives: above, a token of the context gets more than one of its own"
    needs_text: bool = True
    prompt_tokens: int = 128
    new_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_tokens", "new_tokens"):
            given = getattr(self, name)
            if type(given) is not int or given < 2:
                raise InputError(f"{self.name}: {name}: expected an integer of at least 2, got {given!r:.60}")
        object.__setattr__(self, "positions", self.prompt_tokens + self.new_tokens)

    def unfit(self, model: HookedModel) -> str | None:
        return _unfit(model)

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        assert setting.text is not None
        ids = tokenise(setting.text, model.tokenizer, special=False)
        before, after = special_around(model.tokenizer)
        size = self.prompt_tokens - len(before) - len(after)
        if size < 1:
            raise InputError(
                f"{self.name}: prompt_tokens: expected more than the {len(before) + len(after)} special tokens that the "
                f"tokenizer adds, got {self.prompt_tokens}"
            )
        if len(ids) < size:
            raise InputError(f"{self.name}: the text has {len(ids)} tokens, fewer than the {size} of a prompt")
        assert model.tokenizer is not None
        count = min(setting.samples, len(ids) // size)
        starts = np.linspace(0, len(ids) - size, count).round().astype(int)
        prompts = [str(model.tokenizer.decode(ids[start : start + size])) for start in starts]
        found = lookback(model, prompts, max_new_tokens=self.new_tokens, progress=setting.progress)
        scores = np.stack([LookbackRatios.mean(_one(found, number)) for number in range(count)])
        chance = torch.full(scores.shape[:2], 0.5, dtype=torch.float64)
        described = (
            f"{count} passages of the text, prompts of {self.prompt_tokens} tokens, {self.new_tokens} more written greedily "
            "after each"
        )
        return Scored(torch.from_numpy(scores), chance, described)


def _one(found: LookbackRatios, number: int) -> LookbackRatios:
    return LookbackRatios(
        settings=found.settings,
        ratios=found.ratios[number : number + 1],
        layers=found.layers,
        tokens=found.tokens[number : number + 1],
    )
