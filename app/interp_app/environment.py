"""Settings from the environment, for servers that are started without a command line:

INTERP_APP_MODELS  models that may be opened, separated by commas
INTERP_APP_TEXT    text file to begin with
INTERP_APP_SCANS   folder whose stored scans are listed
INTERP_APP_HOST    what the server is bound to; with another than 127.0.0.1 a token is asked for
INTERP_APP_NAMES   names that browsers use, such as that of a proxy, separated by commas
INTERP_APP_TOKEN   the token; where one is needed and none given, it is made up and written to the log
INTERP_APP_MEMORY  megabytes that kept readings may take
INTERP_APP_DEVICE, INTERP_APP_DTYPE  as of interp.load
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from interp.errors import InputError
from interp.inputs.textfile import read_text
from interp_app.settings import AppSettings

PREFIX = "INTERP_APP_"
KNOWN = ("MODELS", "TEXT", "SCANS", "HOST", "NAMES", "TOKEN", "MEMORY", "DEVICE", "DTYPE")


def settings_of(environment: Mapping[str, str]) -> AppSettings:
    """The settings that an environment says; an empty variable counts as none.

    Raises:
        InputError: a variable of the prefix that there is not (a token that is misspelt would leave the server open), or a
            value that cannot be.
    """
    given = {
        name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX) and value
    }
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise InputError(
            f"{PREFIX}{unknown[0]}: there is no such setting; known are {', '.join(PREFIX + name for name in KNOWN)}"
        )
    settings = AppSettings(
        models=_listed(given.get("MODELS", "demo")),
        text=read_text(Path(given["TEXT"]), f"{PREFIX}TEXT") if "TEXT" in given else None,
        scans=Path(given.get("SCANS", "interp-scans")),
        host=given.get("HOST", "127.0.0.1"),
        names=_listed(given.get("NAMES", "")),
        token=given.get("TOKEN"),
        memory=_megabytes(given.get("MEMORY", "2048")),
        device=given.get("DEVICE", "auto"),
        dtype=given.get("DTYPE", "auto"),
    )
    if settings.made_token:
        logging.getLogger("interp_app").warning("the token that browsers must show: %s", settings.token)
    return settings


def _listed(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _megabytes(value: str) -> int:
    if not value.isdecimal():
        raise InputError(f"{PREFIX}MEMORY: expected a whole number of megabytes, got {value!r}")
    return int(value) * 2**20
