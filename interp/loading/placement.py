"""Where a model's weights are and in which form: one device and floating point, or it is refused before any work.

A model object is neither moved nor copied. Several devices, offloading and quantised weights change numbers or move
tensors behind the model's back, and are refused as long as no test covers them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from interp.errors import InputError

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
QUANTISING = (
    "bitsandbytes",
    "auto_gptq",
    "gptqmodel",
    "awq",
    "torchao",
    "hqq",
    "optimum",
    "eetq",
    "aqlm",
    "fbgemm_gpu",
)
"""Packages whose layers hold weights of few bits."""
PACKED = ("qweight", "weight_packed", "qzeros", "SCB", "quant_state")
"""Names that such layers give to what they hold."""


def model_object(source: nn.Module) -> PreTrainedModel | None:
    """The transformers model in ``source``: itself, or inside of torch.compile's wrapper; None where there is none.

    Raises:
        InputError: it is wrapped by PEFT, which may add to the attention from outside of the model.
    """
    if isinstance(source, PreTrainedModel):
        return source
    inner = getattr(source, "_orig_mod", None)
    if isinstance(inner, PreTrainedModel):
        return inner
    if any(kind.__module__.split(".")[0] == "peft" for kind in type(source).__mro__):
        raise InputError(
            f"{type(source).__name__} wraps a model for PEFT; give load what is inside, model.get_base_model() (LoRA adapters "
            "stay in force there, virtual tokens of prompt or prefix tuning do not), or model.merge_and_unload()"
        )
    return None


def check_placement(model: PreTrainedModel) -> None:
    """Refuse a model that is not whole, in floating point, on one device.

    Raises:
        InputError: says what is where, and what to do.
    """
    name = type(model).__name__
    check_not_quantised(model.config, name)
    _check_weights(model, name)
    _check_modules(model, name)
    _check_devices(model, name)


def check_not_quantised(config: Any, name: str) -> None:
    """Refuse a configuration that says that the weights are quantised, before they are read.

    Raises:
        InputError: names the method.
    """
    given = getattr(config, "quantization_config", None)
    if given is not None:
        method = given.get("quant_method", "?") if isinstance(given, dict) else getattr(given, "quant_method", "?")
        raise _quantised(name, f"its configuration names the method {str(getattr(method, 'value', method))!r}")


def _check_weights(model: nn.Module, name: str) -> None:
    for path, weight in model.named_parameters():
        if weight.device.type == "meta":
            raise InputError(
                f"{name}: {path} is on the device 'meta', which holds no numbers (offloaded to CPU or disk, or not loaded "
                "yet); load the model whole on one device, without offloading"
            )
        if weight.dtype not in FLOATING:
            raise _quantised(name, f"{path} is {str(weight.dtype).removeprefix('torch.')}")
        if type(weight.data) is not torch.Tensor:
            raise _quantised(name, f"{path} is held as {type(weight.data).__name__}")


def _check_modules(model: nn.Module, name: str) -> None:
    for path, module in model.named_modules():
        packages = [kind.__module__ for kind in type(module).__mro__ if kind.__module__ != "builtins"]
        quantising = any(p.split(".")[0] in QUANTISING or p.startswith("torch.ao.nn.quantized") for p in packages)
        if quantising or any(isinstance(getattr(module, held, None), torch.Tensor) for held in PACKED):
            raise _quantised(name, f"{path} is a {type(module).__module__}.{type(module).__name__}")
        if any(getattr(hook, "offload", False) for hook in _hooks(module)):
            raise InputError(
                f"{name}: the weights of {path or 'the model'} are offloaded and brought to the device when it runs, which "
                "interp has not been tested with; load the model whole on one device"
            )


def _hooks(module: nn.Module) -> Iterator[Any]:
    """What accelerate hangs on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield hook
        yield from getattr(hook, "hooks", ())


def _check_devices(model: PreTrainedModel, name: str) -> None:
    first: dict[torch.device, str] = {}
    for path, weight in (*model.named_parameters(), *model.named_buffers()):
        first.setdefault(weight.device, path)
    spread = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(first) > 1 or len(spread) > 1:
        found = [f"{path} on {device}" for device, path in first.items()] if len(first) > 1 else sorted(spread)
        raise InputError(
            f"{name} is spread over several devices ({', '.join(found)}), which interp has not been tested with; put all of it "
            "on one, model.to('cuda:0') or device_map={'': 0}"
        )


def _quantised(name: str, how: str) -> InputError:
    return InputError(
        f"{name} has quantised weights ({how}), which interp has not been tested with; load it in float16, bfloat16 or "
        "float32 (a dequantised model object is taken too)"
    )
