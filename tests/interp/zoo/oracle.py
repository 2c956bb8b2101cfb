"""What the zoo compares with: a model's own eager attention, in float64, and the statistics' formulas on it.

The eager function of each architecture is listened to where it stands, in the architecture's own file; of attention modules
that compute their weights themselves, what they return is taken. No code of interp is used.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Maps = Mapping[nn.Module, list[Tensor]]
"""Attention module -> its maps [B, H, Tq, Tk], one for each time that it ran."""


@contextmanager
def listening(model: PreTrainedModel) -> Iterator[Maps]:
    """While it lasts, the maps of an eager model are gathered."""
    maps: defaultdict[nn.Module, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(nn.functional, "softmax", _softmax_in_its_own_dtype(nn.functional.softmax))
        )
        namespaces = {}
        for module in model.modules():
            for namespace, name in _eager_functions(type(module)):
                namespaces[id(namespace), name] = namespace
            if _returns_its_weights(type(module)):
                handle = module.register_forward_hook(lambda m, _, output: maps[m].append(_weights_in(output)))
                stack.callback(handle.remove)
        for (_, name), namespace in namespaces.items():
            stack.enter_context(mock.patch.dict(namespace, {name: _listened(namespace[name], maps)}))
        yield maps


def run(model: PreTrainedModel, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Maps]:
    """The eager model's logits (or last hidden states) and maps."""
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    options: dict[str, Any] = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    if any(_returns_its_weights(type(module)) for module in model.modules()):
        options["output_attentions"] = True
    before = torch.get_default_dtype()
    # What an architecture makes on the way, such as the least number, is of the default dtype.
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad(), listening(model) as maps:
            output = model(**given, **options)
    finally:
        torch.set_default_dtype(before)
    return first_tensor(output), dict(maps)


def first_tensor(output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    return logits if logits is not None else next(x for x in output.values() if isinstance(x, Tensor))


def _softmax_in_its_own_dtype(own: Any) -> Any:
    """Architectures ask for a softmax in float32: in a float64 model that would be its error."""

    def softmax(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if x.dtype == torch.float64:
            options.pop("dtype", None)
        return own(x, *arguments, **options)

    return softmax


def _eager_functions(kind: type[nn.Module]) -> Iterator[tuple[dict[str, Any], str]]:
    for base in kind.__mro__:
        for member in vars(base).values():
            function = inspect.unwrap(member) if callable(member) else None
            code = getattr(function, "__code__", None)
            if function is not None and code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
                for name in code.co_names:
                    if name.endswith("eager_attention_forward"):
                        yield function.__globals__, name


def _listened(own: Any, maps: defaultdict[nn.Module, list[Tensor]]) -> Any:
    def eager(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        output, weights = own(module, *arguments, **options)
        maps[module].append(weights)
        return output, weights

    return eager


OWN_CODE = {
    "BloomAttention",
    "CodeGenAttention",
    "FalconAttention",
    "GPTJAttention",
    "GPTNeoSelfAttention",
    "GPTNeoXJapaneseAttention",
    "MegatronBertSelfAttention",
    "MPNetSelfAttention",
    "MptAttention",
    "RemBertSelfAttention",
    "XGLMAttention",
}


def _returns_its_weights(kind: type[nn.Module]) -> bool:
    is_first_gpt = kind.__name__ == "Attention" and kind.__module__.endswith("modeling_openai")
    return kind.__name__ in OWN_CODE or is_first_gpt


def _weights_in(output: Any) -> Tensor:
    return next(x for x in output[1:] if isinstance(x, Tensor) and x.ndim == 4)


def statistics(p: Tensor, given: Mapping[str, Any], keep: Tensor | None, offset: int) -> dict[str, Tensor]:
    """Each statistic by its formula. p: [B, H, Tq, Tk]; keep: [B, Tq], queries that are no padding; offset: of query 0."""
    b, _, queries, keys = p.shape
    rows = torch.ones(b, queries, dtype=torch.bool) if keep is None else keep
    i, j = torch.arange(queries)[:, None] + offset, torch.arange(keys)[None, :]
    apart = (i - j).abs()
    kept = p * rows[:, None, :, None]
    match = (given["a"][:queries, None] == given["b"][None, :keys]) & (given["a"][:queries, None] >= 0)
    values = {
        "entropy": -(p * torch.where(p > 0, p, 1.0).log()).sum(-1),
        "peak": p.max(-1).values,
        "top_k": p.sort(-1, descending=True).values[..., :3],
        "key_mass": torch.einsum("bhij,jc->bhic", p, given["weights"][:keys].to(p.dtype)),
        "label_match": (p * match).sum(-1),
        "offset_mass": torch.stack([(p * (i - j == d)).sum(-1) for d in given["offsets"]], -1),
        "distance": (p * apart).sum(-1),
        "distance_histogram": torch.stack(
            [(p * ((apart >= low) & (apart < high))).sum(-1) for low, high in given["bins"]], -1
        ),
    }
    padded = ~rows[:, None, :].expand(p.shape[:3])
    values = {name: value.masked_fill(_like(padded, value), torch.nan) for name, value in values.items()}
    seen = (kept > 0).to(p.dtype)
    values["received"] = kept.sum(2)
    values["normalized"] = kept.sum(2) / seen.sum(2)
    values["pooled"] = _squares(kept, given["block"]) / _squares(seen, given["block"]).clamp(min=1)
    return values


def _like(rows: Tensor, value: Tensor) -> Tensor:
    return rows if value.ndim == rows.ndim else rows[..., None].expand_as(value)


def _squares(x: Tensor, block: int) -> Tensor:
    """Sums over block x block squares."""
    down, right = -x.shape[-2] % block, -x.shape[-1] % block
    padded = nn.functional.pad(x, (0, right, 0, down))
    return padded.unflatten(-1, (-1, block)).unflatten(-3, (-1, block)).sum((-1, -3))
