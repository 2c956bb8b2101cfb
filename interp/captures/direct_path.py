"""The watch over a run that follows what is linear in it, function by function; ``interp.captures.direct`` says what for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer, LayerKey

Kind = Literal["embedding", "heads", "mlp", "bias"]

WRITING = ("", "decoder", "cross")
"""Stacks of layers that write into the residual stream from which logits are read."""
SHAPES = set(
    "view reshape transpose contiguous to float double half bfloat16 type type_as unsqueeze squeeze expand expand_as view_as "
    "permute split chunk flatten unflatten unbind clone neg mean sum dropout cat stack repeat repeat_interleave index_select "
    "narrow movedim swapaxes broadcast_to __getitem__ __get__ size dim numel is_floating_point __neg__".split()
)
"""Functions that are linear in all that they take in."""
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}
QUOTIENTS = {"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"}
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub"}
IN_PLACE = {"add_", "sub_", "__iadd__", "__isub__"}
PROJECTIONS = {"linear", "addmm", "mm", "matmul", "__matmul__"}


@dataclass(frozen=True, eq=False)
class Source:
    """Something that was added to the residual stream, at the rows that are asked for: [N, ...], a leaf of the graph.

    kind   "heads" holds the heads' outputs z [N, Hq, Dv]; "mlp" what else a layer adds; "bias" a constant
    layer  of "heads" the layer's key, of "mlp" and "bias" the block's number; None before and after the blocks
    """

    kind: Kind
    layer: LayerKey | None
    value: Tensor


@dataclass
class _Leaves:
    """The attention's edit: what goes in and comes out is cut from the graph, and what comes out is a leaf."""

    path: DirectPath

    def operands(self, call: AttentionCall) -> AttentionCall:
        path = self.path
        with path.pause():
            for each in path.on_values:
                each(call)
            given = {n: x.detach() for n in ("q", "k", "v", "sinks", "bias") if (x := getattr(call, n)) is not None}
        path.paused += 1
        torch.set_grad_enabled(False)
        return replace(call, **given)

    def output(self, call: AttentionCall, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        self.path.paused -= 1
        with self.path.pause():
            return self.path.heads(call.layer, output)


class DirectPath(TorchFunctionMode):
    """The watch over one run; see the top of this file."""

    def __init__(self, blocks: Sequence[nn.Module], shape: tuple[int, int], rows: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.blocks, self.rows = blocks, rows
        self.shape = shape  # sequences and columns of what the logits belong to
        self.edit = _Leaves(self)
        self.parameters: set[int] = set()
        self.sources: list[Source] = []
        self.final: Tensor | None = None
        self.raw: Tensor | None = None
        self.block: int | None = None
        self.is_past = False
        self.is_gathered = False
        self.keeps_sources = True  # False: heads alone are leaves, and what ``watch`` adds
        self.paused = 0
        self.open: set[int] = set()
        self.on_values: list[Callable[[AttentionCall], None]] = []
        self.handles: list[Any] = []
        self._thread = threading.get_ident()

    @property
    def is_here(self) -> bool:
        """Whether this is the thread whose run is watched: another may run the model meanwhile."""
        return threading.get_ident() == self._thread

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """While it lasts, functions are called as they are."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    # ---------------------------------------------------------------------------------------------- where the run is

    def hook_blocks(self) -> None:
        for number, block in enumerate(self.blocks):
            self.handles.append(block.register_forward_pre_hook(self._entering(number), with_kwargs=True))
        self.handles.append(self.blocks[-1].register_forward_hook(self._leave))

    def hook_unembedding(self, unembedding: nn.Module) -> None:
        def gather(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            if not self.is_here:
                return given
            with self.pause():
                x = given[0]
                self.final = self._rows_of(x)[None]
                self.is_gathered = True
                # Where nobody asks for logits, one row is enough for the model to go on with.
                return (self.final if self.keeps_sources else self.final[:, :1], *given[1:])

        def record(module: nn.Module, given: Any, output: Any) -> None:
            if self.is_here:
                self.raw = output

        self.handles.append(unembedding.register_forward_pre_hook(gather))
        self.handles.append(unembedding.register_forward_hook(record))

    def _entering(self, number: int) -> Callable[..., Any]:
        def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if not self.is_here:
                return None
            is_first, self.block = self.block is None, number
            self.open = set()
            if not (is_first and self.keeps_sources):
                return None
            with self.pause():
                return replaced_input(given, named, lambda x: self.source("embedding", x))

        return enter

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        self.is_past = self.is_past or self.is_here

    # -------------------------------------------------------------------------------------------------------- sources

    def heads(self, layer: AttentionLayer, z: Tensor) -> Tensor:
        """z [B, Hq, Tq, Dv] with its rows as a leaf."""
        z = z.detach()
        if layer.stack not in WRITING:
            return z
        by_row = self._with_leaf("heads", layer.key, z.transpose(1, 2))
        self.open = {id(self.sources[-1].value)} if by_row.requires_grad else set()
        return by_row.transpose(1, 2)

    def source(self, kind: Kind, x: Tensor) -> Tensor:
        """x with its rows as a leaf; x itself, without a graph, where it has no rows of the sequence."""
        number = None if self.is_past or kind == "embedding" else self.block
        return self._with_leaf(kind, number, x.detach())

    def _with_leaf(self, kind: Kind, layer: LayerKey | None, x: Tensor) -> Tensor:
        if not self.has_rows(x):
            return x
        leaf = self._rows_of(x).detach().clone().requires_grad_()
        self.sources.append(Source(kind, layer, leaf))
        if self.is_gathered:
            return leaf[None]
        if x.ndim == 2:
            return x.index_put((self.rows[0] * self.shape[1] + self.rows[1],), leaf)
        return x.index_put(self.rows, leaf)

    def has_rows(self, x: Tensor) -> bool:
        """Whether x is [B, T, ...] or [B T, ...] of the sequence; after the gathering, [1, N, ...]."""
        if not x.is_floating_point():
            return False
        if self.is_gathered:
            return x.ndim >= 2 and x.shape[:2] == (1, self.rows[0].numel())
        b, t = self.shape
        return (x.ndim >= 3 and tuple(x.shape[:2]) == (b, t)) or (x.ndim == 2 and x.shape[0] == b * t)

    def _rows_of(self, x: Tensor) -> Tensor:
        if self.is_gathered:
            return x[0]
        return x[self.rows] if x.ndim > 2 else x[self.rows[0] * self.shape[1] + self.rows[1]]

    # ------------------------------------------------------------------------------------------------------ functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        moves = [self._moves(x) for x in args]
        if any(moves) or any(self._moves(x) for x in kwargs.values()):
            linear = self._linear(name, func, args, kwargs, moves)
            if linear is not None:
                return linear()
        with torch.no_grad():
            return func(*args, **kwargs)

    def _linear(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], moves: list[bool]
    ) -> Callable[[], Any] | None:
        """What to call in place of a function that is linear in what moves; None where it is not."""
        held = tuple(self._held(x) for x in args)
        options = {key: self._held(x) for key, x in kwargs.items()}
        if name in SHAPES:
            return lambda: func(*held, **options)
        if name in PRODUCTS | QUOTIENTS | SUMS and len(moves) < 2:
            return None
        both = len(moves) > 1 and moves[0] and moves[1]
        if name in PRODUCTS | QUOTIENTS and self.is_past and any(self._is_gate(x) for x in held[:2]):
            return None
        if (name in PRODUCTS and not both) or (name in QUOTIENTS and not moves[1]):
            return lambda: func(*held, **options)
        if name in QUOTIENTS and moves[0]:
            return lambda: func(held[0], held[1].detach(), **options)
        if name in SUMS:
            return lambda: func(*(held if both else self._sum(name, held, moves)), **options)
        if name in PROJECTIONS and sum(moves) == 1:
            return self._projection(name, func, held, options, moves)
        if name in ("layer_norm", "rms_norm") and moves[0]:
            return lambda: self._norm(name, held, options)
        return None

    def _sum(self, name: str, held: tuple[Any, ...], moves: list[bool]) -> tuple[Any, ...]:
        """The terms of a sum, of which one moves: the other becomes a source."""
        at = 0 if moves[1] else 1
        x, other = held[1 - at], held[at]
        if not self.keeps_sources or not self.has_rows(x):
            return held
        is_constant = not isinstance(other, Tensor) or other.ndim < 2
        given = torch.as_tensor(other, dtype=x.dtype, device=x.device) if not isinstance(other, Tensor) else other
        if torch.broadcast_shapes(given.shape, x.shape) != x.shape:
            return held
        marked = self.source("bias" if is_constant or self.is_past else "mlp", given.expand(x.shape))
        if at == 0 and name in IN_PLACE:
            # What is written to must stay the tensor that it is.
            marked = other.copy_(marked)
        terms = (marked, x) if at == 0 else (x, marked)
        return (*terms, *held[2:])

    def _projection(
        self, name: str, func: Any, held: tuple[Any, ...], options: dict[str, Any], moves: list[bool]
    ) -> Callable[[], Any] | None:
        x = held[moves.index(True)]
        if not (self.is_past or self._comes_from_open(x)):
            return None
        if name == "linear":
            taken, weight, *rest = held
            bias = rest[0] if rest else options.get("bias")
            return lambda: self._plus(func(taken, weight), bias)
        if name == "addmm" and moves == [False, True, False] and not options:
            return lambda: self._plus(torch.mm(held[1], held[2]), held[0])
        return lambda: func(*held, **options)

    def _plus(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return x
        return torch.add(*self._sum("add", (x, bias), [True, False]))

    def _norm(self, name: str, held: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
        """The norm with its scale held fixed, computed as torch does: in float32 at least, rounded once before the bias."""
        bias_too = ("bias",) if name == "layer_norm" else ()
        names = ("input", "normalized_shape", "weight", *bias_too, "eps")
        given = dict(zip(names, held, strict=False)) | dict(options)
        x, weight, bias, eps = given["input"], given.get("weight"), given.get("bias"), given.get("eps")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = tuple(range(-len(given["normalized_shape"]), 0))
        if name == "layer_norm":
            wide = wide - wide.mean(dim=axes, keepdim=True)
            eps = 1e-5 if eps is None else eps
        elif eps is None:
            eps = torch.finfo(x.dtype).eps
        scale = torch.rsqrt(wide.detach().square().mean(dim=axes, keepdim=True) + eps)
        normed = wide * scale if weight is None else wide * scale * weight
        return self._plus(normed, bias).to(x.dtype)

    def _moves(self, x: Any) -> bool:
        """Whether something, or a part of it, is on the path."""
        if isinstance(x, Tensor):
            return x.requires_grad and not self._is_parameter(x)
        return isinstance(x, tuple | list) and any(self._moves(each) for each in x)

    def _held(self, x: Any) -> Any:
        """Parameters do not move."""
        return x.detach() if isinstance(x, Tensor) and x.requires_grad and self._is_parameter(x) else x

    def _is_parameter(self, x: Tensor) -> bool:
        """A parameter or a view of one (``weight.T``)."""
        return id(x) in self.parameters or (x._base is not None and id(x._base) in self.parameters)

    def _is_gate(self, x: Any) -> bool:
        """Whether x is held fixed and tells both positions and dimensions apart.

        Behind the blocks a norm's scale does the first and its weight the second; what does both is made of the stream itself,
        as in x * tanh(x) of an activation.
        """
        is_held = isinstance(x, Tensor) and not x.requires_grad
        return is_held and x.ndim > 1 and x.shape[-1] > 1

    def _comes_from_open(self, x: Tensor) -> bool:
        """Whether x is made of one layer's heads (or what else is open) and constants alone, and is so before it is projected."""
        constants = {id(source.value) for source in self.sources if source.kind == "bias"}
        found = False
        for leaf in _leaves(x):
            if id(leaf) in self.open:
                found = True
            elif id(leaf) not in constants:
                return False
        return found


def replaced_input(given: tuple[Any, ...], named: dict[str, Any], change: Callable[[Tensor], Tensor]) -> Any:
    """A module's arguments with the first that is a tensor [B, T, d] of floats changed."""

    def fits(x: Any) -> bool:
        return isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 3

    for at, x in enumerate(given):
        if fits(x):
            return (*given[:at], change(x), *given[at + 1 :]), named
    for name, x in named.items():
        if fits(x):
            return given, {**named, name: change(x)}
    return given, named


def _leaves(x: Tensor) -> Iterator[Tensor]:
    """The leaves of x's graph, each once."""
    if x.grad_fn is None:
        yield x
        return
    seen, waiting = set(), [x.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        waiting.extend(before for before, _ in node.next_functions if before is not None)
