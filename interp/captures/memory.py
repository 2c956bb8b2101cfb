"""What a capture will hold in memory, what is free, and an error that says both where it is too much.

Only what interp keeps is counted: statistics and what is kept beside them. The model's own activations come on top.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from interp.captures.lengths import lengths
from interp.errors import InputError, RunError
from interp.inputs.batch import Batch
from interp.models.layers import AttentionLayer, LayerKey
from interp.sizes import readable
from interp_kernels import Pooled, Probe, Received
from interp_kernels.results import value_shape

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

INDEX = 8
"""Bytes of an index; a value has 4, 8 of a model in float64."""


@dataclass(frozen=True)
class LayerSize:
    """One layer that is measured: its query heads that are kept, and its queries and keys."""

    heads: int
    queries: int
    keys: int


@dataclass(frozen=True)
class Needs:
    """The bytes of a capture's results, by name, and of what."""

    parts: dict[str, int]
    layers: int
    batch: int
    tokens: int
    averaged: int | None = None  # bytes if every statistic that can be were averaged over the queries
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def also(self, parts: Mapping[str, int]) -> Needs:
        """The same with more results, of bytes that no average lessens."""
        averaged = None if self.averaged is None else self.averaged + sum(parts.values())
        return replace(self, parts={**self.parts, **parts}, averaged=averaged)

    def check(self) -> None:
        """Refuse results that do not fit into what is free, before the run.

        Raises:
            InputError: what they need, what is free, and what would fit.
        """
        free = free_memory(self.device)
        if free is not None and self.total > free:
            raise InputError(f"{self._needed()}, and {self.device} has {readable(free)} free; {self._advice(free)}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an allocation that fails while it lasts into an error that says what was needed.

        Raises:
            RunError: memory ran out.
        """
        free = free_memory(self.device)
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            asked = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
            tried = f" (an allocation of {asked[1]} failed)" if asked else ""
            had = "" if free is None else f" of the {readable(free)} that were free before it"
            raise RunError(
                f"the run went out of memory on {self.device}{tried}: {self._needed()}{had}; the rest is the model's own; "
                f"{self._advice(free)}"
            ) from error

    def _needed(self) -> str:
        largest = sorted(self.parts.items(), key=lambda part: -part[1])
        named = ", ".join(f"{name} {readable(size)}" for name, size in largest[:3])
        size = f"{self.batch} x {self.tokens:,} tokens" if self.tokens else f"{self.batch} inputs"
        return f"the results need {readable(self.total)} ({named}; {self.layers} layers, {size})"

    def _advice(self, free: int | None) -> str:
        ways = []
        each = self.total / max(1, self.layers)
        if free is not None and each <= free < self.total:
            ways.append(f"at most {int(free // each)} of the {self.layers} layers at once (layers=)")
        elif self.layers > 1:
            ways.append("fewer layers (layers=) or heads (heads=)")
        if self.averaged is not None and self.averaged < self.total:
            ways.append(f"averages over the queries, reduce='mean' on each probe ({readable(self.averaged)})")
        fitting = 0 if free is None or self.total <= free else int(self.tokens * self.batch * free / self.total)
        if fitting > 1:
            ways.append(f"at most {fitting:,} tokens in all")
        else:
            ways.append("a shorter input or a smaller batch, or windows of a long text (model.windows)")
        return "what would fit: " + "; ".join(ways)


def needs_of(
    probes: Sequence[Probe],
    layers: Sequence[LayerSize],
    batch: Batch,
    dtype: torch.dtype,
    device: torch.device,
    beside: Mapping[str, int] | None = None,
) -> Needs:
    """What is kept in these layers: the product of each value's shape, times its bytes.

    Entropy of 32 layers of 32 heads on 100,000 tokens: 32 x 32 x 100,000 x 4 bytes = 410 MB.

    Args:
        beside: what is kept for each head and query in the model's own ``dtype``, by name: how many numbers.
    """
    size = 8 if dtype == torch.float64 else 4
    rows = batch.rows
    parts = {probe.labels[0]: _bytes(probe, layers, rows, size) for probe in probes}
    averages = [p if isinstance(p, Received | Pooled) else replace(p, reduce="mean") for p in probes]
    kept = {
        name: width * dtype.itemsize * rows * sum(layer.heads * layer.queries for layer in layers)
        for name, width in (beside or {}).items()
    }
    averaged = sum(_bytes(probe, layers, rows, size) for probe in averages) + sum(kept.values())
    return Needs(parts | kept, len(layers), rows, batch.tokens, averaged, device)


def layers_of(model: HookedModel, wanted: Container[LayerKey]) -> list[AttentionLayer]:
    """The layers of these keys, in the model's order."""
    return [layer for served in model.host.layers.values() for layer in served if layer.key in wanted]


def layer_sizes(
    model: HookedModel, wanted: Container[LayerKey], heads: Mapping[LayerKey, tuple[int, ...]], batch: Batch
) -> list[LayerSize]:
    """The measured layers; at least one query and one key where the batch does not tell how many there are (towers).

    heads: of those where not all are kept.
    """
    sizes = []
    for layer in layers_of(model, wanted):
        kept = len(heads[layer.key]) if layer.key in heads else layer.heads or model.shape.heads
        sizes.append(LayerSize(kept, *(lengths(batch, layer.stack) or (1, 1))))
    return sizes


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``, None where that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    bounds = [bound for bound in (_available(), _of_group(), _of_process()) if bound is not None]
    return min(bounds, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch on a GPU, torch on a CPU (a plain RuntimeError), or Python and numpy."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _bytes(probe: Probe, layers: Sequence[LayerSize], batch: int, size: int) -> int:
    each = size + (INDEX if probe.gives_index else 0)
    return sum(each * prod(value_shape(probe, batch, layer.heads, layer.queries, layer.keys)) for layer in layers)


def _available() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    """What the control group that a container runs in leaves, without the files that it has cached."""
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit, used = (group / "memory.max").read_text(), int((group / "memory.current").read_text())
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        if limit.strip() != "max":
            return max(0, int(limit) - used + (int(cached[1]) if cached else 0))
    return None


def _of_process() -> int | None:
    """What the limit on the process's address space leaves."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            return max(0, limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return None
