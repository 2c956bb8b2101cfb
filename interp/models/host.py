"""What a HookedModel asks of the model that it holds, and how a model of transformers answers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import InputError, InterpError, RunError
from interp.models.adapters.installed import adapted
from interp.models.attention import Recording, hooked
from interp.models.layers import LayersOf, attention_layers
from interp.models.shape import ModelShape, model_shape
from interp.models.support import check_support, not_layers
from interp.models.visibility import ModelMask


class Host(Protocol):
    """A model whose attention can be sent through ``interp.models.attention.watched``."""

    @property
    def model(self) -> Any:
        """The object that the user knows."""
        ...

    @property
    def inner(self) -> Any:
        """The module whose forward runs on token ids and the like: the same, or what a bridge of TransformerLens holds."""
        ...

    @property
    def config(self) -> Any: ...

    @property
    def layers(self) -> LayersOf: ...

    @property
    def entrances(self) -> Sequence[nn.Module]:
        """The modules whose forward takes in the residual stream for the attention of ``layers``."""
        ...

    @property
    def shape(self) -> ModelShape: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a result must say of the model: its architecture, and what changes its numbers."""
        ...

    def hooked(self, recording: Recording) -> AbstractContextManager[None]:
        """While it lasts, the model's attention reports to ``recording``; then the model is as before."""
        ...

    def forward(self, arguments: Mapping[str, Any], *, logits: bool) -> Tensor:
        """One forward run: the logits, or the last hidden state without computing them."""
        ...


class TransformersHost:
    """A model of transformers, whose attention dispatches through AttentionInterface or has an adapter.

    Raises:
        InputError: its attention cannot be watched, or not all of it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config
        self.layers = attention_layers(model, model.config)
        self._unwatched = check_support(model, self.layers, model.config)
        self.shape = model_shape(model, self.layers)

    @property
    def inner(self) -> PreTrainedModel:
        return self.model

    @property
    def entrances(self) -> Sequence[nn.Module]:
        return list(self.layers)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def facts(self) -> dict[str, Any]:
        beside = not_layers(self.model)
        return {"architecture": type(self.model).__name__} | ({"not_measured": list(beside)} if beside else {})

    @contextmanager
    def hooked(self, recording: Recording) -> Iterator[None]:
        """See ``Host``.

        Raises:
            InputError: the architecture does with our mask what only a tensor can do.
            RunError: parts of the model are in dtypes that its own code does not bring together.
        """
        try:
            with adapted(self.layers, self._unwatched), hooked(self.model, recording):
                yield
        except RuntimeError as error:
            first = {weight.dtype: path for path, weight in reversed(list(self.model.named_parameters()))}
            if isinstance(error, InterpError) or "same dtype" not in str(error) or len(first) < 2:
                raise
            found = ", ".join(f"{path} in {str(dtype).removeprefix('torch.')}" for dtype, path in first.items())
            raise RunError(
                f"parts of {type(self.model).__name__} are in different dtypes ({found}), which its own code does not bring "
                f"together ({error}); bring all of it into one, such as model.to(torch.float32)"
            ) from error
        except (TypeError, AttributeError) as error:
            if ModelMask.__name__ not in str(error):
                raise
            raise InputError(
                f"{type(self.model).__name__} changes its attention mask in code of its own, which interp cannot follow yet "
                f"({error}); choose another architecture, or inputs that do not need it"
            ) from error

    def forward(self, arguments: Mapping[str, Any], *, logits: bool) -> Tensor:
        model = self.model if logits else self._without_head()
        options = {"use_cache": False} if hasattr(self.config, "use_cache") else {}
        output = model(**arguments, **options)
        if not logits:
            return next(x for x in output.values() if isinstance(x, Tensor))
        if getattr(output, "logits", None) is None:
            raise InputError(f"{type(self.model).__name__} gives no logits; load it with its language-model head")
        return output.logits

    def _without_head(self) -> nn.Module:
        """The part of the model that reads its input; of some, what they call their base reads hidden states."""
        base = self.model.base_model
        return base if self.model.main_input_name in inspect.signature(base.forward).parameters else self.model
