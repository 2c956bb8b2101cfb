"""Where units are run: an engine takes an order and units, and gives outcomes as they come. Its workers write the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Protocol

from interp.batch.shard import Order, Outcome
from interp.batch.units import Unit
from interp.errors import InputError


class Engine(Protocol):
    """Where units are done. It is there before the plan's units are decided, since they depend on its devices.

    device       what a worker loads its model on, as ``interp.load`` takes it
    device_type  "cpu", "cuda" or "mps": what units are measured on, a part of their names
    workers      how many there are at most
    threads      of each worker; None: as many as this process has
    """

    @property
    def device(self) -> str: ...
    @property
    def device_type(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def threads(self) -> int | None: ...

    def run(self, order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Outcomes of units, which are in the plan's order. Closing the iterator ends the work; what is finished is kept.

        Raises:
            RunError: the work cannot go on at all; WriteError: shards cannot be written any more.
        """
        ...


Opening = Callable[[str, int | None, int | None], AbstractContextManager[Engine]]
"""(the plan's device, workers, threads) -> the engine, while it is open. None: as the engine chooses.

Raises InputError: it cannot be had here.
"""


def local(device: str, workers: int | None, threads: int | None) -> AbstractContextManager[Engine]:
    """In this process, or in so many of their own on this machine."""
    from interp.batch.engines.local import on_this_machine

    return on_this_machine(device, workers, threads)


def ray(device: str, workers: int | None, threads: int | None) -> AbstractContextManager[Engine]:
    """In actors of a Ray cluster."""
    if find_spec("ray") is None:
        raise InputError('the engine ray needs Ray, which is not installed here: pip install "interp[ray]"')
    from interp.batch.engines.cluster import on_cluster

    return on_cluster(device, workers, threads)


ENGINES: dict[str, Opening] = {"local": local, "ray": ray}
