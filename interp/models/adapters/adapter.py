"""What an adapter is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from interp_kernels import Mask


class Watch(Protocol):
    """Runs one call of attention as the recording asks."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None,
        *,
        scaling: float,
        bias: Tensor | None = None,
        also: Mask | None = None,
    ) -> Tensor:
        """q [B, Hq, Tq, D], k [B, Hkv, Tk, D], v [B, Hkv, Tk, Dv] -> the heads' outputs [B, Hq, Tq, Dv].

        mask: as the architecture got it: our Mask, a tensor that is added to the scores, or None
        bias: added to the scaled scores, broadcastable to [B, Hq, Tq, Tk]
        also: a rule that the module keeps to itself
        """
        ...


@dataclass(frozen=True)
class Adapter:
    """``method`` of a module is replaced by ``run(module, watch, *its arguments)``, which returns what it would.

    reads_configuration: what it replaces asks the configuration which attention to compute, where our name stands while any
        thread records the model, so that it cannot run in another thread meanwhile
    """

    method: str
    run: Callable[..., Any]
    reads_configuration: bool = False


def merged(output: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H D], as the output projections take it."""
    return output.transpose(1, 2).flatten(2)
