"""What the forward of a model takes: names, token ids, pixels or sound; asked before the model is run."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import InputError, InterpError
from interp.models.host import Host
from interp.naming import nearest

DIMENSIONS = {"pixel_values": 4, "input_features": 3, "input_values": 2}
"""Main inputs that may be given as a bare float tensor, with their dimensions: [B, C, H, W], [B, mel, T], [B, T]."""
UNUSED = {
    "labels": "a capture computes no loss; leave labels out (for a decoder's text there is decoder=)",
    "encoder_outputs": "a capture runs the encoder too; give its input_ids or features",
    "past_key_values": "a capture runs the whole input; leave the cache out",
    "use_cache": "a run of interp keeps no cache; leave it out",
    "return_dict": "what is returned is read by name; leave it out",
    "output_attentions": "no run of interp builds maps; ask for probes, or take the lazy maps of model.maps",
}

FLAGS = re.compile(r"\b(bool|int|float|str)\b")
"""In the annotation of an argument: it may be no tensor."""

LIBRARIES = {"transformers", "torch", "transformer_lens", "transformers_modules"}
"""Top-level modules of a model's code; of a repository's own code transformers makes the last."""
OWN = {"interp", "interp_kernels"}
SHAPES = re.compile(r"size|shape|dimension|channel", re.IGNORECASE)
"""Of torch's RuntimeErrors, those that speak of what was given."""


@dataclass(frozen=True, eq=False)
class Reads:
    """What ``host``'s model takes."""

    host: Host

    @property
    def name(self) -> str:
        return type(self.host.inner).__name__

    @cached_property
    def names(self) -> frozenset[str] | None:
        """Arguments of the forward by name; None where they cannot be told (a wrapper that hands on whatever it is given)."""
        named = _named(self.host.inner)
        return frozenset(named) if self.main in named else None

    @property
    def main(self) -> str:
        """The argument that it cannot do without: "input_ids", "pixel_values", ..."""
        main = getattr(self.host.inner, "main_input_name", "input_ids")
        return main if isinstance(main, str) else main[0]

    def takes(self, name: str) -> bool:
        return self.names is None or name in self.names

    def takes_flag(self, name: str) -> bool:
        """Whether an argument may be a bool, a number or a word, as far as the forward, or a part of the model, says of it."""
        if name in UNUSED:
            return True  # to be refused with the reason
        parts = (module for module in self.host.inner.modules() if isinstance(module, PreTrainedModel))
        for owner in (self.host.inner, *parts):
            parameter = inspect.signature(owner.forward).parameters.get(name)
            if parameter is not None:
                return FLAGS.search(str(parameter.annotation)) is not None
        return False

    @property
    def has_decoder(self) -> bool:
        """Whether it is an encoder-decoder whose decoder reads token ids."""
        return bool(getattr(self.host.config, "is_encoder_decoder", False)) and (
            self.names is not None and "decoder_input_ids" in self.names
        )

    @property
    def decoder_vocabulary(self) -> int:
        """How many token ids its decoder knows."""
        config = self.host.config
        own = getattr(getattr(config, "decoder", None), "vocab_size", None)
        return own or self.host.shape.vocabulary or getattr(config.get_text_config(decoder=True), "vocab_size", 0)

    @property
    def decoder_context(self) -> int | None:
        """Positions of its decoder, None without a bound."""
        if self.host.shape.has_relative_positions:
            return None
        config = self.host.config
        config = getattr(config, "decoder", None) or config
        names = ("max_target_positions", "max_position_embeddings")
        return next((n for name in names if isinstance(n := getattr(config, name, None), int)), None)

    def moved(self, value: Tensor) -> Tensor:
        """On the model's device; floats in its dtype."""
        return value.to(self.host.device, self.host.dtype if value.is_floating_point() else value.dtype)

    def check_token_ids(self) -> None:
        """Refuse token ids and text for a model that reads none.

        Raises:
            InputError: its main input is another.
        """
        if self.host.shape.vocabulary and self.takes("input_ids"):
            return
        main = self.main if self.main in DIMENSIONS else "pixel_values"
        beside = "; the text of its decoder is given as decoder=" if self.has_decoder else ""
        raise InputError(
            f"this model reads no token ids; give what its processor returns, such as {{'{main}': a tensor}}{beside}"
        )

    def check_names(self, given: Iterable[str]) -> None:
        """Refuse arguments that the forward does not take.

        Raises:
            InputError: one of them, with the nearest that it takes.
        """
        for name in given:
            if name in UNUSED:
                raise InputError(f"inputs[{name!r}]: {UNUSED[name]}")
            if self.names is None or name in self.names or (self._passes_on and name in self._of_parts):
                continue
            known = sorted(self.names - UNUSED.keys())
            raise InputError(f"inputs[{name!r}]: {self.name} takes no {name}; {nearest(name, known)}")

    def check_values(self, name: str, value: Tensor, *, any_size: bool = False) -> None:
        """Refuse floats that are not finite, and images of another shape than the model's; of another size but if ``any_size``.

        Raises:
            InputError: such a value.
        """
        if value.is_floating_point() and not name.endswith("mask") and not bool(torch.isfinite(value).all()):
            kind = "NaN" if bool(value.isnan().any()) else "infinity"
            raise InputError(f"{name} holds {kind}; check what the processor was given")
        if name == "pixel_values":
            self._check_pixels(value, any_size=any_size)

    @contextmanager
    def named_in_refusals(self, arguments: Mapping[str, Any], has_begun: Callable[[], bool]) -> Iterator[None]:
        """What the model's own code refuses is an input that does not fit: before any layer attends, or for want of another.

        A hook of the user's, a probe and an edit raise what they raise.

        Raises:
            InputError: with the model's own reason, what was given and what it takes.
        """
        try:
            yield
        except (ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            about_shapes = not isinstance(error, RuntimeError) or SHAPES.search(str(error))
            is_refusal = about_shapes and not isinstance(error, InterpError | torch.OutOfMemoryError)
            # Later, as of a model with two towers after the first of them, only what speaks of something that is missing.
            is_missing = "NoneType" in str(error) or "have to specify" in str(error)
            if not is_refusal or not _is_from_library(error) or (has_begun() and not is_missing):
                raise
            given = ", ".join(
                f"{name} {list(value.shape) if isinstance(value, Tensor) else value}"
                for name, value in arguments.items()
            )
            takes = ", ".join(sorted((self.names or frozenset()) - UNUSED.keys()))
            raise InputError(
                f"{self.name} cannot {'go on' if has_begun() else 'begin'} with these inputs ({given}): "
                f"{str(error).splitlines()[0]}"
                + (f"; its forward takes {takes}" if takes else "")
                + self._towers(arguments)
            ) from error

    def _check_pixels(self, value: Tensor, *, any_size: bool) -> None:
        if not value.is_floating_point():
            raise InputError(
                f"pixel_values: expected floats, scaled and normalised as the model's processor does it, got {value.dtype}"
            )
        config = self.host.config
        config = getattr(config, "vision_config", None) or config
        channels = getattr(config, "num_channels", None)
        if value.ndim < 4:
            # Some models read flattened patches, whose shape is theirs.
            return
        # Videos have frames and channels in either order.
        if value.ndim == 4 and isinstance(channels, int) and value.shape[1] != channels:
            raise InputError(
                f"pixel_values: {self.name} reads images of {channels} channels, [B, {channels}, height, width], "
                f"got {list(value.shape)}"
            )
        size = None if any_size else self._fixed_size
        if size is not None and tuple(value.shape[-2:]) != size:
            raise InputError(
                f"pixel_values: {self.name} reads images of {size[0]} x {size[1]} pixels, got {value.shape[-2]} x "
                f"{value.shape[-1]}; resize them with its processor, or give interpolate_pos_encoding=True beside them"
            )

    @cached_property
    def _fixed_size(self) -> tuple[int, int] | None:
        """Height and width of its images, None where other sizes can be read without being asked for."""
        for module in self.host.inner.modules():
            size = getattr(module, "image_size", None)
            if size is None or "interpolate_pos_encoding" not in inspect.signature(module.forward).parameters:
                continue
            if isinstance(size, int):
                return size, size
            if isinstance(size, tuple | list) and len(size) == 2:
                return int(size[0]), int(size[1])
        return None

    def _towers(self, arguments: Mapping[str, Any]) -> str:
        """What to do where one of two towers side by side was given nothing to read: give it, or load the other alone."""
        beside = [name for name in ("input_ids", *DIMENSIONS) if self.names and name in self.names]
        missing = [name for name in beside if name not in arguments]
        alone = [
            name
            for name, part in self.host.inner.named_children()
            if isinstance(part, PreTrainedModel) and part.main_input_name in arguments
        ]
        if len(beside) < 2 or not missing or not alone:
            return ""
        tower = f"interp.load(model.model.{alone[0]})"
        return f"; give {' and '.join(missing)} too, or load the tower that reads what there is, {tower}"

    @property
    def _passes_on(self) -> bool:
        parameters = inspect.signature(self.host.inner.forward).parameters.values()
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    @cached_property
    def _of_parts(self) -> frozenset[str]:
        """What the models inside of it take, to which it may pass on what it does not name itself."""
        parts = [module for module in self.host.inner.modules() if isinstance(module, PreTrainedModel)]
        return frozenset(name for part in parts for name in _named(part))


def _named(model: Any) -> list[str]:
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, p in inspect.signature(model.forward).parameters.items() if p.kind not in variable]


def _is_from_library(error: BaseException) -> bool:
    """Whether the model's own code raised the error: from its forward on, no frame is of somebody's hook or edit."""
    tops = [
        str(frame.f_globals.get("__name__", "")).split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    first = next((n for n, top in enumerate(tops) if top in LIBRARIES), None)
    if first is None or tops[-1] not in LIBRARIES:
        return False
    return all(top in LIBRARIES or top in OWN or top in sys.stdlib_module_names for top in tops[first:])
