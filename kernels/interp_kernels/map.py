"""The lazy attention map: any row, tile, diagonal, pooling or product of P, never P itself.

The same for P weighted by its gradient, for relevance: see ``AttentionMap.weighted_by``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from interp_kernels.backends import cpu, triton
from interp_kernels.backends.tiled import sight
from interp_kernels.backends.tiled.mapping import MapTiles
from interp_kernels.integers import MOST_LISTED, checked_count
from interp_kernels.linear_operator import linear_operator
from interp_kernels.map_arguments import (
    check_counted,
    checked_factors,
    checked_index,
    checked_integer,
    checked_rows,
    checked_sides,
    checked_slice,
    spread,
)
from interp_kernels.operands import Operands
from interp_kernels.tensors import check_transforms, describe, is_readable

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from interp_kernels.backends.triton.mapping import MapKernels

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DENSE_CELLS = 1 << 26
"""Most cells, over all heads and sequences, that ``dense`` will build: 256 MB in float32."""


def _computed(
    method: Callable[Concatenate[AttentionMap, Arguments], Result],
) -> Callable[Concatenate[AttentionMap, Arguments], Result]:
    """Without recording gradients, and in the map's own precision where the caller has autocast on."""

    @wraps(method)
    def run(self: AttentionMap, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.no_grad(), torch.autocast(self.lse.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap:
    """P[b, h, i, j] as an object: references to q, k, v, the mask and the log-sum-exp, O(T) memory.

    i is the query's index (not its position), j the key's index. Every method recomputes the scores that it needs:
    P_ij = exp(s_ij - lse_i), so a row sums to 1 within the rounding of the scores, or to less with sink logits. Values
    are float32 (float64 for float64 inputs), on the inputs' device, and carry no gradient.

    Methods run in the compiled sweeps of the CPU backend or, on a CUDA device, in the Triton kernels where these can serve
    the map, else in tiled torch.

    With an ``output_gradient`` (see ``weighted_by``) every method works on max(0, P_ij dP_ij) wherever it says P.
    """

    operands: Operands
    lse: Tensor
    output_gradient: Tensor | None = None  # [B, Hq, Tq, Dv]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, Hq, Tq, Tk)."""
        ops = self.operands
        return ops.batch, ops.heads, ops.queries, ops.keys

    def __repr__(self) -> str:
        b, h, t, k = self.shape
        ops = self.operands
        held = [x for x in (ops.q, ops.k, ops.v, self.lse, self.output_gradient) if x is not None]
        megabytes = sum(x.numel() * x.element_size() for x in held) / 1e6
        weighted = "" if self.output_gradient is None else ", weighted by its gradient"
        return (
            f"{type(self).__name__}(B={b}, Hq={h}, Tq={t}, Tk={k}, {ops.q.dtype}, lazy{weighted}, {megabytes:.1f} MB)"
        )

    def weighted_by(self, output_gradient: Tensor) -> Self:
        """The lazy map of max(0, P_ij dP_ij), with dP_ij = dO_i . v_j the gradient that reaches P_ij.

        Its mean over the heads is the relevance Abar = mean_h max(0, dA * A) of Chefer et al., "Generic
        Attention-model Explainability" (arXiv 2103.15679), A being P. Values are at least 0, in units of the scalar
        that was differentiated, and rows no longer sum to 1.

        Args:
            output_gradient: dO [B, Hq, Tq, Dv], the gradient of a scalar with respect to ``Attended.output``.

        Raises:
            ValueError: it has another shape, type or device; or the map is weighted already.
        """
        ops = self.operands
        shape = (*self.shape[:3], ops.v.shape[-1])
        given = output_gradient
        if not is_readable(given) or tuple(given.shape) != shape or not given.is_floating_point():
            raise ValueError(f"output_gradient: expected a floating tensor {list(shape)}, got {describe(given)}")
        if given.device != ops.v.device:
            raise ValueError(f"output_gradient: expected a tensor on {ops.v.device}, got {given.device}")
        check_transforms("output_gradient", given)
        if self.output_gradient is not None:
            raise ValueError("output_gradient: this map is weighted already; weight the map that attend gave")
        return replace(self, output_gradient=given.detach())

    def head(self, batch: int, head: int) -> Self:
        """The map of one head of one sequence, shape (1, 1, Tq, Tk)."""
        b, h = checked_index("batch", batch, self.shape[0]), checked_index("head", head, self.shape[1])
        gradient = None if self.output_gradient is None else self.output_gradient[b : b + 1, h : h + 1]
        lse = self.lse[b : b + 1, h : h + 1]
        return replace(self, operands=self.operands.one_head(b, h), lse=lse, output_gradient=gradient)

    def of_rows(self, rows: slice) -> Self:
        """The map of consecutive queries, a slice of step 1 that holds at least one: shape (B, Hq, n, Tk).

        Its methods count rows from ``rows.start`` on; who sees whom, and every value, is as in the whole map.
        """
        rows = checked_slice("rows", rows, self.shape[2])
        if rows.start == rows.stop:
            raise ValueError(f"rows: expected at least one of the {self.shape[2]} queries, got none")
        gradient = None if self.output_gradient is None else self.output_gradient[:, :, rows]
        operands = self.operands.some_rows(rows)
        return replace(self, operands=operands, lse=self.lse[:, :, rows], output_gradient=gradient)

    @_computed
    def rows(self, index: int | Sequence[int] | Tensor) -> Tensor:
        """P[:, :, index, :], [B, Hq, n, Tk]; n Tk cells a head. Negative indices count from the end."""
        queries, keys = self.shape[2:]
        found = checked_rows(index, queries)
        chosen = torch.tensor(found, dtype=torch.int64, device=self.lse.device)
        return self._computer().cells(chosen, slice(0, keys))

    @_computed
    def tile(self, rows: slice, cols: slice) -> Tensor:
        """P[:, :, rows, cols] for two slices of step 1, [B, Hq, rows, cols]."""
        rows, cols = checked_slice("rows", rows, self.shape[2]), checked_slice("cols", cols, self.shape[3])
        return self._computer().cells(rows, cols)

    @_computed
    def visible(self, rows: slice, cols: slice) -> Tensor:
        """Which cells of ``tile(rows, cols)`` their queries see, bool [B, Hq, rows, cols]; heads may share memory.

        The mask's conditions, and the biases that hide a key; no score is computed.
        """
        rows, cols = checked_slice("rows", rows, self.shape[2]), checked_slice("cols", cols, self.shape[3])
        return sight.visible(self.operands, rows, cols)

    @_computed
    def count_visible(
        self,
        rows: slice,
        cols: slice,
        block: int | tuple[int, int],
        *,
        counted_rows: Tensor | None = None,
        counted_cols: Tensor | None = None,
    ) -> Tensor:
        """How many cells of each square of a rectangle are visible, int64 [B, Hq, R, C]; heads may share memory.

        Squares of ``block`` x ``block`` cells, or of (down, across), begin at the rectangle's first row and column; those
        at its ends are smaller. With (1, Tk) it is how many keys each query sees, with (Tq, 1) how many queries see a key.
        Of a causal or windowed map, padded or not, it looks at O(T) cells; with documents, predicates or biases at all.

        counted_rows, counted_cols: bool [Tq] and [Tk], of the whole map, False for those whose cells do not count.
        """
        rows, cols = checked_slice("rows", rows, self.shape[2]), checked_slice("cols", cols, self.shape[3])
        sides = checked_sides(block)
        counted = []
        for name, x, side, size in (
            ("counted_rows", counted_rows, rows, self.shape[2]),
            ("counted_cols", counted_cols, cols, self.shape[3]),
        ):
            if x is not None:
                check_counted(name, x, size)
            counted.append(None if x is None else x[side].to(self.lse.device))
        return sight.count_visible(self.operands, rows, cols, *sides, *counted)

    @_computed
    def diagonal(self, d: int) -> Tensor:
        """P[i, i - d] for every query, i - d taken on positions; 0 where that key does not exist. [B, Hq, Tq].

        It is read off square tiles along the diagonal: O(T) time and memory.
        """
        return self._computer().diagonal(checked_integer("d", d))

    @_computed
    def pool(
        self,
        block: int,
        op: Literal["mean", "max"] = "mean",
        *,
        row_factors: Tensor | None = None,
        col_factors: Tensor | None = None,
    ) -> Tensor:
        """Mean over the visible cells, or maximum, of P over block x block squares.

        [B, Hq, ceil(Tq / block), ceil(Tk / block)]; a square without a visible cell gives 0.

        With factors r and c, finite and at least 0, it is of r_i P_ij c_j. row_factors: [Tq], [B, Tq] or [B, Hq, Tq];
        col_factors: [Tk], [B, Tk] or [B, Hq, Tk]. On a GPU these are computed by tiles.
        """
        size = checked_count("block", block)
        if not isinstance(op, str) or op not in ("mean", "max"):
            raise ValueError(f"op: expected 'mean' or 'max', got {describe(op)}")
        if row_factors is None and col_factors is None:
            return self._computer().pool(size, op)
        rows = None if row_factors is None else checked_factors("row_factors", row_factors, self.shape[2], self.lse)
        cols = None if col_factors is None else checked_factors("col_factors", col_factors, self.shape[3], self.lse)
        return self._tiles().pool(size, op, rows, cols)

    @_computed
    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest P_ij of every row and their keys, sorted; ties go to the lower key. [B, Hq, Tq, k] twice.

        Beyond the visible keys the value is 0 and the key -1.
        """
        count = checked_count("k", k, MOST_LISTED)
        return self._computer(top=count).topk(count)

    @_computed
    def matmul(self, x: Tensor) -> Tensor:
        """P x: what every query reads. x [Tk, C], [B, Tk, C] or [B, Hq, Tk, C] -> [B, Hq, Tq, C]."""
        b, h, _, keys = self.shape
        if not is_readable(x) or x.ndim not in (2, 3, 4) or x.shape[-2] != keys or x.shape[-1] == 0:
            wanted = f"[{keys}, C], [{b}, {keys}, C] or [{b}, {h}, {keys}, C]"
            raise ValueError(f"x: expected {wanted}, got {describe(x)}")
        x = spread("x", x, x.ndim == 3, self.lse)
        return self._computer().matmul(x)

    @_computed
    def rmatmul(self, w: Tensor) -> Tensor:
        """P^T w: what every key gives, c_j = sum_i w_i P_ij.

        w [Tq], [B, Tq] or [B, Hq, Tq] -> [B, Hq, Tk]; several vectors at once, [B, Hq, Tq, C] -> [B, Hq, Tk, C].
        """
        b, h, queries, _ = self.shape
        if (
            not is_readable(w)
            or w.ndim not in (1, 2, 3, 4)
            or w.shape[-2 if w.ndim == 4 else -1] != queries
            or 0 in w.shape
        ):
            wanted = f"[{queries}], [{b}, {queries}], [{b}, {h}, {queries}] or [{b}, {h}, {queries}, C]"
            raise ValueError(f"w: expected {wanted}, got {describe(w)}")
        columns = w if w.ndim == 4 else w[..., None]
        columns = spread("w", columns, w.ndim == 2, self.lse)
        out = self._computer().rmatmul(columns)
        return out.transpose(-1, -2) if w.ndim == 4 else out[:, :, 0]

    def dense(self) -> Tensor:
        """P itself, [B, Hq, Tq, Tk], for short inputs; refuses above ``DENSE_CELLS`` cells."""
        b, h, queries, keys = self.shape
        cells = b * h * queries * keys
        if cells > DENSE_CELLS:
            raise ValueError(
                f"dense() would build {b} x {h} x {queries} x {keys} = {cells:,} cells, more than {DENSE_CELLS:,}; "
                "ask for rows, a tile, pool(block), topk(k) or a product instead, or narrow with head(batch, head)"
            )
        return self.tile(slice(0, queries), slice(0, keys))

    def to_linear_operator(self, batch: int, head: int) -> LinearOperator:
        """One head's map as a scipy LinearOperator of shape (Tq, Tk), for svds, eigs and the like. Needs scipy, CPU."""
        return linear_operator(self.head(batch, head))

    def _computer(self, top: int = 0) -> MapTiles | MapKernels:
        """What computes this map. ``top``: the k of a topk that is to be computed."""
        ops = self.operands
        on_gpu = self.lse.is_cuda and self.output_gradient is None and triton.refusal(ops, ()) is None
        if on_gpu and top <= triton.MAX_TOP:
            from interp_kernels.backends.triton.mapping import MapKernels

            return MapKernels(ops, self.lse)
        return self._tiles()

    def _tiles(self) -> MapTiles:
        """What computes this map without the Triton kernels: compiled sweeps on a CPU, else tiles in torch."""
        if self.output_gradient is None and cpu.is_compiled(self.operands):
            from interp_kernels.backends.cpu.mapping import MapSweeps

            return MapSweeps(self.operands, self.lse)
        return MapTiles(self.operands, self.lse, self.output_gradient)
