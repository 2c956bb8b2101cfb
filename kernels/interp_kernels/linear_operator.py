"""One head's map as scipy sees a matrix: by its products with vectors and matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from interp_kernels.map import AttentionMap


def linear_operator(one: AttentionMap) -> LinearOperator:
    """The LinearOperator of shape (Tq, Tk) of a map of one head of one sequence.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.sparse.linalg import LinearOperator
    except ImportError as error:
        raise ImportError("to_linear_operator needs scipy (pip install scipy)") from error

    # Copies, since scipy may hand over arrays that are read-only or run backwards. The map is real: what is complex is two.
    def forward(x: Any) -> Any:
        if x.dtype.kind == "c":
            return forward(x.real) + 1j * forward(x.imag)
        given = torch.from_numpy(x.copy()).to(one.lse)
        return one.matmul(given.reshape(one.shape[3], -1))[0, 0].reshape(-1, *x.shape[1:]).cpu().numpy()

    def backward(w: Any) -> Any:
        if w.dtype.kind == "c":
            return backward(w.real) + 1j * backward(w.imag)
        given = torch.from_numpy(w.copy()).to(one.lse)
        return one.rmatmul(given.reshape(1, 1, one.shape[2], -1))[0, 0].cpu().numpy()

    return LinearOperator(
        dtype="float64" if one.lse.dtype == torch.float64 else "float32",
        shape=one.shape[2:],
        matvec=lambda x: forward(x.reshape(-1)),
        rmatvec=lambda x: backward(x).reshape(-1),
        matmat=forward,
        rmatmat=backward,
    )
