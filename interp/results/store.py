"""A result on disk: a folder with its arrays as safetensors, its tables as Parquet, the rest as JSON. No pickle.

``result.json`` names the kind, its version, the fields, and the checksum of every other file, so that two results never mix.
It is written last: a folder that has it holds a whole result. Which class is made is the caller's choice, never the file's.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors import numpy as safe

from interp.errors import InputError
from interp.folders import check_output_folder, write_together

if TYPE_CHECKING:
    from interp.results.result import Result

CONTENT, ARRAYS = "result.json", "arrays.safetensors"
FORMAT, FORMAT_VERSION = "interp.result", 1
NUMBER = "$number"
"""Key under which a number that JSON has no word for is written."""

R = TypeVar("R", bound="Result")


def save_result(result: Result, folder: Path, *, overwrite: bool = False) -> Path:
    """Write ``result`` into ``folder``; see ``Result.save``."""
    check_output_folder(folder, CONTENT, "result", overwrite=overwrite, how="overwrite=True")
    arrays, files, values = {}, {}, {}
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, np.ndarray):
            arrays[item.name] = np.ascontiguousarray(value)
        elif isinstance(value, pd.DataFrame):
            buffer = io.BytesIO()
            value.to_parquet(buffer, index=False)
            files[_table(item.name)] = buffer.getvalue()
        elif item.name != "settings":
            values[item.name] = _encoded(value, item.name)
    if arrays:
        files[ARRAYS] = safe.save(arrays)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": result.kind,
        "kind_version": result.version,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "values": values,
        "settings": result.settings,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    writers = {name: partial(_write, data) for name, data in files.items()}
    write_together(folder, {**writers, CONTENT: partial(_write, text.encode("utf-8"))}, "result")
    return folder


def load_result(cls: type[R], folder: Path) -> R:
    """The ``cls`` stored in ``folder``; see ``Result.load``."""
    path = folder / CONTENT
    if not path.is_file():
        raise InputError(f"{folder} holds no result (no {CONTENT}); give a folder that {cls.__name__}.save wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_kind(cls, content, folder)
        arrays = safe.load(_read(folder, ARRAYS, content)) if ARRAYS in content["files"] else {}
        found: dict[str, Any] = {"settings": content["settings"]}
        for item in fields(cls):
            if item.name in arrays:
                found[item.name] = arrays[item.name]
            elif _table(item.name) in content["files"]:
                found[item.name] = pd.read_parquet(io.BytesIO(_read(folder, _table(item.name), content)))
            elif item.name != "settings":
                found[item.name] = _decoded(content["values"][item.name])
        return cls(**found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"the result in {folder} cannot be read: {what}") from error


def _check_kind(cls: type[Result], content: Any, folder: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{folder / CONTENT} was not written by interp")
    if content.get("kind") != cls.kind:
        raise InputError(f"{folder} holds a result of the kind {content.get('kind')!r}, expected {cls.kind!r}")
    came = content.get("format_version"), content.get("kind_version")
    if came != (FORMAT_VERSION, cls.version):
        raise InputError(
            f"{folder} has format version {came[0]}.{came[1]}, this interp reads {FORMAT_VERSION}.{cls.version}; make the "
            "result again, or read it with the interp that wrote it"
        )


def _read(folder: Path, name: str, content: Mapping[str, Any]) -> bytes:
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != content["files"][name]:
        raise InputError(f"{folder / name} does not belong to {CONTENT} beside it: the result is damaged")
    return data


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _table(field: str) -> str:
    return f"{field}.parquet"


def _encoded(value: Any, name: str) -> Any:
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else {NUMBER: str(value)}
        case tuple() | list():
            return [_encoded(each, name) for each in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _encoded(each, name) for key, each in value.items()}
    raise TypeError(f"{name}: a result cannot hold {type(value).__name__}; see interp.results.result")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(each) for each in value)
    if isinstance(value, dict):
        if value.keys() == {NUMBER}:
            return float(value[NUMBER])
        return {key: _decoded(each) for key, each in value.items()}
    return value
