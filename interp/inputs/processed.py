"""From what a processor returns, or from bare pixels or sound, to a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.arguments import check_dense, shown
from interp.errors import InputError
from interp.inputs.batch import Batch, Flag
from interp.inputs.reads import DIMENSIONS, Reads


def from_mapping(inputs: Mapping[str, Any], reads: Reads) -> Batch:
    """The batch of a forward's arguments by name; None among them is left out.

    Raises:
        InputError: a name that the model does not take, something else than a tensor or a flag of the forward's, NaN or images
            that do not fit.
    """
    if "role" in inputs:
        raise InputError("inputs: a chat is a list of messages; give [{'role': ..., 'content': ...}]")
    by_name = {str(name): value for name, value in inputs.items() if value is not None}
    flags = {name: flag for name, value in by_name.items() if (flag := _flag(name, value, reads)) is not None}
    given = {name: _tensor(name, value) for name, value in by_name.items() if name not in flags}
    if not given:
        raise InputError(
            "inputs: expected arguments of the model's forward by name, got "
            + (f"no tensor but {', '.join(flags)} alone" if flags else "an empty mapping")
        )
    kinds = given.get("token_type_ids")
    if kinds is not None and not reads.takes("token_type_ids") and not bool(kinds.any()):
        # Many tokenizers return them for every model; of one segment alone they say nothing.
        del given["token_type_ids"]
    reads.check_names([*given, *flags])
    counted = {"input_ids", "attention_mask", *DIMENSIONS}
    if "input_ids" in given:  # images beside texts are as many as they are, or cut into patches and packed
        counted.discard("pixel_values")
    if len({value.shape[0] for name, value in given.items() if name in counted}) > 1:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())
        raise InputError(f"inputs: expected the same batch in all of them, got {sizes}")
    others = {name: reads.moved(value) for name, value in given.items()}
    for name, value in others.items():
        reads.check_values(name, value, any_size=bool(flags.get("interpolate_pos_encoding")))
    _check_integers(others)
    ids, keep = others.pop("input_ids", None), others.pop("attention_mask", None)
    if ids is None:
        if keep is not None:
            others["attention_mask"] = keep
            if "inputs_embeds" in others and keep.ndim == 2 and not bool(keep.all()):
                raise InputError(
                    "attention_mask: padding beside inputs_embeds is not told apart from tokens; give input_ids, or sequences "
                    "of one length without padding"
                )
        return Batch(None, None, others, flags=flags)
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"input_ids: expected integers of shape [B, T], got {ids.dtype} {list(ids.shape)}")
    if keep is not None and "position_ids" in others:
        # Without a mask transformers reads packed documents off the positions, with one it does not: as it was given.
        others["attention_mask"] = keep
    keep = torch.ones_like(ids) if keep is None else keep
    if keep.shape != ids.shape:
        raise InputError(
            f"attention_mask: expected 0/1 of shape {list(ids.shape)} as input_ids, got {list(keep.shape)}"
        )
    return Batch(ids.long(), keep.bool(), others, flags=flags)


def _check_integers(given: Mapping[str, Tensor]) -> None:
    """Refuse masks of tokens that are not 0 and 1, and positions that are no integers."""
    for name in ("attention_mask", "decoder_attention_mask"):
        mask = given.get(name)
        if mask is not None and mask.ndim == 2 and not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"{name}: expected 1 at tokens and 0 at padding, got values such as {_odd(mask):g}")
    places = given.get("position_ids")
    if places is not None and (places.is_floating_point() or places.dtype == torch.bool):
        raise InputError(f"position_ids: expected integers, got {places.dtype}")


def _odd(mask: Tensor) -> float:
    return float(mask[(mask != 0) & (mask != 1)][0])


def from_floats(values: Tensor, reads: Reads) -> Batch:
    """The batch of pixels or sound: what the model's forward reads first, with or without a dimension for the batch.

    Raises:
        InputError: another number of dimensions, NaN, or images that do not fit.
    """
    name = reads.main
    wanted = DIMENSIONS[name]
    if values.ndim == wanted - 1:
        values = values[None]
    # Frames of a video are one dimension more.
    if values.ndim not in (wanted, wanted + (name == "pixel_values")) or values.numel() == 0:
        axes = {"pixel_values": "[B, C, H, W] or [C, H, W]", "input_features": "[B, mel, T] or [mel, T]"}
        raise InputError(
            f"{name}: expected floats of shape {axes.get(name, '[B, T] or [T]')}, got {list(values.shape)}"
        )
    return from_mapping({name: values}, reads)


def _flag(name: str, value: Any, reads: Reads) -> Flag | None:
    """``value`` where it is a bool, a number or a word for an argument that may be one, else None."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, Flag) and reads.takes_flag(name) else None


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.ndim < 1 or value.numel() == 0:
        raise InputError(
            f"inputs[{name!r}]: expected a tensor with a batch dimension, got {shown(value, 60)}; processors and tokenizers of "
            "transformers give tensors with return_tensors='pt'"
        )
    check_dense(f"inputs[{name!r}]", value)
    return value
