"""Tiny TransformerLens bridges with random weights, and what their own dense attention says.

Modules that import this begin with ``pytest.importorskip("transformer_lens", reason=MISSING)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import PreTrainedModel

import interp
from tests.interp.tiny import ARCHITECTURES, BERT, LAYERS, randomised

NAMES = (*ARCHITECTURES, "bert")
REBUILT = tuple(name for name in ARCHITECTURES if name != "opt")
"""Architectures whose attention the bridge computes step by step; of the others it calls the module of transformers."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without what TransformerLens says of hook points that are switched off, of weights that it does not fold, of lost edits."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(skipped .* gated-off|does not support|edit is discarded)", category=UserWarning
        )
        yield


def plain(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The model of transformers, which a bridge would take over: each is made anew, from the same seed."""
    if name == "bert":
        config = transformers.BertConfig(**BERT.arguments, attn_implementation="eager")
        model = randomised(transformers.BertForMaskedLM(config).eval())
    else:
        model = ARCHITECTURES[name].build(kernel="eager")
    return model.to(dtype)


def bridge(name: str, dtype: torch.dtype = torch.float64, *, compatibility: bool = False, **options: Any) -> Any:
    """A bridge around ``plain(name)``, as boot_transformers makes it from a hub name."""
    model = plain(name, dtype)
    made = build_bridge_from_module(model, type(model).__name__, hf_config=model.config, **options)
    if compatibility:
        with quiet():
            made.enable_compatibility_mode(disable_warnings=True)
    return made


def native(dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A bridge around TransformerLens' own module, booted from a configuration of it."""
    settings = {
        "d_model": 32,
        "d_head": 8,
        "n_heads": 4,
        "n_layers": LAYERS,
        "n_ctx": 64,
        "d_vocab": 61,
        "d_mlp": 48,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "architecture": "TransformerLensNative",
        "seed": 0,
        "initializer_range": 0.4,
        **changes,
    }
    made = TransformerBridge.boot_native(TransformerBridgeConfig(**settings)).eval()  # type: ignore[attr-defined]
    return made.to(dtype)


def is_dense(name: str) -> bool:
    """Whether a hook of that name asks for the T x T map."""
    return name.endswith(("hook_pattern", "hook_attn_scores"))


def own_run(
    made: Any, ids: Tensor, hooks: Iterable[tuple[str, Callable[..., Any]]] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the bridge's own dense run with ``hooks``, and what its hook points saw, by their names."""
    seen: dict[str, Tensor] = {}

    def keep(value: Any, hook: Any) -> None:
        if isinstance(value, Tensor):
            seen[hook.name] = value.detach().clone()

    with torch.no_grad(), quiet():
        logits = made.run_with_hooks(ids, fwd_hooks=[*hooks, (lambda name: True, keep)])
    return logits, seen


def seen_in_capture(
    made: Any, ids: Tensor, wanted: Callable[[str], bool], hooks: Iterable[tuple[str, Callable[..., Any]]] = ()
) -> tuple[interp.Capture, dict[str, Tensor]]:
    """A capture with logits, and what hook points of ``wanted`` names saw in it."""
    seen: dict[str, Tensor] = {}

    def keep(value: Any, hook: Any) -> None:
        if isinstance(value, Tensor):
            seen[hook.name] = value.detach().clone()

    with quiet(), made.hooks(fwd_hooks=[*hooks, (wanted, keep)]):
        capture = interp.load(made).capture(ids, ["entropy", "received"], logits=True)
    return capture, seen


def furthest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def entropy_of(pattern: Tensor) -> Tensor:
    """-sum_j P_ij ln P_ij, with 0 ln 0 = 0."""
    p = pattern.double()
    return -torch.special.xlogy(p, p).sum(-1)
