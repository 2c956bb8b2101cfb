"""A TransformerLens model (``TransformerBridge``) as a host: its attention runs fused, its hooks fire.

What TransformerLens is, this file asks of the object alone: nothing here imports it before a bridge is at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import InputError
from interp.loading.placement import check_placement
from interp.models.adapters.installed import adapted
from interp.models.attention import Recording, hooked
from interp.models.layers import AttentionLayer, LayersOf, attention_layers
from interp.models.replacing import Replacement, replaced
from interp.models.shape import ModelShape, model_shape
from interp.models.support import Unwatched, check_support

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LIBRARY = "transformer_lens"


def is_bridge(source: object) -> bool:
    """Whether this is a TransformerBridge, told without importing TransformerLens."""
    return any(kind.__name__ == "TransformerBridge" and _is_of_library(kind) for kind in type(source).__mro__)


def check_not_taken_over(model: nn.Module) -> None:
    """Refuse a model of transformers in which a bridge has put its components.

    Raises:
        InputError: its attention runs in these, so the bridge is what can be hooked.
    """
    if any(_is_of_library(type(module)) for module in model.modules()):
        raise InputError(
            f"this {type(model).__name__} stands inside a TransformerBridge, whose components run its attention; give load the "
            "bridge itself"
        )


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == LIBRARY


class _Thread(threading.local):
    skips_unembedding: bool = False


@dataclass(frozen=True)
class NativeConfig:
    """The numbers of a natively booted model, by the names that configurations of transformers give them."""

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    is_encoder_decoder: bool = False

    @classmethod
    def of(cls, config: Any) -> NativeConfig:
        """Of a TransformerBridgeConfig."""
        return cls(
            num_hidden_layers=int(config.n_layers),
            num_attention_heads=int(config.n_heads),
            num_key_value_heads=int(config.n_key_value_heads or config.n_heads),
            head_dim=int(config.d_head),
            hidden_size=int(config.d_model),
            vocab_size=int(config.d_vocab),
            max_position_embeddings=int(config.n_ctx),
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> NativeConfig:
        """As in transformers, where a model may have several towers."""
        return self

    def shape(self, *, is_causal: bool) -> ModelShape:
        return ModelShape(
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            vocabulary=self.vocab_size,
            context=self.max_position_embeddings,
            # Rotary tables are made for the context and end there.
            has_relative_positions=False,
            is_causal=is_causal,
            takes_position_ids=True,
        )


class BridgeHost:
    """A TransformerBridge, in raw or compatibility mode, around a model of transformers or one that was booted natively.

    Attention runs through ``watched`` while it is hooked. Every hook of the bridge fires and edits as it does in the bridge
    itself. A hook on hook_pattern or hook_attn_scores makes its layer build the T x T map, with a ``DenseLayerWarning`` that
    says what it costs; the layer is then measured on the pattern as the hooks leave it. See ``bridge_attention``.

    Raises:
        InputError: the bridge runs elsewhere than in torch, or has attention that interp does not know.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        self.model = bridge
        self.inner = _inner_model(bridge)
        self._is_native = not isinstance(self.inner, PreTrainedModel)
        self.config: Any = NativeConfig.of(bridge.cfg) if self._is_native else self.inner.config
        self._unwatched: tuple[Unwatched, ...] = ()
        if self._is_native:
            self.layers = _native_layers(bridge)
            self.shape = self.config.shape(is_causal=bridge.cfg.attention_dir == "causal")
        else:
            check_placement(self.inner)
            self.layers = attention_layers(self.inner, self.config)
            self._unwatched = check_support(self.inner, self.layers, self.config)
            self.shape = model_shape(self.inner, self.layers)
        self.name = str(getattr(bridge.cfg, "model_name", None) or type(self.inner).__name__)
        self.tokenizer = bridge.tokenizer
        self._components = _attention_components(bridge, self.inner)
        self._thread = _Thread()
        self._replacements = self._all_replacements()

    @property
    def entrances(self) -> Sequence[nn.Module]:
        from interp.bridges.attention import entrance

        return [entrance(component, self.layers) for component in self._components.values()]

    @property
    def device(self) -> torch.device:
        return next(self.inner.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.inner.parameters()).dtype

    @property
    def facts(self) -> dict[str, Any]:
        """mode: "raw" or "compatibility" (weights folded and centred as HookedTransformer did); dense_layers: where hooks ask."""
        mode = "compatibility" if getattr(self.model, "compatibility_mode", False) else "raw"
        facts = {"architecture": type(self.inner).__name__, "library": LIBRARY, "mode": mode}
        dense = self._dense_layers()
        return facts | ({"dense_layers": dense} if dense else {})

    @contextmanager
    def hooked(self, recording: Recording) -> Iterator[None]:
        if self.inner.training:
            raise InputError(
                "the model inside the bridge is in training mode, where dropout changes it; call bridge.eval()"
            )
        with replaced(self._replacements), adapted(self.layers, self._unwatched), hooked(self.inner, recording):
            yield

    def forward(self, arguments: Mapping[str, Any], *, logits: bool) -> Tensor:
        ids = arguments.get("input_ids")
        if ids is not None and hasattr(self.model, "pos_embed"):
            # As the bridge's own forward: its hook then sees one row of positions for each sequence.
            self.model.pos_embed._current_batch_size = ids.shape[0]
        whole = logits or self._unembedding_is_hooked()
        if self._is_native:
            self._thread.skips_unembedding = not whole
            try:
                return self.inner(**arguments)
            finally:
                self._thread.skips_unembedding = False
        options = {"use_cache": False} if hasattr(self.config, "use_cache") else {}
        output = (self.inner if whole else self.inner.base_model)(**arguments, **options)
        if logits and getattr(output, "logits", None) is None:
            raise InputError(f"{type(self.inner).__name__} gives no logits; boot it with its language-model head")
        return output.logits if whole else next(x for x in output.values() if isinstance(x, Tensor))

    def _dense_layers(self) -> list[Any]:
        from interp.bridges.attention import dense_points

        dense = [component for component in self._components.values() if dense_points(component)]
        inside = {module for component in dense for module in component.modules()}
        return [layer.key for module, served in self.layers.items() if module in inside for layer in served]

    def _unembedding_is_hooked(self) -> bool:
        from interp.bridges.dense import has_hooks

        unembed = getattr(self.model, "unembed", None)
        return isinstance(unembed, nn.Module) and any(has_hooks(module) for module in unembed.modules())

    def _all_replacements(self) -> list[Replacement]:
        from interp.bridges.attention import replacements

        found: list[Replacement] = []
        for path, component in self._components.items():
            found += replacements(component, self.layers, path)
        if self._is_native:
            head: Any = self.inner.head
            own = head.forward
            found.append(
                Replacement(
                    head, "forward", lambda x, *a, **o: x if self._thread.skips_unembedding else own(x, *a, **o)
                )
            )
        return found


def _inner_model(bridge: Any) -> Any:
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    try:
        inner = bridge.original_model
    except AttributeError as error:
        raise InputError(f"this bridge holds no model of torch: {error}") from error
    if not isinstance(inner, PreTrainedModel | NativeModel):
        raise InputError(
            f"this bridge holds a {type(inner).__name__}; interp knows bridges around models of transformers, and those of "
            "TransformerBridge.boot_native"
        )
    return inner


def _attention_components(bridge: Any, inner: nn.Module) -> dict[str, Any]:
    """The bridge's attention components by their paths, those in use: they stand in the model itself."""
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    found = {path: module for path, module in inner.named_modules() if isinstance(module, AttentionBridge)}
    if not found:
        raise InputError(f"this bridge around {type(inner).__name__} has no attention component")
    return found


def _native_layers(bridge: Any) -> LayersOf:
    heads = int(bridge.cfg.n_heads)
    return {
        block.attn.original_component: (AttentionLayer("", number, f"blocks.{number}.attn", heads),)
        for number, block in enumerate(bridge.blocks)
    }
