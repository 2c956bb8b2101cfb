"""What the dashboard is started with."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from interp.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""
TOKEN = re.compile(r"[A-Za-z0-9_.~-]{8,200}")
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f:]{2,39}")
"""A name or an address, without brackets and port."""


@dataclass(frozen=True)
class AppSettings:
    """How the dashboard runs.

    models        what may be opened, as ``interp.load`` takes it; the first is opened at the start. Nothing else is loaded
    text          a text to begin with, in place of the built-in one
    scans         folder whose stored scans are listed
    host, port    where it listens
    token         asked of every browser; made up where the host is not this machine alone and none is given. 8 to 200 letters,
                  digits and _.~-
    names         further names under which browsers may address it, such as that of a proxy
    memory        bytes that kept readings and pyramids may take; the least recently used go first
    longest_text  bytes of a text or an upload
    longest_queue jobs that wait at most; further ones are refused with a message
    device, dtype as of ``interp.load``
    """

    models: tuple[str, ...] = ("demo",)
    text: str | None = None
    scans: Path = Path("interp-scans")
    host: str = "127.0.0.1"
    port: int = 8050
    token: str | None = None
    names: tuple[str, ...] = ()
    memory: int = 2 * 2**30
    longest_text: int = 4 * 2**20
    longest_queue: int = 16
    device: str = "auto"
    dtype: str = "auto"
    made_token: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.models or not all(isinstance(name, str) and name for name in self.models):
            raise InputError(f"models: expected names or folders of models, got {self.models!r}")
        if type(self.port) is not int or not 0 <= self.port <= 65535:
            raise InputError(f"port: expected a number from 0 to 65535, got {self.port!r}")
        for name in ("memory", "longest_text", "longest_queue"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name}: expected a whole number of at least 1, got {value!r}")
        # An empty one would open the server to everybody, and a cookie cannot hold every character.
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise InputError(
                "token: expected 8 to 200 letters, digits and _.~-; leave it out, and one is made up where it is needed"
            )
        object.__setattr__(self, "names", tuple(name.lower() for name in self.names))
        for name in self.names:
            if not NAME.fullmatch(name):
                raise InputError(f"names: expected names such as heads.example.org, without port, got {name!r}")
        if not self.is_local and self.token is None:
            object.__setattr__(self, "token", secrets.token_urlsafe(24))
            object.__setattr__(self, "made_token", True)

    @property
    def is_local(self) -> bool:
        """Whether it can be reached from this machine alone."""
        return self.host in LOCAL

    @property
    def address(self) -> str:
        """Where a browser on this machine opens it, the token included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        shown = host if self.is_local else "127.0.0.1"
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")
