"""From what an architecture hands to its attention function to one AttentionCall; what would change it unnoticed is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer
from interp.models.visibility import BiasedMask
from interp_kernels import Mask

HARMLESS = frozenset(
    {
        # What they say of who sees whom, the mask says too.
        "sliding_window",
        "position_ids",
        "cache_position",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "seq_idx",
        "token_type_ids",
        "mm_token_type_ids",
        "block_sequence_ids",
        # What to return, or for whom to compute.
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "use_cache",
        "num_items_in_batch",
        "logits_to_keep",
        "deterministic",
        "training",
    }
)
"""Keyword arguments that reach attention functions and do not change the attention of a run without a graph of gradients."""
SPARSE = frozenset({"indices", "block_indices"})
"""Keyword arguments that say which keys an indexer of the architecture chose."""
HIDDEN = -1e37
"""Additive masks write numbers below this for "hidden" (in float16 minus infinity, or its least number)."""


def attention_call(
    layer: AttentionLayer,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | BiasedMask | Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    also: Mask | None = None,
    **others: Any,
) -> AttentionCall:
    """The call that transformers' attention functions would make of the same arguments.

    Who sees whom comes from the Mask that ``attention_visibility`` made, never from keyword arguments, which some
    architectures set to other values (window plus one) or not at all. A mask that the architecture made itself, as a tensor,
    is read as such: it is there already, and of O(T^2) where the architecture made it so. ``also`` is a rule beside it.

    Raises:
        InputError: dropout is on; an argument that interp does not know could change the attention.
    """
    if dropout:
        raise InputError(f"layer {layer.key}: attention dropout {dropout} is on; call model.eval() first")
    _check_known(layer, module, others)
    mask, bias = _visibility(module, layer, query, key, attention_mask, is_causal)
    if also is not None:
        mask = mask & also
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    return AttentionCall(
        layer,
        query,
        key,
        value,
        mask,
        scale=scaling,
        softcap=softcap,
        sinks=_sinks(s_aux if sinks is None else sinks),
        bias=bias,
        first_key=getattr(mask, "first_key", 0),
    )


def _check_known(layer: AttentionLayer, module: nn.Module, others: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in others.items() if value is not None and name not in HARMLESS)
    if not unknown:
        return
    kind = type(module).__name__
    if SPARSE.intersection(unknown):
        raise InputError(
            f"layer {layer.key}: {kind} attends to keys that an indexer of its own chooses ({', '.join(unknown)}), which interp "
            "cannot follow yet; choose an architecture with dense or sliding-window attention"
        )
    raise InputError(
        f"layer {layer.key}: {kind} hands {', '.join(unknown)} to its attention, which interp does not know and which may change "
        "it; leave it out of the inputs, or choose another architecture"
    )


def _sinks(sinks: Tensor | None) -> Tensor | None:
    """[H], or one for each row: [B, H, T, 1] as the scores are, [B, H, T] as ``attend`` takes it."""
    return sinks[..., 0] if sinks is not None and sinks.ndim == 4 else sinks


def _visibility(
    module: nn.Module,
    layer: AttentionLayer,
    query: Tensor,
    key: Tensor,
    given: Mask | BiasedMask | Tensor | None,
    is_causal: bool | None,
) -> tuple[Mask, Tensor | None]:
    """Who sees whom, and what is added to the scores."""
    if isinstance(given, BiasedMask):
        return given.mask, given.bias
    if isinstance(given, Mask):
        return given, None
    if given is not None:
        return _of_tensor(layer, query, key, given)
    if layer.stack.endswith("cross"):
        return Mask.full().with_offset(0), None
    # Without a mask the library's fused path goes by this attribute, and lets a single query see everything.
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return (Mask.causal() if causal and query.shape[2] > 1 else Mask.full()), None


def _of_tensor(layer: AttentionLayer, query: Tensor, key: Tensor, given: Tensor) -> tuple[Mask, Tensor | None]:
    """A mask [B, H, Tq, Tk] as a tensor, its dimensions 1 where it does not differ: True where seen, or added to the scores.

    Some architectures make it longer than the keys, which cut it to their number.
    """
    (b, heads, queries, _), keys = query.shape, key.shape[2]
    fits = given.ndim == 4 and all(n in (1, m) for n, m in zip(given.shape, (b, heads, queries), strict=False))
    if not fits or given.shape[-1] < keys:
        raise InputError(
            f"layer {layer.key}: expected an attention mask of [{b}, {heads}, {queries}, {keys}] or one that broadcasts to it, "
            f"got {list(given.shape)}; give token ids with 0/1 padding instead"
        )
    given = given[..., :keys]
    mask = Mask.full().with_offset(0) if layer.stack.endswith("cross") else Mask.full()
    if given.dtype == torch.bool:
        hidden, bias = ~given, None
    elif torch.compiler.is_compiling():  # a branch on the values would break the graph
        return mask, given
    else:
        hidden = given <= max(HIDDEN, torch.finfo(given.dtype).min)
        bias = given.masked_fill(hidden, 0.0)
        if not bool(bias.any()):
            bias = None
    if not torch.compiler.is_compiling() and not bool(hidden.any()):
        return mask, bias
    if hidden.shape[1] > 1:
        bias = torch.zeros((), dtype=query.dtype, device=query.device) if bias is None else bias
        return mask, torch.where(hidden, -torch.inf, bias)
    if hidden.shape[2] == 1:
        return mask & Mask.from_padding(~hidden[:, 0, 0].expand(b, -1)), bias
    hidden = hidden[:, 0].expand(b, -1, -1)
    first = keys - queries if mask.offset is None else mask.offset

    def seen(batch: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ~hidden[batch, i - first, j]

    return mask & Mask.from_predicate(seen), bias
