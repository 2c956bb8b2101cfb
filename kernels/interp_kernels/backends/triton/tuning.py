"""Block sizes: the configurations of every kernel by architecture and width, and the choice among them by measuring.

How the lists were made. A program holds BLOCK_M x (scores + output) float32 in registers, which 4 warps (Hopper: 8, two
warp groups) of at most 255 registers a thread must carry beside the statistics; and the q block with num_stages tiles of
k and v in shared memory, of which a program may have 163 KB on sm_80 and 227 KB on sm_90. float32 products run without
tensor cores and take small tiles. On sm_90 blocks of 64 rows with 4 warps are left out: releases of Triton up to 3.7
miscompile some of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["forward", "decode", "columns", "rows"]
"""decode: no more rows than its tile has; rows: what scores single rows, squares or the largest cells again."""


@dataclass(frozen=True)
class Config:
    """BLOCK_M query rows by BLOCK_N keys a step."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def configurations(kind: Kind, capability: int, item_size: int, width: int) -> tuple[Config, ...]:
    """What may be tried, the first being what reasoning prefers.

    capability: 80, 90, ...; item_size: bytes of an input element; width: the larger padded width of q k and v.
    """
    if item_size == 4:
        return _of_float32(kind, wide=width > 128)
    hopper = capability >= 90
    if kind == "decode":
        return (Config(16, 64, 4, 2),) if width > 128 else (Config(16, 128, 4, 2), Config(16, 64, 4, 3))
    if kind == "rows":
        return (Config(64, 64, 8, 2),) if hopper or width > 128 else (Config(64, 64, 4, 2),)
    found = _of_hopper(width) if hopper else _of_ampere(width)
    if kind == "columns":
        # The keys are the rows of its tile, and there is no output to hold.
        return tuple(Config(each.block_n, each.block_m, each.num_warps, each.num_stages) for each in found)
    return found


def _of_hopper(width: int) -> tuple[Config, ...]:
    if width > 128:
        return Config(128, 64, 8, 2), Config(128, 32, 8, 2)
    if width > 64:
        return Config(128, 64, 8, 3), Config(128, 128, 8, 2), Config(128, 64, 8, 2)
    return Config(128, 64, 8, 3), Config(128, 128, 8, 2), Config(128, 64, 8, 4)


def _of_ampere(width: int) -> tuple[Config, ...]:
    if width > 128:
        return Config(64, 32, 8, 2), Config(32, 32, 4, 2)
    if width > 64:
        return Config(128, 64, 8, 2), Config(128, 32, 8, 3), Config(64, 64, 4, 2)
    return Config(128, 64, 8, 3), Config(64, 64, 4, 3)


def _of_float32(kind: Kind, wide: bool) -> tuple[Config, ...]:
    if kind == "decode":
        return (Config(16, 32, 4, 1),) if wide else (Config(16, 32, 4, 2), Config(16, 64, 4, 2))
    if wide:
        return (Config(32, 32, 4, 1),)
    if kind == "forward":
        return Config(64, 32, 4, 2), Config(32, 32, 4, 2)
    return (Config(32, 32, 4, 2),)


_fixed: ContextVar[Config | None] = ContextVar("_fixed", default=None)
_splits: ContextVar[int | None] = ContextVar("_splits", default=None)
_chosen: dict[Hashable, Config] = {}


@contextmanager
def fixed(config: Config | None = None, splits: int | None = None) -> Iterator[None]:
    """Inside, every kernel runs with ``config``, and few queries split the keys in ``splits``: for tests and measurements."""
    tokens = _fixed.set(config), _splits.set(splits)
    try:
        yield
    finally:
        _fixed.reset(tokens[0])
        _splits.reset(tokens[1])


def forced_splits() -> int | None:
    """What ``fixed`` says of splits."""
    return _splits.get()


def multiprocessors(device: torch.device) -> int:
    """Of the GPU; 1 in the interpreter, which runs one program after another."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def choose(
    key: Callable[[], Hashable], candidates: Sequence[Config], run: Callable[[Config], None], device: torch.device
) -> Config:
    """The fastest of ``candidates`` for launches of one ``key()``, measured once a process with ``run``.

    Without measuring the first: where there is one alone, in the interpreter, while a CUDA graph is captured, and with
    INTERP_KERNELS_AUTOTUNE=0, which makes results the same bits from process to process.
    """
    if (config := _fixed.get()) is not None:
        return config
    if len(candidates) == 1 or device.type != "cuda":
        return candidates[0]
    kind = key()
    if kind in _chosen:
        return _chosen[kind]
    if os.environ.get("INTERP_KERNELS_AUTOTUNE", "1") == "0" or torch.cuda.is_current_stream_capturing():
        return candidates[0]
    times = [_milliseconds(run, config) for config in candidates]
    return _chosen.setdefault(kind, candidates[times.index(min(times))])


def _milliseconds(run: Callable[[Config], None], config: Config) -> float:
    """The best of three runs; infinity where the device has not the shared memory or registers."""
    from triton.runtime.errors import OutOfResources

    try:
        run(config)
    except OutOfResources:
        return float("inf")
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(config)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
