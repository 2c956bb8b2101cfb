"""A capture on disk: a folder with its tensors as safetensors and the rest as JSON, written whole or not at all. No pickle.

capture.json holds what is no tensor, with a format version; tensors.safetensors the tensors, under names such as
"stats/entropy/3", and the checksum of the capture.json that it belongs to, so that two captures never mix.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.captures.capture import Capture, MeasuredLayer, Side
from interp.captures.statistic import AXES, Statistic
from interp.errors import InputError
from interp.folders import check_output_folder, write_together
from interp.inputs.tokens import TokenRow
from interp.models.layers import LayerKey
from interp_kernels import Mask

CONTENT, TENSORS = "capture.json", "tensors.safetensors"
FORMAT, FORMAT_VERSION = "interp.capture", 1


def save_capture(capture: Capture, folder: Path, *, overwrite: bool = False) -> Path:
    """Write ``capture`` into ``folder``; returns the folder. Memory: a copy of what lies on a GPU, little beyond that.

    A mask with a predicate, which is a Python function, cannot be written: it is left out with a warning, and the file names its
    layers under ``masks_left_out``; everything else is kept.

    Raises:
        InputError: the folder cannot be written, or holds a capture already and ``overwrite`` is not set.
        RunError: the disk is full.
    """
    check_output_folder(folder, CONTENT, "capture", overwrite=overwrite, how="overwrite=True")
    tensors = _Tensors()
    for name, values in capture.stats.items():
        for layer, value in values.items():
            tensors.add(f"stats/{name}/{layer}", value)
    masks, mask_of, left_out = _masks(capture.masks, tensors)
    if left_out:
        warnings.warn(
            f"the masks of layers {left_out} hold a Python function and are not written; everything else is",
            stacklevel=3,
        )
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "facts": dict(capture.facts),
        "layers": list(capture.layers),
        "heads": capture.heads,
        "kv_heads": capture.kv_heads,
        "stats": {
            name: {"layers": list(values), "meaning": _meaning(capture.statistics.get(name))}
            for name, values in capture.stats.items()
        },
        "measured": [[layer, asdict(how)] for layer, how in capture.measured.items()],
        "ids": tensors.add("ids", capture.ids),
        "keep": tensors.add("keep", capture.keep),
        "logits": tensors.add("logits", capture.logits),
        "tokens": capture.tokens,
        "token_rows": [row.as_json() for row in capture.token_rows],
        "sides": {
            stack: [
                _side(side, f"sides/{stack}/{end}", tensors)
                for side, end in zip(pair, ("queries", "keys"), strict=True)
            ]
            for stack, pair in capture.sides.items()
        },
        "masks": masks,
        "mask_of": mask_of,
        "masks_left_out": left_out,
    }
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in content.items()
    )
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    metadata = {
        FORMAT: _checksum(text)
    }  # one entry: their order is not kept, and the same capture should be the same bytes
    write_together(
        folder,
        {
            TENSORS: lambda path: _write_tensors(tensors.named, path, metadata),
            CONTENT: lambda path: path.write_text(text, encoding="utf-8", newline="\n"),
        },
        "capture",
    )
    return folder


def load_capture(folder: Path) -> Capture:
    """The capture stored in ``folder``, on the CPU.

    Raises:
        InputError: there is none, or it is damaged or of a format that this version does not know.
    """
    path = folder / CONTENT
    if not path.is_file():
        raise InputError(f"{folder} holds no capture (no {CONTENT}); give a folder that Capture.save wrote")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} was not written by Capture.save")
        if content.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{folder} has format version {content.get('format_version')}, this interp reads {FORMAT_VERSION}"
            )
        return _capture(content, _read_tensors(folder / TENSORS, _checksum(text)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"the capture in {folder} cannot be read: {what}") from error


class _Tensors:
    """Tensors to be written, each under a name of its own; what is held twice is written once."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._memory: set[int] = set()

    def add(self, name: str, value: Tensor | None) -> str | None:
        """The name under which ``value`` is written."""
        if value is None:
            return None
        if id(value) not in self._names:
            # One tensor may share another's memory, as a view of it, and safetensors wants each by itself.
            memory = value.untyped_storage().data_ptr()
            self.named[name] = value.detach().clone() if memory in self._memory else value.detach()
            self.named[name] = self.named[name].contiguous()
            self._memory.add(memory)
            self._names[id(value)] = name
        return self._names[id(value)]


def _write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _read_tensors(path: Path, checksum: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing; the capture is not whole")
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get(FORMAT) != checksum:
            raise InputError(
                f"{path} does not belong to the {CONTENT} beside it; one of them was changed after it was written"
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _meaning(statistic: Statistic | None) -> dict[str, Any] | None:
    return None if statistic is None else asdict(statistic)


def _side(side: Side, name: str, tensors: _Tensors) -> dict[str, Any]:
    return {
        "ids": tensors.add(f"{name}/ids", side.ids),
        "keep": tensors.add(f"{name}/keep", side.keep),
        "tokens": side.tokens,
        "first": side.first,
    }


def _masks(
    masks: Mapping[LayerKey, Mask], tensors: _Tensors
) -> tuple[list[dict[str, Any]], list[list[Any]], list[LayerKey]]:
    """The masks that differ, [layer, number of its mask], and the layers whose masks cannot be written."""
    written: list[dict[str, Any]] = []
    number_of: dict[tuple[Any, ...], int] = {}
    mask_of: list[list[Any]] = []
    left_out: list[LayerKey] = []
    for layer, mask in masks.items():
        if mask.predicates:
            left_out.append(layer)
            continue
        same = (mask.is_causal, mask.window, mask.offset, id(mask.keep), id(mask.documents))
        if same not in number_of:
            number = number_of[same] = len(written)
            written.append(
                {
                    "is_causal": mask.is_causal,
                    "window": mask.window,
                    "offset": mask.offset,
                    "keep": tensors.add(f"masks/{number}/keep", mask.keep),
                    "documents": tensors.add(f"masks/{number}/documents", mask.documents),
                }
            )
        mask_of.append([layer, number_of[same]])
    return written, mask_of, left_out


def _capture(content: dict[str, Any], tensors: dict[str, Tensor]) -> Capture:
    def tensor(name: str | None) -> Tensor | None:
        return None if name is None else tensors[name]

    masks = [
        Mask(m["is_causal"], m["window"], m["offset"], tensor(m["keep"]), tensor(m["documents"]))
        for m in content["masks"]
    ]
    measured = {
        _layer(layer): MeasuredLayer(**{**how, "heads": tuple(how["heads"])}) for layer, how in content["measured"]
    }
    capture = Capture(
        stats={
            name: {_layer(layer): tensors[f"stats/{name}/{layer}"] for layer in entry["layers"]}
            for name, entry in content["stats"].items()
        },
        ids=tensor(content["ids"]),
        keep=tensor(content["keep"]),
        tokens=content["tokens"],
        masks={_layer(layer): masks[number] for layer, number in content["mask_of"]},
        layers=tuple(_layer(layer) for layer in content["layers"]),
        heads=int(content["heads"]),
        kv_heads=int(content["kv_heads"]),
        logits=tensor(content["logits"]),
        facts=content["facts"] | ({"masks_left_out": content["masks_left_out"]} if content["masks_left_out"] else {}),
        statistics={
            name: _statistic(entry["meaning"])
            for name, entry in content["stats"].items()
            if entry["meaning"] is not None
        },
        measured=measured,
        token_rows=tuple(TokenRow.of_json(row) for row in content["token_rows"]),
        sides={
            stack: (queries, keys)
            for stack, pair in content["sides"].items()
            for queries, keys in [
                [Side(tensor(s["ids"]), tensor(s["keep"]), s["tokens"], int(s["first"])) for s in pair]
            ]
        },
    )
    _check_shapes(capture)
    return capture


def _layer(layer: object) -> LayerKey:
    if isinstance(layer, bool) or not isinstance(layer, int | str):
        raise InputError(f"{layer!r} is no layer")
    return layer


def _statistic(meaning: dict[str, Any]) -> Statistic:
    axes, columns = tuple(meaning["axes"]), meaning["columns"]
    if not set(axes) <= set(AXES):
        raise InputError(f"its axes {list(axes)} are not of {list(AXES)}")
    return Statistic(axes, None if columns is None else tuple(columns), str(meaning["definition"]))


def _check_shapes(capture: Capture) -> None:
    """Every value must have the axes and the heads that the rest says of it."""
    for name, values in capture.stats.items():
        for layer, value in values.items():
            how = capture.layer(layer)
            meaning = capture.statistics.get(name)
            if meaning is None:
                continue
            heads = len(how.heads) if "head" in meaning.axes else len(how.kv_heads_read)
            if value.ndim != len(meaning.axes) or value.shape[1] != heads:
                raise InputError(
                    f"{name!r} of layer {layer!r} has shape {list(value.shape)}, expected {heads} heads and the axes "
                    f"{list(meaning.axes)}"
                )
