"""What a tensor must be to be read here, and what came, in the words of an error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

PLAIN = getattr(Tensor, "__torch_dispatch__", None)
"""Of a class that leaves torch's operations as they are."""


def describe(value: object) -> str:
    """What came, for an error message."""
    if not isinstance(value, Tensor):
        text = repr(value)
        return text if len(text) <= 200 else f"{text[:200]}..."
    if value.is_nested:
        return f"a nested tensor of {value.dtype}"
    layout = "" if value.layout is torch.strided else f"{value.layout} "
    return f"{layout}{value.dtype} of shape {list(value.shape)}"


def is_readable(x: object) -> bool:
    """Whether x is a tensor with an element for each place of its shape."""
    return isinstance(x, Tensor) and not x.is_nested and x.layout is torch.strided


def check_transforms(name: str, x: Tensor) -> None:
    """Refuse what stands for other tensors, and what carries a derivative along: a kernel sees its numbers alone.

    Raises:
        ValueError: x is a tensor of a torch.func transform, has a tangent of forward-mode differentiation, or is of a class
            that runs torch's operations by itself, such as a fake tensor.
    """
    if torch.compiler.is_compiling():
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(x):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            f"{name}: attend does not run under the transforms of torch.func (vmap, grad, jvp, ...); take gradients with "
            "torch.autograd, and put what vmap would go over into the batch dimension"
        )
    if unpack_dual(x).tangent is not None:
        raise ValueError(
            f"{name}: attend has no forward-mode derivatives, got a tensor with a tangent; take gradients with torch.autograd"
        )
    if runs_operations_itself(x):
        raise ValueError(f"{name}: expected a plain tensor, got a {type(x).__name__}, which runs operations by itself")


def runs_operations_itself(x: Tensor) -> bool:
    """Whether x is of a class that stands before torch's operations, as fake tensors do."""
    return getattr(type(x), "__torch_dispatch__", PLAIN) is not PLAIN


def check_tensor(
    name: str, x: object, shapes: Sequence[tuple[int | None, ...]], device: torch.device, kind: str = "a floating"
) -> None:
    """Refuse x unless it is a tensor of one of the shapes, of that kind and on that device. None in a shape: any length but 0.

    kind: "a floating", "a bool", "a real" or "an integer".
    """
    if not isinstance(x, Tensor) or not is_readable(x) or not any(_fits(x, shape) for shape in shapes):
        # Lengths that torch.compile takes for unknown are no text: they are written where it must be, and not before.
        wanted = " or ".join("[" + ", ".join("C" if n is None else str(n) for n in shape) + "]" for shape in shapes)
        raise ValueError(f"{name}: expected a tensor of shape {wanted}, got {describe(x)}")
    kinds = {
        "a floating": x.is_floating_point(),
        "a bool": x.dtype == torch.bool,
        "a real": not x.is_complex(),
        "an integer": not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool,
    }
    if not kinds[kind] or x.device != device:
        raise ValueError(f"{name}: expected {kind} tensor on {device}, got {x.dtype} on {x.device}")
    check_transforms(name, x)


def _fits(x: Tensor, shape: tuple[int | None, ...]) -> bool:
    return x.ndim == len(shape) and all(
        got > 0 if want is None else got == want for want, got in zip(shape, x.shape, strict=True)
    )
