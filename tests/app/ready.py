"""Waiting in tests for what a workspace makes in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from interp_app.jobs import Pending

T = TypeVar("T")


def ready(ask: Callable[[], T], seconds: float = 60.0) -> T:
    """What ``ask`` gives once it raises ``Pending`` no more.

    Raises:
        TimeoutError: it did for so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Pending as pending:
            if time.monotonic() > until:
                raise TimeoutError(f"{pending} was not made in {seconds} seconds") from None
            time.sleep(0.02)
