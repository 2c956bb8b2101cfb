"""Units on a Ray cluster that is there already, which this process joins and leaves; docs/scale.md says how to start one."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from interp.batch.engines.actors import Actors, Slot
from interp.batch.engines.ground import prepared
from interp.batch.engines.team import do_units
from interp.batch.shard import Order, Outcome
from interp.batch.units import Unit
from interp.errors import InputError

DEVICES = ("auto", "cpu", "cuda")
ADDRESS = "RAY_ADDRESS"
LISTENING = 10.0
"""Seconds in which the cluster must accept a connection."""


@dataclass(frozen=True)
class Cluster:
    """See ``interp.batch.engines.Engine``. slot: what a worker takes."""

    device: str
    workers: int
    threads: int
    slot: Slot

    @property
    def device_type(self) -> str:
        return self.device

    def run(self, order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
        with prepared(order, units) as ground:
            yield from do_units(units, self.workers, Actors(order, ground, self.slot))


@contextmanager
def on_cluster(device: str, workers: int | None, threads: int | None) -> Iterator[Cluster]:
    """device: "auto" is the cluster's GPUs where it has some. workers: None: as many as there is room for.

    Raises:
        InputError: no cluster answers, it has no room for a worker, or the device is not one that a cluster gives.
    """
    if device not in DEVICES:
        raise InputError(
            f"device: the engine ray takes one of {', '.join(DEVICES)} and gives each worker a GPU of its own; got {device!r}"
        )
    with _joined():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if device == "auto":
            device = "cuda" if any(resources.get("GPU", 0) >= 1 for resources in nodes) else "cpu"
        slot = Slot(threads or 1, int(device == "cuda"))
        room = sum(slot.fit(resources) for resources in nodes)
        if not room and workers is None:
            has = "; ".join(f"{r.get('CPU', 0):g} CPU, {r.get('GPU', 0):g} GPU" for r in nodes)
            raise InputError(
                f"the cluster has no machine with room for a worker, which takes {slot}; its machines have {has}. Where it "
                "grows on demand, say how many --workers (workers=)"
            )
        yield Cluster(device, workers or room, slot.cpus, slot)


@contextmanager
def _joined() -> Iterator[None]:
    """This process as a part of the cluster, unless it is one already.

    Raises:
        InputError: none answers, or it cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get(ADDRESS) or "auto"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _check(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise InputError(
            f"no Ray cluster could be joined ({address}): {str(error).strip().splitlines()[0]}; start one, or name it in "
            f"{ADDRESS} (docs/scale.md), with RAY_AUTH_MODE=token and its token where it has one; on one machine the engine "
            "local needs none"
        ) from error
    finally:
        _restore(handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Whether anybody listens there: Ray itself would try for minutes.

    Raises:
        OSError, ValueError: nobody does, or it is no address.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ValueError("expected HOST:PORT, as a program on a machine of the cluster gives it, or auto")
    socket.create_connection((host.strip("[]"), int(port)), LISTENING).close()


def _restore(handler: object) -> None:
    """Ray takes SIGTERM for itself, where it may."""
    if handler is not None and signal.getsignal(signal.SIGTERM) is not handler:
        signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
