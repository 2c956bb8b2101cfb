"""How each kind of attention in a TransformerLens bridge is sent through ``watched`` while the bridge is hooked.

    rebuilt     the component computes attention step by step: its own code runs, with scores that are not computed
                (``bridge_scores``), so that every hook in it fires
    delegated   the component calls the module of transformers: nothing to do but to give its pattern hooks a pattern
    native      TransformerLens' own module computes attention: its few lines stand here, with the fused call in them

Where a hook listens to the scores or the pattern, the component's own dense code runs, and what comes out of its softmax and
its hooks goes through ``watched`` (``bridge_dense``).
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.bridges.dense import DenseLayerWarning, call_of_pattern, cost, dense_mask, has_hooks
from interp.bridges.scores import Pattern, Scores
from interp.errors import InputError, RunError
from interp.models.arguments import attention_call
from interp.models.attention import Recording, watched
from interp.models.call import AttentionCall
from interp.models.hooking import recording_of
from interp.models.layers import AttentionLayer, LayersOf
from interp.models.replacing import Replacement
from interp_kernels import Attended, Mask

if TYPE_CHECKING:
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
STEPS = ("forward", "_apply_reconstruct_attention_mask", "_masked_softmax", "_scrub_compatibility_pattern_nans")
"""Methods of a rebuilt component that meet scores or a mask."""
READERS = ("hook_attn_scores", "hook_pattern")
"""The hook points of an attention component that see a T x T tensor."""


def replacements(component: AttentionBridge, layers: LayersOf, path: str) -> list[Replacement]:
    """What stands in for methods of a component, or of the module inside it, while the bridge is hooked.

    Raises:
        InputError: this kind of component is not known.
    """
    from transformer_lens.model_bridge import generalized_components as kinds
    from transformer_lens.model_bridge.sources.native.model import NativeAttention

    inside = component.original_component
    module = _served(component, layers)
    if module is not None and isinstance(inside, NativeAttention):
        return _native(component, inside)
    if module is not None and _is_rebuilt(component):
        return _rebuilt(component, module)
    if module is not None and type(component).forward is kinds.AttentionBridge.forward:
        return _delegated(component, module)
    name = f"{type(component).__name__} around {type(inside).__name__}, {path}"
    raise InputError(
        f"this bridge computes attention in a way that interp does not know ({name}); load the model through transformers"
    )


def entrance(component: AttentionBridge, layers: LayersOf) -> nn.Module:
    """What takes in the residual stream: a rebuilt component itself; of others, the module inside it, which they call."""
    module = _served(component, layers)
    return component if module is None or _is_rebuilt(component) else module


def _served(component: AttentionBridge, layers: LayersOf) -> nn.Module | None:
    """The module inside a component that is one of the model's layers."""
    inside = component.original_component
    return None if inside is None else next((m for m in inside.modules() if m in layers), None)


def _is_rebuilt(component: AttentionBridge) -> bool:
    from transformer_lens.model_bridge import generalized_components as kinds

    own_biases = (kinds.ALiBiJointQKVAttentionBridge, kinds.BloomAttentionBridge)
    rebuilt = (kinds.PositionEmbeddingsAttentionBridge, kinds.JointQKVAttentionBridge, kinds.MLAAttentionBridge)
    return isinstance(component, rebuilt) and not isinstance(component, own_biases)


def dense_points(component: AttentionBridge) -> list[str]:
    """Names of the hook points for which a component must run dense."""
    return [str(getattr(component, name).name or name) for name in READERS if has_hooks(getattr(component, name))]


class _Thread(threading.local):
    attending: _Attending | None = None


_thread = _Thread()


class _Attending(TorchFunctionMode):
    """One run of a component's own code: the products in it, queries times keys and pattern times values, come here.

    Only those that the component's class itself computes: hooks of the user run in between, and compute what they like.
    """

    def __init__(self, code_of: nn.Module, component: AttentionBridge, module: nn.Module, recording: Recording) -> None:
        super().__init__()
        self.codes = _codes(type(code_of))
        self.component, self.module, self.recording = component, module, recording
        self.layer = recording.layer_of(module)
        self.points = dense_points(component)
        self.given: Any = None
        self.operands: tuple[Tensor, Tensor] | None = None
        self.is_done = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and not self.is_done and sys._getframe(1).f_code in self.codes and args[1].ndim == 4:
            return self._product(func, *args)
        return func(*args, **(kwargs or {}))

    def _product(self, func: Any, a: Any, b: Tensor) -> Any:
        if self.operands is None:
            self.operands = a, b.transpose(-1, -2)
            if not self.points:
                return Scores(*self.operands)
            shape = (*a.shape[:3], b.shape[-1])
            warnings.warn(cost(self.layer, self.points, shape, a.dtype), DenseLayerWarning, stacklevel=2)
            return func(a, b)
        self.is_done = True
        if isinstance(a, Pattern):
            call = self._call(b, a.scores.given, **a.arguments())
            return watched(call, self.recording).to(b.dtype)
        return self._dense_output(a, b)

    def _dense_output(self, pattern: Tensor, v: Tensor) -> Tensor:
        base = self._call(v, self.given)
        is_measured = bool(self.recording.edits or self.recording.probes_of(base))
        try:
            call = call_of_pattern(base, pattern)
        except RunError as error:
            if is_measured:
                raise
            warnings.warn(f"{error} (of this layer nothing is handed out)", DenseLayerWarning, stacklevel=2)
            self.recording.seen.append(self.layer.key)
            return pattern @ v
        return watched(call, self.recording).to(v.dtype)

    def _call(self, v: Tensor, given: Any, **arguments: Any) -> AttentionCall:
        assert self.operands is not None
        q, k = self.operands
        wide = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        q, k, v = q.to(wide), ungrouped(k.to(wide), self._groups()), ungrouped(v.to(wide), self._groups())
        # As the component does without a mask; of a single query, transformers' rule to see everything is the same.
        is_causal = bool(self.component.is_causal and not self.component.is_cross_attention)
        also = Mask.causal() if is_causal and _says_nothing_of_order(given, q.shape[2]) else None
        return attention_call(self.layer, self.module, q, k, v, given, is_causal=is_causal, also=also, **arguments)

    def _groups(self) -> int:
        config = self.component.config
        heads, kv_heads = getattr(config, "n_heads", None), getattr(config, "n_key_value_heads", None)
        groups = getattr(self.module, "num_key_value_groups", None)
        return int(groups or (heads // kv_heads if heads and kv_heads else 1))


def ungrouped(x: Tensor, groups: int) -> Tensor:
    """[B, Hq, T, D] with every KV head repeated ``groups`` times -> [B, Hq / groups, T, D]; as it is where heads differ."""
    b, heads, t, d = x.shape
    if groups == 1 or heads % groups:
        return x
    grouped = x.view(b, heads // groups, groups, t, d) if x.is_contiguous() else x.unflatten(1, (-1, groups))
    first = grouped[:, :, 0]
    is_repeated = all(torch.equal(grouped[:, :, n], first) for n in range(1, groups))
    return first.contiguous() if is_repeated else x


def _rebuilt(component: AttentionBridge, module: nn.Module) -> list[Replacement]:
    # The class's, in case another capture's stand-ins are in their places while this bridge is loaded.
    own, own_mask, own_softmax, own_scrub = (MethodType(getattr(type(component), name), component) for name in STEPS)

    def forward(*arguments: Any, **options: Any) -> Any:
        recording = recording_of(module)
        if recording is None:
            return own(*arguments, **options)
        kept = component._pattern
        attending = _thread.attending = _Attending(component, component, module, recording)
        try:
            with attending:
                output = own(*arguments, **options)
        finally:
            _thread.attending = None
            if isinstance(component._pattern, Pattern):
                component._pattern = kept
        return _without_symbols(output)

    def mask(attn_scores: Any, attention_mask: Any, seq_len: int, q_seq_len: int | None = None) -> Any:
        if isinstance(attn_scores, Scores):
            return attn_scores.masked(attention_mask)
        if _thread.attending is not None:
            _thread.attending.given = attention_mask
            b, _, queries, keys = attn_scores.shape
            if isinstance(attention_mask, Mask):
                attention_mask = dense_mask(attention_mask, b, queries, keys, attn_scores.device)
            elif _says_nothing_of_order(attention_mask, queries):
                attn_scores = own_mask(attn_scores, None, seq_len, q_seq_len)
        return own_mask(attn_scores, attention_mask, seq_len, q_seq_len)

    def softmax(attn_scores: Any, dtype: torch.dtype | None = None) -> Any:
        return attn_scores.softmax() if isinstance(attn_scores, Scores) else own_softmax(attn_scores, dtype)

    def scrub(pattern: Any) -> Any:
        return pattern if isinstance(pattern, Pattern) else own_scrub(pattern)

    return [
        Replacement(component, name, step) for name, step in zip(STEPS, (forward, mask, softmax, scrub), strict=True)
    ]


def _delegated(component: AttentionBridge, module: nn.Module) -> list[Replacement]:
    own = module.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        recording = recording_of(module)
        points = dense_points(component)
        if recording is None or not points:
            return own(*arguments, **options)
        layer, taken, record = recording.layer_of(module), [], recording.record

        def take(call: AttentionCall, attended: Attended) -> None:
            warnings.warn(cost(layer, points, attended.map.shape, call.q.dtype), DenseLayerWarning, stacklevel=2)
            rows, keys = attended.map.shape[2:]
            taken.append(attended.map.tile(slice(0, rows), slice(0, keys)).to(call.q.dtype))
            record(call, attended)

        recording.record = take
        try:
            output = own(*arguments, **options)
        finally:
            recording.record = record
        return _with_weights(output, taken[0], layer)

    return [Replacement(module, "forward", forward)]


def _with_weights(output: Any, weights: Tensor, layer: AttentionLayer) -> Any:
    """The module's output with the weights where it has None after the attention's output."""
    if isinstance(output, tuple) and None in output[1:]:
        place = 1 + [x is None for x in output[1:]].index(True)
        return (*output[:place], weights, *output[place + 1 :])
    raise RunError(
        f"layer {layer.key}: its module returns no attention weights for the hooks on its pattern; remove them"
    )


def _native(component: AttentionBridge, module: Any) -> list[Replacement]:
    own = module.forward

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pattern_fn: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        recording = recording_of(module)
        if recording is None or dense_points(component):
            arguments = (hidden_states, attention_mask, position_ids, pattern_fn)
            if recording is None:
                return own(*arguments, **options)
            with _Attending(module, component, module, recording) as attending:
                attending.given = _native_mask(module, attention_mask)
                return own(*arguments, **options)
        b, t, _ = hidden_states.shape
        q = module.q(hidden_states).view(b, t, module.n_heads, module.d_head).transpose(1, 2)
        k = module.k(hidden_states).view(b, t, module.n_kv_heads, module.d_head).transpose(1, 2)
        v = module.v(hidden_states).view(b, t, module.n_kv_heads, module.d_head).transpose(1, 2)
        if module.rotary is not None:
            q, k = module.rotary.apply_rope(q, k, position_ids=position_ids)
        cap = module.attn_scores_soft_cap
        call = attention_call(
            recording.layer_of(module),
            module,
            q,
            k,
            v,
            _native_mask(module, attention_mask),
            scaling=1.0 / float(module.scale),
            softcap=cap if cap > 0 else None,
        )
        output = watched(call, recording).transpose(1, 2).reshape(b, t, -1)
        return module.o(output), None

    return [Replacement(module, "forward", forward)]


def _native_mask(module: Any, attention_mask: Tensor | None) -> Mask:
    mask = Mask.causal() if module.causal else Mask.full()
    if attention_mask is None:
        return mask
    if attention_mask.ndim != 2:
        raise InputError(
            f"attention_mask: expected 0/1 of shape [B, T], got {list(attention_mask.shape)}; native models take no other"
        )
    return mask if bool(attention_mask.all()) else mask & Mask.from_padding(attention_mask.bool())


def _says_nothing_of_order(given: Any, queries: int) -> bool:
    """A mask [B, 1, 1, Tk] of padding alone, as GPT-1 makes it, whose module looks back only by a rule of its own.

    TransformerLens takes it for the whole rule, so that with a mask the bridge by itself sees ahead, and without one it does not.
    """
    return isinstance(given, Tensor) and given.ndim == 4 and given.shape[-2] == 1 < queries


def _without_symbols(output: Any) -> Any:
    if isinstance(output, tuple | list):
        return type(output)(None if isinstance(x, Pattern) else x for x in output)
    return output


def _codes(kind: type) -> set[Any]:
    """The code of a class's own methods, those that it inherits included."""
    functions = (getattr(member, "__func__", member) for base in kind.__mro__ for member in vars(base).values())
    return {f.__code__ for f in functions if isinstance(f, FunctionType)}
