"""Where units are run: an engine takes an order and units, and gives outcomes as they come. Its workers write the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from interp.batch.shard import Order, Outcome
from interp.batch.units import Unit

Engine = Callable[[Order, Sequence[Unit], int], Iterator[Outcome]]
"""(order, units in the plan's order, workers) -> outcomes. Closing the iterator ends the work; what is finished is kept.

Raises RunError: the work cannot go on at all; WriteError: shards cannot be written any more.
"""


def local(order: Order, units: Sequence[Unit], workers: int) -> Iterator[Outcome]:
    """In this process, or in so many of their own on this machine."""
    from interp.batch.engines.local import run_here, run_in_processes

    return run_here(order, units) if workers == 1 else run_in_processes(order, units, workers)


ENGINES: dict[str, Engine] = {"local": local}
