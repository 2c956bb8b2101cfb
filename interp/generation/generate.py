"""Generation that measures each new token's attention: the model's own ``generate``, run hooked.

How tokens are chosen (greedily or sampled, temperature, penalties, the end of sequences) is the library's business and stays
so. With the cache of keys and values, a step has one query, the last token; its row over the whole past is what produced the
next one. A step costs O(T) time and memory a layer, as it does without probes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.generation.utils import GenerationMixin

import interp_kernels as ik
from interp.arguments import shown, switch
from interp.captures.statistic import probes_of_names
from interp.errors import InputError, RunError
from interp.generation.captures import put_together
from interp.generation.needs import needs_of_generation
from interp.generation.result import Generation
from interp.generation.run import Run
from interp.generation.settings import end_ids, generation_config, settings_named, used_settings
from interp.generation.steps import StepProbes, check_fixed, has_tensors
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.inputs.reads import Reads
from interp.models.editing import edits_on
from interp.models.hooked import HookedModel
from interp.models.layers import LayerKey
from interp.progress import Bar
from interp_kernels.integers import whole, whole_numbers

if TYPE_CHECKING:
    from transformers import GenerationConfig

Probes = Sequence[ik.Probe | str]

PLAIN: Any = vars(GenerationMixin)["generate"]
"""transformers' own ``generate``, as a function of the model."""


def generate(
    model: HookedModel,
    inputs: Inputs | Batch,
    max_new_tokens: int,
    probes: Probes | StepProbes = ("entropy", "peak"),
    layers: Iterable[LayerKey] | None = None,
    *,
    prefill_probes: Probes | Literal["same"] | None = "same",
    do_sample: bool = False,
    seed: int = 0,
    stopping: Sequence[StoppingCriteria] = (),
    beyond_context: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Generation:
    """See ``HookedModel.generate``."""
    check_generates(model)
    progress = switch("progress", progress)
    new = whole(max_new_tokens)
    if new is None or new < 1:
        raise InputError(f"max_new_tokens: expected an integer of at least 1, got {shown(max_new_tokens)}")
    start = whole(seed)
    if start is None or not 0 <= start < 2**63:
        raise InputError(f"seed: expected an integer from 0 to 2**63 - 1, got {shown(seed)}")
    wanted = model.wanted_layers(layers)
    asked = probes if callable(probes) and not isinstance(probes, type) else None
    fixed = None if asked is not None else probes_of_names(cast("Probes", probes))
    if fixed is not None:
        check_fixed(fixed)
    before = [] if prefill_probes is None else _prefill_probes(prefill_probes, fixed)
    vocabulary = Reads(model.host).decoder_vocabulary
    config = generation_config(model.host.inner, new, do_sample, settings, _pad_id(model), vocabulary)
    criteria = _criteria(model, config, stopping)
    batch = _prompt(model, inputs, config.pad_token_id, beyond_context)
    _check_length(model, batch, new, beyond_context)
    ends = torch.tensor(end_ids(config), device=model.device)
    bar = Bar(total=new, unit="token", what=f"generate {model.name}", show=progress)
    run = Run(model, batch, wanted, fixed, asked, before, ends, criteria, bar)
    run.check_first_step()
    needs = needs_of_generation(model, batch, wanted, before, fixed, new)
    needs.check()
    arguments = {**batch.arguments, **({"attention_mask": batch.keep.long()} if batch.keep is not None else {})}
    named, seeded = (
        settings_named(settings, lambda: run.number >= 0),
        _seeded(model.device, start if do_sample else None),
    )
    # A graph would be made of the measuring too, which differs from step to step.
    uncompiled = torch.compiler.set_stance("force_eager")
    with needs.explained(), bar, torch.no_grad(), seeded, uncompiled, run.watching(), named:
        # Not model.generate: some classes wrap theirs in rules of their own (Whisper's long recordings).
        made = PLAIN(
            model.host.inner,
            **arguments,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([run.endings]),
        )
    if not isinstance(made, Tensor):
        raise RunError(f"{type(model.host.inner).__name__}.generate gave {type(made).__name__} instead of token ids")
    used = used_settings(config, start)
    return put_together(run, made, used, is_single=_is_single(inputs), measured=prefill_probes is not None)


def check_generates(model: HookedModel) -> None:
    """Refuse models that cannot generate, or not as they are.

    Raises:
        InputError: no generation head, a ``generate`` of its own that does more, training mode, or edits without a cache.
    """
    own: Any = type(model.host.inner)
    if not isinstance(model.host.inner, PreTrainedModel):
        raise InputError(
            f"{own.__name__} is no model of transformers, whose generate is what runs; load the same model through "
            "transformers, by its name or folder"
        )
    if not isinstance(model.host.inner, GenerationMixin) or not own.can_generate():
        raise InputError(
            f"{own.__name__} cannot generate; load the model with its language-model head (a ...ForCausalLM or "
            "...ForConditionalGeneration)"
        )
    overrides = own.generate is not PLAIN
    if overrides and not own.__name__.startswith("Whisper"):
        raise InputError(
            f"{own.__name__} generates in a way of its own (its class replaces transformers' generate), which is not "
            "supported; capture its forward runs instead"
        )
    model.check_ready()
    if edits_on(model.host.layers) and "past_key_values" not in inspect.signature(model.host.inner.forward).parameters:
        raise InputError(
            f"{own.__name__} knows no cache and reads the whole text again for every token, which edits of positions are not "
            "defined for; generate outside of the edited context, or capture its forward runs inside"
        )


def _prefill_probes(asked: Probes | Literal["same"], fixed: list[ik.Probe] | None) -> list[ik.Probe]:
    if isinstance(asked, str) and asked == "same":
        return [probe for probe in fixed or [] if not has_tensors(probe)]
    return probes_of_names(asked)


def _pad_id(model: HookedModel) -> int | None:
    pad = getattr(model.tokenizer, "pad_token_id", None)
    return pad if isinstance(pad, int) else None


def _criteria(model: HookedModel, config: GenerationConfig, given: Sequence[StoppingCriteria]) -> StoppingCriteriaList:
    """The caller's own; strings to stop at become one of them, so that it is known which sequences have ended."""
    if not isinstance(given, list | tuple) or not all(isinstance(each, StoppingCriteria) for each in given):
        raise InputError(f"stopping: expected a list of transformers.StoppingCriteria, got {shown(given)}")
    criteria = StoppingCriteriaList(given)
    if config.stop_strings is not None:
        if model.tokenizer is None:
            raise InputError("stop_strings: this model has no tokenizer; load(..., tokenizer=...) with one")
        criteria.append(StopStringCriteria(model.tokenizer, config.stop_strings))
        config.stop_strings = None
    return criteria


def _prompt(model: HookedModel, inputs: Inputs | Batch, pad: int | None, beyond_context: bool) -> Batch:
    """The prompts as one batch: padded on the left, so that all of them end in the last column."""
    reads_apart = bool(getattr(model.host.config, "is_encoder_decoder", False))
    batch = inputs
    if not isinstance(batch, Batch):
        padding = "right" if reads_apart else "left"
        # A chat ends with what opens the answer; of other inputs that says nothing.
        batch = model.batch(batch, padding=padding, add_generation_prompt=True, beyond_context=beyond_context)
    model.check_length(batch.tokens, beyond_context=beyond_context)
    if reads_apart:
        return batch
    if batch.ids is None or batch.keep is None:
        raise InputError("a prompt of token ids or text is needed to generate from; got none")
    if bool((~batch.keep.any(dim=1)).any()):
        raise InputError("a prompt of the batch is padding alone; give at least one token")
    order = batch.keep.int().argsort(dim=1, stable=True)
    ids, keep = batch.ids.gather(1, order), batch.keep.gather(1, order)
    if batch.others and not torch.equal(keep, batch.keep):
        raise InputError("the prompts are padded on the right; a model that generates wants them padded on the left")
    rows = batch.token_rows if torch.equal(keep, batch.keep) else ()
    return replace(batch, ids=ids if pad is None else ids.masked_fill(~keep, pad), keep=keep, token_rows=rows)


def _check_length(model: HookedModel, batch: Batch, new: int, beyond_context: bool) -> None:
    shape = model.shape
    config = model.host.config
    prompt, context = batch.tokens, shape.context
    if getattr(config, "is_encoder_decoder", False):
        given = batch.others.get("decoder_input_ids")
        prompt = 1 if given is None else given.shape[1]
        context = getattr(config, "max_target_positions", None) or context
    if context is None or prompt + new <= context:
        return
    longer = f"a prompt of {prompt:,} tokens and {new:,} new ones make {prompt + new:,}, {model.name} is made for {context:,}"
    room = f"ask for at most {max(0, context - prompt):,} new ones or shorten the prompt"
    if not shape.has_relative_positions:
        raise InputError(f"{longer}, and its learned positions end there; {room}")
    if not beyond_context:
        raise InputError(f"{longer}; {room}, or allow it with beyond_context=True")


@contextmanager
def _seeded(device: torch.device, seed: int | None) -> Iterator[None]:
    """Random numbers from ``seed`` on, and the caller's go on afterwards as if nothing had been drawn."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _is_single(inputs: Any) -> bool:
    """Whether one text, chat or sequence of ids was given, and not a batch of one."""
    if isinstance(inputs, str | Path) or whole_numbers(inputs) is not None:
        return True
    return isinstance(inputs, Sequence) and all(isinstance(item, Mapping) for item in inputs)
