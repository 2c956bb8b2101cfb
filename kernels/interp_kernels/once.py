"""What is worked out of a probe once, for all the calls that it is measured in.

A model's layers are measured with the same probes, and on a GPU to look at their tensors costs as much as a short layer, or
makes the host wait for the device. Tensors that a stream has made are kept for this stream, on which they will be there when
they are needed; none are kept of, or taken into, a CUDA graph, which outlives what it refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp_kernels.probes import Probe

T = TypeVar("T")


class Once:
    """Results of one kind, kept for each probe as long as it lives and none of its tensors is written to."""

    def __init__(self, *, keeps_tensors: bool) -> None:
        """keeps_tensors: whether the results hold tensors."""
        self.keeps_tensors = keeps_tensors
        self._kept: WeakKeyDictionary[Probe, tuple[tuple[int, ...], dict[Hashable, object]]] = WeakKeyDictionary()
        self._lock = Lock()

    def of(self, probe: Probe, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, called once for each probe and ``key``, which says all that the result depends on but the probe."""
        tensors = [x for field in fields(probe) if isinstance(x := getattr(probe, field.name), Tensor)]
        # In inference mode torch does not count writes.
        if any(x.is_inference() for x in tensors):
            return make()
        versions = tuple(x._version for x in tensors)
        if self.keeps_tensors and (on_device := [x.device for x in tensors if x.is_cuda]):
            if torch.cuda.is_current_stream_capturing():
                return make()
            key = key, torch.cuda.current_stream(on_device[0]).cuda_stream
        with self._lock:
            known, results = self._kept.get(probe, (versions, {}))
            if known == versions and key in results:
                return results[key]  # pyright: ignore[reportReturnType]
        result = make()
        with self._lock:
            known, results = self._kept.get(probe, (versions, {}))
            self._kept[probe] = versions, {**(results if known == versions else {}), key: result}
        return result
