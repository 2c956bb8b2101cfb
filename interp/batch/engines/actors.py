"""Workers as actors of a Ray cluster: each keeps its model, is told one unit after the other, and is replaced when it dies.

What is told and answered are plain values, the same as over the local engine's sockets. Ray carries them as pickles between its
own processes, whose token keeps others out; nothing of it reaches a file of the store.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from interp.batch.engines.ground import Ground
from interp.batch.engines.team import Death, Worker
from interp.batch.engines.worker import READY, THREAD_VARIABLES, answer
from interp.batch.shard import Order, ShardRunner
from interp.errors import RunError

STEP = 1.0
"""Seconds between two looks at the cluster while nobody answers."""
PATIENCE = 600.0
"""Seconds for which a run waits for room in the cluster while it has no worker at all."""
TOLD = 300
"""Characters that are kept of what Ray says of a death."""


class Actor:
    """What runs on the cluster: ``begin``, then ``do`` for each unit."""

    def __init__(self) -> None:
        self._runner: ShardRunner | None = None
        self._open = ExitStack()

    def begin(self, order: Mapping[str, Any], ground: Mapping[str, Any]) -> dict[str, Any]:
        """Make ready for units; "refused" where this machine is not as the run's own."""
        from interp.loading.quiet import without_loading_bar

        problems = Ground(**ground).problems(order["device"])
        if problems:
            return {"refused": f"a worker on {socket.gethostname()} cannot do the work: {'; '.join(problems)}"}
        self._open.enter_context(without_loading_bar())
        self._runner = self._open.enter_context(ShardRunner(Order(**order)))
        return {**READY, "node": ray.get_runtime_context().get_node_id()}

    def do(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """See ``worker.answer``."""
        assert self._runner is not None
        return answer(self._runner, told)


@dataclass(frozen=True)
class Slot:
    """What a worker takes of its machine: cores, one for each of its threads, and GPUs."""

    cpus: int
    gpus: int

    def fit(self, resources: Mapping[str, float]) -> int:
        """How many a machine of these resources has room for."""
        room = int(resources.get("CPU", 0)) // self.cpus
        return min(room, int(resources.get("GPU", 0)) // self.gpus) if self.gpus else room

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")


@dataclass(eq=False, kw_only=True)
class _Placed(Worker):
    """An actor, and the answer that it owes. node: None until it is ready; nodes: those that were alive when it was asked for."""

    actor: Any
    owed: ray.ObjectRef[dict[str, Any]]
    nodes: frozenset[str]
    node: str | None = None


class Actors:
    """Workers that are actors; see ``Team``. Ray starts none again by itself: who dies is missed here, with its units."""

    def __init__(self, order: Order, ground: Ground, slot: Slot) -> None:
        self.slot = slot
        self._order, self._ground = order.as_json(), ground.as_json()
        self._waiting_since = time.monotonic()
        threads = dict.fromkeys(THREAD_VARIABLES, str(order.threads or 1))
        # What Ray makes of a class has no type of its own.
        self._class: Any = ray.remote(Actor).options(
            num_cpus=slot.cpus,
            num_gpus=slot.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": threads},
        )

    def start(self, number: int) -> _Placed:
        actor = self._class.remote()
        owed = actor.begin.remote(self._order, self._ground)
        return _Placed(number, actor=actor, owed=owed, nodes=alive())

    def tell(self, worker: _Placed, told: Mapping[str, Any]) -> None:
        worker.owed = worker.actor.do.remote(told)

    def answers(self, workers: Sequence[_Placed]) -> Iterator[tuple[_Placed, dict[str, Any] | Death]]:
        by_owed = {worker.owed: worker for worker in workers}
        ready, _ = ray.wait(list(by_owed), num_returns=1, timeout=STEP)
        if ready or any(worker.is_ready for worker in workers):
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > PATIENCE:
            raise RunError(
                f"no worker could begin for {PATIENCE:.0f} s: each takes {self.slot}, and the cluster has no room for one; "
                "what was finished is kept"
            )
        for owed in ready:
            worker = by_owed[owed]
            try:
                content = ray.get(owed)
            except RayError as error:
                self.end(worker)
                yield worker, _death(worker, error)
            else:
                worker.node = content.get("node", worker.node)
                yield worker, content

    def end(self, worker: _Placed) -> None:
        # Of one whose machine is gone nothing can be ended.
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)

    def stop(self, workers: Sequence[_Placed]) -> None:
        for worker in workers:
            self.end(worker)


def alive() -> frozenset[str]:
    """The machines of the cluster."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _death(worker: _Placed, error: RayError) -> Death:
    here = alive()
    # One that had not answered may have been on any of the machines that are gone since.
    lost = worker.node not in here if worker.node is not None else not worker.nodes <= here
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    told = lines[1:] if isinstance(error, RayActorError) and len(lines) > 1 else lines[-1:]
    how = " ".join(told or [type(error).__name__])[:TOLD]
    if lost:
        return Death(f"its machine was lost: {how}", of_node=True)
    return Death(how, of_node=isinstance(error, ActorUnavailableError))
