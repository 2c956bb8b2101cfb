"""Which row statistics the forward kernel shall gather for the probes of a call, and where each probe finds its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.triton.operands import constants
from interp_kernels.once import Once
from interp_kernels.operands import Operands

UNCLIPPED = 1 << 30
"""The reach of a distance without a window: beyond every sequence."""

LEVEL = 128
"""Keys over which it is noted whether their weights are all the same. The kernel's tiles of keys divide it."""

_columns = Once(keeps_tensors=True)


class RowStatistics:
    """The linear statistics of some probes: the columns of key masses first, then distances."""

    def __init__(self, ops: Operands, probes: tuple[P.Probe, ...]) -> None:
        self.ops = ops
        self.masses = [probe for probe in probes if isinstance(probe, P.KeyMass)]
        self.distances = [probe for probe in probes if isinstance(probe, P.Distance)]
        self.columns = sum(probe.weights.shape[-1] for probe in self.masses)
        self.weights, self.levels = self._weights()

    @property
    def count(self) -> int:
        return self.columns + len(self.distances)

    @property
    def is_per_head(self) -> bool:
        """Whether key masses differ between heads, so that heads cannot share a block."""
        return self.weights is not None and self.weights.shape[2] > 1

    def arguments(self) -> dict[str, Any]:
        """The arguments of the forward kernel."""
        given: dict[str, Any] = {
            "weight_ptr": self.weights,
            "level_ptr": self.levels,
            "reach_ptr": None,
            "MASSES": self.columns,
            "DISTANCES": len(self.distances),
            "CLIPPED": any(probe.window is not None for probe in self.distances),
            "LEVEL": LEVEL,
        }
        for name, x in (("weight", self.weights), ("level", self.levels)):
            given |= {f"{name}_{dim}": 0 for dim in "cbh"}
            if x is not None:
                c, b, h, _ = x.stride()
                given |= {
                    f"{name}_c": c,
                    f"{name}_b": b if x.shape[1] > 1 else 0,
                    f"{name}_h": h if x.shape[2] > 1 else 0,
                }
        if self.distances:
            reaches = tuple(min(probe.window or UNCLIPPED, UNCLIPPED) for probe in self.distances)
            given["reach_ptr"] = constants(reaches, self.ops.q.device)
        return given

    def value(self, probe: P.Probe, linear: Tensor) -> Tensor:
        """A probe's share of the kernel's linear statistics [G, B, Hq, Tq]."""
        if isinstance(probe, P.Distance):
            return linear[self.columns + self.distances.index(probe)]
        at = self.masses.index(probe)  # pyright: ignore[reportArgumentType]
        start = sum(other.weights.shape[-1] for other in self.masses[:at])
        return linear[start : start + self.masses[at].weights.shape[-1]].movedim(0, -1).contiguous()

    def _weights(self) -> tuple[Tensor | None, Tensor | None]:
        """Of all key masses, column after column: what ``_with_levels`` gives of one."""
        given = [_columns.of(probe, None, lambda probe=probe: _with_levels(probe)) for probe in self.masses]
        if len(given) < 2:
            return given[0] if given else (None, None)
        batch, heads = (max(weights.shape[dim] for weights, _ in given) for dim in (1, 2))
        weights, levels = (torch.cat([x.expand(-1, batch, heads, -1) for x in xs]) for xs in zip(*given, strict=True))
        return weights, levels


def _with_levels(probe: P.KeyMass) -> tuple[Tensor, Tensor]:
    """A probe's weights, float32 [C, B or 1, Hq or 1, whole levels of keys], 0 beyond the last key; and the weight that all
    keys of a level have, NaN where they differ, [C, B or 1, Hq or 1, levels]."""
    given = probe.weights.detach()
    given = given[:, None] if given.ndim == 3 else given[(None,) * (4 - given.ndim)]
    weights = torch.nn.functional.pad(given.movedim(-1, 0).float(), (0, -given.shape[2] % LEVEL)).contiguous()
    least, most = weights.unflatten(-1, (-1, LEVEL)).aminmax(dim=-1)
    return weights, least.where(least == most, torch.nan)
