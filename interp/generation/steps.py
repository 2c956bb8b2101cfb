"""What a step of generation measures: one row of attention over the whole past, by absolute positions.

A layer with a sliding window keeps the last keys alone. Tensors over keys are given for all positions and cut to those that
the layer still holds; keys that come back are counted from the start of the text again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import interp_kernels as ik
from interp.captures.lengths import check_names_differ
from interp.errors import InputError
from interp.models.call import AttentionCall

WRITING = ("", "text", "decoder")
"""Stacks of layers that write the text: "text" where the language model is called a tower of that name (Idefics3)."""
DECODING = (*WRITING, "cross")
"""Stacks of layers that run at every step; encoders and other towers run once, with the prompt."""


@dataclass(frozen=True, eq=False)
class Step:
    """Where a generation stands when the probes of a step are asked for.

    number    0 for the row that produces the first new token, the last one of the prompt
    ids       [B, T] token ids so far, the prompt and its padding included; of an encoder-decoder those of the decoder
    keep      [B, T], False at padding and after the end of a sequence
    prompt    how many columns of ``ids`` were given
    unfinished  [B], False for sequences that have ended: their rows come back as NaN
    stack     whose layers are measured: "" or "text" (the language model), "decoder", or "cross" (the decoder's look at the
              encoder)
    keys      how many keys a tensor over keys must cover: T, or the encoder's length for "cross"
    """

    number: int
    ids: Tensor
    keep: Tensor
    prompt: int
    unfinished: Tensor
    stack: str
    keys: int


StepProbes = Callable[[Step], Sequence[ik.Probe | str]]


def check_fixed(probes: Sequence[ik.Probe]) -> None:
    """Probes that serve every step alike hold no tensor.

    Raises:
        InputError: one does, or does not fit a single row.
    """
    for probe in probes:
        if has_tensors(probe):
            raise InputError(
                f"{type(probe).__name__} holds tensors over queries or keys, and these grow with the text; "
                "give probes as a function of interp.Step that returns the probes of that step"
            )
    check_row(probes)


def check_row(probes: Sequence[ik.Probe]) -> None:
    """Probes that fit a step, which has one row.

    Raises:
        InputError: one does not, or two have one name.
    """
    for probe in probes:
        name = type(probe).__name__
        if isinstance(probe, ik.Pooled):
            raise InputError(
                f"{name} pools over squares of the map, and a step has one row; ask for it in prefill_probes"
            )
        if probe.reduce != "none" or probe.queries is not None:
            raise InputError(f"{name}: a step has one row, which counts; leave reduce= and queries= out")
    check_names_differ(probes)


def has_tensors(probe: ik.Probe) -> bool:
    return any(isinstance(value, Tensor) for value in vars(probe).values())


def last_row(call: AttentionCall) -> AttentionCall:
    """The call of the last query alone, at its own position."""
    queries, keys = call.q.shape[2], call.k.shape[2]
    if queries == 1:
        return call
    first = keys - queries if call.mask.offset is None else call.mask.offset
    bias, sinks = call.bias, call.sinks
    if bias is not None and bias.shape == (call.q.shape[1], queries + keys - 1):
        # A relative bias, by key index - query index + queries - 1: its first entries are those of the last query.
        bias = bias[:, :keys]
    elif bias is not None and bias.ndim > 1:
        bias = bias[..., -1:, :]
    if sinks is not None and sinks.ndim > 1:
        sinks = sinks[..., -1:]
    classes = call.class_bias
    if classes is not None:
        classes = replace(classes, values=classes.values[..., -1:, :])
    mask = call.mask.with_offset(first + queries - 1)
    return replace(call, q=call.q[:, :, -1:], mask=mask, bias=bias, sinks=sinks, class_bias=classes)


def fitted(probes: Sequence[ik.Probe], call: AttentionCall) -> list[ik.Probe]:
    """``probes`` for the keys that a layer still holds, from tensors over all of them.

    Raises:
        InputError: a tensor over keys does not cover all of them.
    """
    return [_fitted(probe, call) for probe in probes]


def _fitted(probe: ik.Probe, call: AttentionCall) -> ik.Probe:
    first = call.first_key
    total = first + call.k.shape[2]
    if isinstance(probe, ik.KeyMass):
        _check_keys(probe, "weights", probe.weights, -2, total)
        return replace(probe, weights=probe.weights[..., first:, :])
    if isinstance(probe, ik.LabelMatch):
        _check_keys(probe, "key_labels", probe.key_labels, -1, total)
        return replace(probe, key_labels=probe.key_labels[..., first:])
    return probe


def _check_keys(probe: ik.Probe, field: str, tensor: Tensor, axis: int, keys: int) -> None:
    if not isinstance(tensor, Tensor) or tensor.ndim < -axis or tensor.shape[axis] != keys:
        came = list(tensor.shape) if isinstance(tensor, Tensor) else repr(tensor)
        raise InputError(
            f"{type(probe).__name__}.{field}: expected values for the {keys} keys of this step (Step.keys), got {came}"
        )


def by_position(probes: Sequence[ik.Probe], stats: dict[str, Tensor], first_key: int) -> dict[str, Tensor]:
    """Statistics of a call whose first key is position ``first_key``, with keys counted from the start of the text."""
    if first_key == 0:
        return stats
    stats = dict(stats)
    for probe in probes:
        if probe.gives_index:
            index = stats[f"{probe.label}_index"]
            stats[f"{probe.label}_index"] = torch.where(index >= 0, index + first_key, index)
        if isinstance(probe, ik.Received):
            # Keys that were let go received nothing; normalized, nobody could see them.
            gone = torch.nan if probe.normalize else 0.0
            stats[probe.label] = torch.nn.functional.pad(stats[probe.label], (first_key, 0), value=gone)
    return stats


def blanked(stats: dict[str, Tensor], unfinished: Tensor) -> dict[str, Tensor]:
    """The same with NaN, or -1 for indices, in the rows of sequences that have ended. unfinished: [B]."""
    if bool(unfinished.all()):
        return stats
    return {
        name: value.masked_fill(
            ~unfinished.view(-1, *(1,) * (value.ndim - 1)), torch.nan if value.is_floating_point() else -1
        )
        for name, value in stats.items()
    }
