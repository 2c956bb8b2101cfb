"""A CUDA device that is not there: tensors that say "cuda:0", are computed on the CPU, and refuse what CUDA refuses.

    with pretended():
        q = torch.randn(1, 4, 20, 8, device="cuda")     # q.device is cuda:0, q.is_cuda is True
        q + torch.ones(8)                               # DeviceMixError, as on a GPU
        q.numpy()                                       # an error, as on a GPU

What it finds is what a GPU would: tensors of two devices in one operation, arrays of numpy made of tensors on the device,
operations that CUDA has not, kernels that are handed memory of the host; and the roads that are taken for CUDA tensors alone
run to their end. Kernels of Triton run in its interpreter. What it cannot find is what only hardware has: what kernels do when
compiled, races, memory, streams.

A tensor of the device is a wrapper around one on the CPU, of the one device type that torch leaves to others ("privateuseone"),
which answers "cuda" when asked. Once made, that type stays known to torch, and it looks like an accelerator to it: a process in
which this was used is for nothing else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from interp_kernels import tensors

NAME = "pretended"
CUDA, HERE = torch.device("cuda", 0), torch.device("cpu")
CAPABILITY = (9, 0)
MULTIPROCESSORS = 132
MEMORY = 80 << 30

MOVES = {"aten::_to_copy", "aten::copy_"}
"""What takes tensors from device to device."""

INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
"""A CUDA tensor takes indices of the host, too: they are copied to the device, on which the host waits."""

FLOATING_ONLY = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv", "aten::dot", "aten::addmv"}
"""Products that CUDA has for floating numbers alone."""


WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
"""Operations whose result the host waits for, as it does for every copy to or from its own memory."""

waits: list[str] = []
"""The operations that made the host wait, in order."""


class DeviceMixError(RuntimeError):
    """An operation that a GPU would refuse."""


class PretendedTensor(Tensor):
    """A tensor of the pretended device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> PretendedTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {CUDA}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _translated(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Turns the device "cuda" of calls into the one that is there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.device:
            args, kwargs = _translated(args, kwargs)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Catches what makes tensors on the device out of nothing or of the host's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(func, args, kwargs or {})


def _translated(args: Sequence[Any], kwargs: dict[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_place, args)), {name: _place(value) for name, value in (kwargs or {}).items()}


def _place(x: Any) -> Any:
    """A device "cuda" as the one that stands for it; anything else as it is."""
    is_cuda = x.type == "cuda" if isinstance(x, torch.device) else isinstance(x, str) and re.fullmatch(r"cuda(:0)?", x)
    return torch.device(NAME, 0) if is_cuda else x


def _dispatched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation of torch: on the CPU, with the tensors that are held, if a GPU would do it."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    on_device = [x for x in given if isinstance(x, PretendedTensor)]
    target = kwargs.get("device")
    # Of both names: within a function that it handles itself, as Tensor.backward, torch asks no function mode.
    goes_there = target is not None and torch.device(target).type in (NAME, "cuda")
    if not on_device and not goes_there:
        return func(*args, **kwargs)
    name = func.overloadpacket._qualified_op_name
    if on_device and name not in MOVES:
        _check(name, args, given)
    _check_generator(name, kwargs, goes_there or bool(on_device))
    is_mixed = len(on_device) < len(given)
    if name in WAITING or (name in MOVES and (target is not None or is_mixed)) or (name in INDEXING and is_mixed):
        waits.append(name)
    args_here, kwargs_here = tree_map(_held, (args, kwargs))
    kwargs_here |= {"pin_memory": False} if "pin_memory" in kwargs else {}
    result = func(*args_here, **kwargs_here)
    if name == "aten::copy_":
        goes_there = isinstance(args[0], PretendedTensor)
    elif target is None:
        goes_there = name != "aten::_local_scalar_dense"
    if not goes_there:
        return result
    wrapped = tree_map(lambda x: PretendedTensor(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _held(x: Any) -> Any:
    if isinstance(x, PretendedTensor):
        return x.held
    return HERE if isinstance(x, torch.device) else x


def _check(name: str, args: tuple[Any, ...], given: Sequence[Tensor]) -> None:
    """Refuse what CUDA refuses: tensors of the host that are no scalars, and products of integers."""
    takes_indices = name in INDEXING and isinstance(args[0], PretendedTensor)
    if not takes_indices and any(x.ndim for x in given if not isinstance(x, PretendedTensor)):
        found = ", ".join(f"{list(x.shape)} on {x.device}" for x in given)
        raise DeviceMixError(f"{name}: expected all tensors to be on the same device, got {found}")
    if name in FLOATING_ONLY and not given[0].is_floating_point():
        raise DeviceMixError(f"{name}: not implemented on CUDA for {given[0].dtype}")


def _check_generator(name: str, kwargs: dict[str, Any], is_there: bool) -> None:
    generator = kwargs.get("generator")
    if is_there and generator is not None:
        raise DeviceMixError(f"{name}: expected a generator on {CUDA}, got one on {generator.device}")


class _Event:
    """Of CUDA, by the host's clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.time - self.time)


def _answers() -> dict[str, Any]:
    """What torch.cuda says of the device."""
    about = SimpleNamespace(name=NAME, multi_processor_count=MULTIPROCESSORS, total_memory=MEMORY, major=9, minor=0)
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: about,
        "get_device_name": lambda device=None: NAME,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device=None: SimpleNamespace(cuda_stream=0),
        "device": lambda device: nullcontext(),
        "manual_seed": torch.default_generator.manual_seed,
        "manual_seed_all": torch.default_generator.manual_seed,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "Event": _Event,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
    }


def _launched(kernel: Any, grid: Any) -> Callable[..., Any]:
    """A kernel of Triton in its interpreter, on the memory that is held; that of the host is refused, as by the launcher."""
    from triton.runtime.interpreter import GridExecutor

    def run(*args: Any, **kwargs: Any) -> Any:
        for name, x in (*enumerate(args), *kwargs.items()):
            if isinstance(x, Tensor) and not isinstance(x, PretendedTensor):
                raise DeviceMixError(f"argument {name} of {kernel.fn.__name__} is a pointer to memory of {x.device}")
        args, kwargs = tree_map(_held, (args, kwargs))
        return GridExecutor(kernel.fn, kernel.arg_names, grid)(*args, **kwargs)

    return run


@contextmanager
def pretended() -> Iterator[None]:
    """While it lasts, this thread has a CUDA device. TRITON_INTERPRET=1 must have been set before triton was imported."""
    from triton.runtime.interpreter import InterpretedFunction

    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, backend_module=torch.cuda)
    only_lifts = torch._C._only_lift_cpu_tensors()
    # Numbers of Python become tensors of the CPU first, and then go where they are asked for as others do.
    torch._C._set_only_lift_cpu_tensors(True)
    with ExitStack() as entered:
        entered.callback(torch._C._set_only_lift_cpu_tensors, only_lifts)
        for name, answer in _answers().items():
            entered.enter_context(patch.object(torch.cuda, name, answer, create=True))
        entered.enter_context(patch.object(InterpretedFunction, "__getitem__", _launched))
        # A tensor of a class of its own is refused, as a fake one would have no numbers; this one has.
        entered.enter_context(patch.object(tensors, "runs_operations_itself", lambda x: False))
        # In this thread, in which the modes are.
        entered.enter_context(torch.autograd.set_multithreading_enabled(False))
        entered.enter_context(_Functions())
        entered.enter_context(_Operations())
        yield
