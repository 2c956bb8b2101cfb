"""Files of a training run: replaced in one move, so that an interruption leaves the old or the new one, never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from interp.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, then move over it."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one move."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Save tensors and a small JSON state in one safetensors file, in one move."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"state": json.dumps(state)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_checkpoint` saved. Raises InputError when the file is missing or damaged."""
    if not path.is_file():
        raise InputError(f"nothing to resume: {path} does not exist")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise InputError(f"cannot resume from {path}: {error}") from error


def prepare_folder(out: Path) -> None:
    """Make `out` and check that files can be written there. Raises InputError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the output folder {out}: {error.strerror or error}") from error


def copy_into(parameters: dict[str, torch.nn.Parameter], tensors: dict[str, Tensor], prefix: str) -> None:
    """Copy `tensors[prefix + name]` into each parameter, in place."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[prefix + name])
