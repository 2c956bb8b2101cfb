"""What a worker does, wherever it is; and the worker process of the local engine, to which units come over a socket, as JSON.

The process is a fresh interpreter and not started by multiprocessing, which would run the caller's script again: so it works from
notebooks and from scripts without a main guard. When the socket closes, because the run ended or was killed, it ends too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.batch.shard import ShardRunner

START = "from interp.batch.engines.worker import main; main()"
READY: dict[str, Any] = {"ready": True}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What libraries read when they are imported, before a worker can tell them its number of threads."""


def answer(runner: ShardRunner, told: Mapping[str, Any]) -> dict[str, Any]:
    """Do the unit that a worker is told; "stopped" where its shard cannot be written, else its "outcome"."""
    from interp.batch.units import Unit
    from interp.folders import WriteError

    then = None if told["then"] is None else Unit.of_json(told["then"])
    try:
        return {"outcome": asdict(runner.run(Unit.of_json(told["unit"]), then))}
    except WriteError as error:
        return {"stopped": str(error)}


def main() -> None:
    """Work for whoever holds the other end of the socket whose descriptor is the first argument."""
    from interp.batch.shard import Order, ShardRunner
    from interp.loading.quiet import without_loading_bar

    connection = Connection(int(sys.argv[1]))
    try:
        with without_loading_bar(), ShardRunner(Order(**receive(connection))) as runner:
            send(connection, READY)
            while True:
                content = answer(runner, receive(connection))
                send(connection, content)
                if "stopped" in content:
                    return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def send(connection: Connection, content: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(content, default=str).encode("utf-8"))


def receive(connection: Connection) -> dict[str, Any]:
    """Raises:
    EOFError: the other end is closed.
    """
    return json.loads(connection.recv_bytes())
