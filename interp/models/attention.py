"""The attention function that every architecture of transformers calls while its model is hooked, and where it reports.

It can be traced by torch.compile with fullgraph=True, the model's own masks, statistics and gradients included; tried with
every architecture of the tests (of gpt-oss with ``experts_implementation="batched_mm"``, as its eager experts loop over
data). In a graph, activations are not looked at for NaN and infinity, masks must be made of causal, full and sliding-window
rules and padding (see ``rules``), and a KV cache is not tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from interp.errors import InputError, RunError
from interp.models.visibility import attention_visibility
from interp_kernels import Attended, Mask, Probe, attend

IMPLEMENTATION = "interp"
"""Name of our attention function in transformers' registry."""


@dataclass
class Recording:
    """What one hooked run asks for and what each layer answers.

    probes_of: layer -> the probes to measure there (empty: attention only)
    record: called with (layer, what ``attend`` returned, the mask) for every attention call, in order
    """

    probes_of: Callable[[int], Sequence[Probe]]
    record: Callable[[int, Attended, Mask], None]
    layers_seen: list[int] = field(default_factory=list)


class _Current(threading.local):
    """This thread's recording. Not a ContextVar, which torch.compile cannot trace."""

    recording: Recording | None = None


_current = _Current()


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention through ``attend`` in the form that transformers calls: [B, H, T, D] in, [B, T, H, Dv] out.

    Who sees whom comes from the Mask that ``attention_visibility`` made, never from keyword arguments, which some
    architectures set to other values (window plus one) or not at all.
    """
    recording = _current.recording
    if recording is None:
        raise RunError(
            f"the model's attention is set to {IMPLEMENTATION!r} outside of a capture; "
            "use HookedModel.capture, or model.set_attn_implementation('sdpa') to give it its own back"
        )
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise InputError(
            f"{type(module).__name__} does not say which layer it is (no layer_idx); it cannot be captured"
        )
    if dropout:
        raise InputError(f"layer {layer}: attention dropout {dropout} is on; call model.eval() first")
    for name, x in (("queries", query), ("keys", key), ("values", value)):
        _check_finite(x, f"layer {layer}", f"{name} that enter its attention", recording)
    mask = _mask_of(module, layer, query, key, attention_mask, is_causal)
    attended = attend(
        query,
        key,
        value,
        mask=mask,
        scale=scaling,
        softcap=softcap,
        sinks=s_aux,
        bias=position_bias,
        probes=recording.probes_of(layer),
    )
    _check_finite(attended.output, f"layer {layer}", "output of its attention", recording)
    recording.layers_seen.append(layer)
    recording.record(layer, attended, mask)
    return attended.output.transpose(1, 2).contiguous(), None


def _check_finite(x: Tensor, where: str, what: str, recording: Recording) -> None:
    # A branch on the values would break the graph of torch.compile.
    if torch.compiler.is_compiling() or bool(torch.isfinite(x).all()):
        return
    kind = "NaN" if bool(torch.isnan(x).any()) else "infinity"
    since = f", while that of layer {recording.layers_seen[-1]} was still finite" if recording.layers_seen else ""
    raise RunError(
        f"{where}: {kind} in the {what}{since}; the model's activations broke down "
        f"(check the weights in between, and whether {x.dtype} is wide enough)"
    )


def _mask_of(
    module: nn.Module, layer: int, query: Tensor, key: Tensor, given: Mask | Tensor | None, is_causal: bool | None
) -> Mask:
    if isinstance(given, Mask):
        return given
    if given is not None:
        raise InputError(
            f"layer {layer}: the model was given a ready-made attention mask of shape {list(given.shape)}; "
            "give token ids with 0/1 padding instead, so that no T x T mask is built"
        )
    # Without a mask the library's fused path goes by this attribute, and lets a single query see everything.
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return Mask.causal() if causal and query.shape[2] > 1 else Mask.full()


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, attention_visibility)


@contextmanager
def hooked(model: PreTrainedModel, recording: Recording) -> Iterator[None]:
    """While it lasts, the model's attention runs through ``attend`` and reports to ``recording``; then it is as before."""
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    outer, _current.recording = _current.recording, recording
    try:
        for config in configs.values():
            config._attn_implementation_internal = IMPLEMENTATION
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        _current.recording = outer
