"""The attention function that every architecture of transformers calls while its model is hooked, and where it reports.

It can be traced by torch.compile with fullgraph=True, the model's own masks, statistics and gradients included; tried with
every architecture of the tests (of gpt-oss with ``experts_implementation="batched_mm"``, as its eager experts loop over
data). In a graph, activations are not looked at for NaN and infinity, masks must be made of causal, full and sliding-window
rules and padding (see ``rules``), and a KV cache is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from interp.errors import RunError
from interp.models.arguments import attention_call
from interp.models.call import AttentionCall
from interp.models.editing import edits_on
from interp.models.hooking import IMPLEMENTATION, is_recording, own_attention, own_visibility, recorded, recording_of
from interp.models.layers import AttentionLayer, LayerKey, LayersOf
from interp.models.visibility import attention_visibility
from interp.progress import step
from interp_kernels import Attended, Mask, Probe


class Edit(Protocol):
    """A change of the attention while it runs: of what goes into a call, of what comes out of it, or of both."""

    def operands(self, call: AttentionCall) -> AttentionCall:
        """The call to make in its place."""
        ...

    def output(self, call: AttentionCall, output: Tensor) -> Tensor:
        """The heads' outputs [B, Hq, Tq, Dv] to hand to the model in place of ``output``."""
        ...


@dataclass
class Recording:
    """What one hooked run asks for and what each layer answers.

    layers: the model's attention modules and the layers that they serve
    probes_of: call -> the probes to measure in it (empty: attention only)
    record: called with each call, as edited, and what ``attend`` returned for it, in order
    edits: what is changed on the way, one after another, after the edits in force on the model in this thread
    seen: the layers that attended, in order
    has_begun: whether a layer's attention was entered
    is_standing: it outlives a forward run; when a layer's turn comes again, the next has begun
    """

    layers: LayersOf
    probes_of: Callable[[AttentionCall], Sequence[Probe]]
    record: Callable[[AttentionCall, Attended], None]
    edits: Sequence[Edit] = ()
    seen: list[LayerKey] = field(default_factory=list)
    has_begun: bool = False
    is_standing: bool = False

    def __post_init__(self) -> None:
        self.edits = (*edits_on(self.layers), *self.edits)

    @classmethod
    def plain(cls, layers: LayersOf, edits: Sequence[Edit], seen: Sequence[LayerKey] = ()) -> Recording:
        """Of runs that report nowhere, with these edits alone; ``seen``: the layers that have attended already."""
        recording = cls(layers, lambda call: (), lambda call, attended: None, seen=list(seen), is_standing=True)
        recording.edits = tuple(edits)
        return recording

    def layer_of(self, module: nn.Module) -> AttentionLayer:
        """The layer whose turn it is in ``module``.

        Raises:
            RunError: it attends more often than it has layers.
        """
        served = self.layers[module]
        for layer in served:
            if layer.key not in self.seen:
                return layer
        if self.is_standing:
            self.seen.clear()
            return served[0]
        raise RunError(
            f"layer {served[-1].key} ran its attention twice in one forward run (an image cut into windows, several images in "
            "one row, or a layer that is run again), which is not supported for capture yet; give one image, or text alone"
        )


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention of a configuration that names ours: recorded, or the module's own where this thread does not record it."""
    recording = recording_of(module)
    if recording is not None:
        return _recorded(recording, module, query, key, value, attention_mask, **options)
    if isinstance(attention_mask, Mask):
        # Made for another model with the same configuration object, which this thread records.
        plain = Recording.plain({module: (AttentionLayer("", 0, "", None),)}, ())
        return _recorded(plain, module, query, key, value, attention_mask, **options)
    return own_attention(module)(module, query, key, value, attention_mask, **options)


def _recorded(
    recording: Recording,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention through ``attend`` in the form that transformers calls: [B, H, T, D] in, [B, T, H, Dv] out."""
    call = attention_call(recording.layer_of(module), module, query, key, value, attention_mask, **options)
    return watched(call, recording).transpose(1, 2).contiguous(), None


def watched(call: AttentionCall, recording: Recording) -> Tensor:
    """Run one call as ``recording`` asks: edited, measured and reported. Returns the heads' outputs [B, Hq, Tq, Dv].

    Raises:
        RunError: NaN or infinity in what goes in or comes out.
    """
    recording.has_begun = True
    if not torch.compiler.is_compiling():
        step()
    # Of keys and values from a cache only those that are new: the others were looked at when they came.
    new = 0 if call.layer.stack == "cross" else -call.q.shape[2]
    entering = {"queries": call.q, "keys": call.k[:, :, new:], "values": call.v[:, :, new:]}
    _check_finite({f"{name} that enter its attention": x for name, x in entering.items()}, call.layer, recording)
    for edit in recording.edits:
        call = edit.operands(call)
    attended = call.attend(recording.probes_of(call))
    _check_finite({"output of its attention": attended.output}, call.layer, recording)
    for edit in recording.edits:
        attended = replace(attended, output=edit.output(call, attended.output))
    recording.seen.append(call.layer.key)
    recording.record(call, attended)
    return attended.output


def _check_finite(given: Mapping[str, Tensor], layer: AttentionLayer, recording: Recording) -> None:
    """Refuse NaN and infinity in tensors, named by what they are. On a GPU the host waits for all of them once."""
    # A branch on the values would break the graph of torch.compile.
    if torch.compiler.is_compiling() or bool(torch.stack([torch.isfinite(x).all() for x in given.values()]).all()):
        return
    what, x = next((what, x) for what, x in given.items() if not bool(torch.isfinite(x).all()))
    kind = "NaN" if bool(torch.isnan(x).any()) else "infinity"
    since = f", while that of layer {recording.seen[-1]} was still finite" if recording.seen else ""
    raise RunError(
        f"layer {layer.key}: {kind} in the {what}{since}; the model's activations broke down "
        f"(check the weights in between, and whether {x.dtype} is wide enough)"
    )


def mask_of_call(**arguments: Any) -> Mask | Tensor | None:
    """Who sees whom, for a configuration that names our attention: our Mask, or in a thread that records nothing its own."""
    return attention_visibility(**arguments) if is_recording() else own_visibility(arguments["config"])(**arguments)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, mask_of_call)


def hooked(model: nn.Module, recording: Recording) -> AbstractContextManager[None]:
    """While it lasts, the model's attention runs through ``attend`` and reports to ``recording``; then it is as before.

    For this thread only: another that runs the model meanwhile gets its own attention, or a recording of its own.
    """
    return recorded(model, recording)
