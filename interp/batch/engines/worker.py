"""A worker process of the local engine: it gets an order and then units over a socket, and answers with outcomes, all as JSON.

It is started as a fresh interpreter and not by multiprocessing, which would run the caller's script again: so it works from
notebooks and from scripts without a main guard. When the socket closes, because the run ended or was killed, it ends too.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

START = "from interp.batch.engines.worker import main; main()"


def main() -> None:
    """Work for whoever holds the other end of the socket whose descriptor is the first argument."""
    from interp.batch.shard import Order, ShardRunner
    from interp.batch.units import Unit
    from interp.folders import WriteError
    from interp.loading.quiet import without_loading_bar

    connection = Connection(int(sys.argv[1]))
    try:
        with without_loading_bar(), ShardRunner(Order(**receive(connection))) as runner:
            send(connection, {"ready": True})
            while True:
                asked = receive(connection)
                then = None if asked["then"] is None else Unit.of_json(asked["then"])
                try:
                    outcome = runner.run(Unit.of_json(asked["unit"]), then)
                except WriteError as error:
                    send(connection, {"stopped": str(error)})
                    return
                send(connection, {"outcome": asdict(outcome)})
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def send(connection: Connection, content: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(content, default=str).encode("utf-8"))


def receive(connection: Connection) -> dict[str, Any]:
    """Raises:
    EOFError: the other end is closed.
    """
    return json.loads(connection.recv_bytes())
