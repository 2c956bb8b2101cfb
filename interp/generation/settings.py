"""How the next token is chosen: what a caller and a model's own generation settings say, as one GenerationConfig."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from interp.captures.memory import is_out_of_memory
from interp.errors import InputError, InterpError
from interp.generation.values import check_value
from interp.naming import nearest
from interp.plain import plain

NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "use_cache": True,
    "cache_implementation": "dynamic",
    "disable_compile": True,
    "return_dict_in_generate": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
}
"""One sequence a prompt, token after token, with a cache that grows: what a step's row of attention is defined for."""

SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "min_p": None,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Settings of sampling, with transformers' defaults."""

REFUSED: dict[str, str] = {
    "num_beams": "beam search keeps several rows a step; tokens are chosen greedily or sampled",
    "num_return_sequences": "give the prompt several times instead",
    "use_cache": "each step's row is taken with the cache",
    "cache_implementation": "a static, quantized, offloaded or paged cache is not supported; the cache is a dynamic one",
    "cache_config": "the cache is a dynamic one",
    "max_cache_len": "the cache is a dynamic one",
    "prefill_chunk_size": "the prompt is read in one run",
    "prompt_lookup_num_tokens": "assisted decoding proposes several tokens a step",
    "assistant_early_exit": "assisted decoding proposes several tokens a step",
    "speculation_type": "assisted decoding proposes several tokens a step",
    "use_mtp": "multi-token prediction proposes several tokens a step",
    "is_assistant": "assisted decoding proposes several tokens a step",
    "guidance_scale": "classifier-free guidance runs the model twice a step",
    "penalty_alpha": "contrastive search runs several candidates a step",
    "dola_layers": "decoding by contrasting layers is not supported",
    "constraints": "constrained decoding is a beam search",
    "force_words_ids": "constrained decoding is a beam search",
    "num_beam_groups": "beam search keeps several rows a step",
    "diversity_penalty": "beam search keeps several rows a step",
    "early_stopping": "it is a setting of beam search",
    "length_penalty": "it is a setting of beam search",
    "token_healing": "it changes the prompt",
    "compile_config": "generation runs uncompiled",
    "disable_compile": "generation runs uncompiled",
    "max_length": "give max_new_tokens",
    "max_new_tokens": "give it as the second argument",
    "return_dict_in_generate": "what is returned is a Generation",
    "output_attentions": "ask for probes",
    "output_hidden_states": "hidden states are not kept",
    "output_scores": "scores are not kept",
    "output_logits": "logits are not kept",
}
"""Settings that a step's row of attention is not defined for, or that are said elsewhere, and why."""


def generation_config(
    model: Any, max_new_tokens: int, do_sample: bool, settings: Mapping[str, Any], pad: int | None, vocabulary: int
) -> GenerationConfig:
    """The model's own settings, overlaid with ``settings``; greedy unless ``do_sample``, whatever the model's own say.

    pad: the id to write after the end of a sequence where the model's own settings name none
    vocabulary: how many token ids the model knows

    Raises:
        InputError: a setting that does not exist, is not supported, or means nothing without sampling.
    """
    own: GenerationConfig = model.generation_config
    if not isinstance(do_sample, bool):
        raise InputError(f"do_sample: expected True or False, got {do_sample!r}")
    settings = {name: plain(value) for name, value in settings.items()}
    _check_settings(settings, do_sample, vocabulary)
    _check_own(own)
    config = copy.deepcopy(own)
    neutral = NEUTRAL if do_sample else NEUTRAL | SAMPLING
    for name, value in (neutral | {"do_sample": do_sample} | settings).items():
        setattr(config, name, value)
    config.max_length = None
    config.max_new_tokens = max_new_tokens
    with settings_named(settings, lambda: False):
        config.validate()
    # An id of padding that was added to the tokenizer alone, or is -1, has no embedding; whichever stands there never counts.
    config.pad_token_id = next((i for i in (config.pad_token_id, pad) if i is not None and 0 <= i < vocabulary), None)
    if config.pad_token_id is None and (ends := end_ids(config)):
        config.pad_token_id = ends[0]
    return config


@contextmanager
def settings_named(settings: Mapping[str, Any], has_begun: Callable[[], bool]) -> Iterator[None]:
    """What the library refuses before the model has run is a setting.

    Raises:
        InputError: with the library's own reason and the settings that were given.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError) as error:
        if isinstance(error, InterpError) or has_begun() or is_out_of_memory(error):
            raise
        given = ", ".join(f"{name}={value!r:.60}" for name, value in settings.items())
        raise InputError(f"generation settings ({given or 'those of the model'}): {error}") from error


def end_ids(config: GenerationConfig) -> list[int]:
    """The token ids that end a sequence; none where the model has none."""
    ends = config.eos_token_id
    return [] if ends is None else [int(i) for i in ends] if isinstance(ends, list | tuple) else [int(ends)]


def used_settings(config: GenerationConfig, seed: int) -> dict[str, Any]:
    """What a result must say of how its tokens were chosen: everything that is not at its default, and the seed."""
    said = {name: value for name, value in config.to_diff_dict().items() if name not in NEUTRAL}
    chosen = {name: value for name, value in said.items() if name not in ("transformers_version", "_from_model_config")}
    if not config.do_sample:
        return {name: value for name, value in chosen.items() if name not in SAMPLING} | {"do_sample": False}
    return chosen | {"do_sample": True, "seed": seed}


def _check_settings(settings: Mapping[str, Any], do_sample: bool, vocabulary: int) -> None:
    known = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    offered = [name for name in known if name not in REFUSED and name not in ("do_sample", "transformers_version")]
    for name, value in settings.items():
        if name in REFUSED and value is not None and value != NEUTRAL.get(name):
            raise InputError(f"{name}={value!r}: {REFUSED[name]}")
        if name not in known:
            raise InputError(f"unknown setting of generation {name!r}; {nearest(name, offered)}")
        if name in SAMPLING and not do_sample:
            raise InputError(f"{name}={value!r} means nothing without sampling; give do_sample=True, or leave it out")
        check_value(name, value, vocabulary)


def _check_own(own: GenerationConfig) -> None:
    """Settings of the model that no neutral value can switch off, as transformers fills in what is None."""
    for name in ("prefill_chunk_size", "prompt_lookup_num_tokens", "guidance_scale", "penalty_alpha", "use_mtp"):
        value = getattr(own, name, None)
        if value not in (None, False, 1):
            raise InputError(
                f"the model's own generation settings hold {name}={value!r}: {REFUSED[name]}; "
                f"set model.generation_config.{name} = None"
            )
