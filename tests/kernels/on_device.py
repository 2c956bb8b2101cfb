"""Calls of ``attend`` on the device where the Triton kernels run: a CUDA device, else the CPU under Triton's interpreter."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels.backends.triton.availability import IS_INSTALLED, is_interpreted

if TYPE_CHECKING:
    from tests.kernels.cases import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

LACKING = (
    "triton is not installed"
    if not IS_INSTALLED
    else "no CUDA device, and the Triton interpreter is off (TRITON_INTERPRET=1)"
    if DEVICE == "cpu" and not is_interpreted()
    else None
)
"""Why the kernels cannot run here."""


def _product(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """``tl.dot`` with terms summed in float64 and rounded once. numpy's own BLAS rounds a row by its place among the others,
    and on some processors otherwise than on others; bfloat16, which numpy has not, is held as its bits. What is tested is the
    kernels, not these."""
    from triton.runtime.interpreter import TensorHandle

    exact = np.matmul(_numbers(a), _numbers(b), dtype=np.float64)
    return TensorHandle(exact.astype(d.data.dtype) + d.data, d.dtype.scalar)


def _numbers(handle: Any) -> np.ndarray:
    if handle.dtype.scalar.is_bf16():
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data


def _patch_tensor(tensor: Any, scope: Any) -> None:
    """What triton does, and ends of a range as numbers: up to 3.6 it makes them of arrays of one element, which numpy has
    refused since 2.4."""
    _plain_patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


if LACKING is None and is_interpreted():
    from triton.runtime import interpreter

    _plain_patch = interpreter._patch_lang_tensor
    interpreter._patch_lang_tensor = _patch_tensor
    interpreter.InterpreterBuilder.create_dot = _product

needs_triton = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
needs_gpu = pytest.mark.hardware


def moved(value: Any, device: str | torch.device) -> Any:
    """The same with every tensor in it on ``device``: dataclasses, tuples and dictionaries are gone through."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(each, device) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


def attend(case: Case, probes: tuple[ik.Probe, ...]) -> ik.Attended:
    """The call with backend="triton", its results on the CPU."""
    given = {
        name: getattr(case, name)
        for name in ("q", "k", "v", "scale", "softcap", "sinks", "alibi", "bias", "class_bias", "mask")
    }
    return moved(ik.attend(**moved(given, DEVICE), probes=moved(probes, DEVICE), backend="triton"), "cpu")
