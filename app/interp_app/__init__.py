"""The dashboard of interp: pages in a browser, each made of what a notebook could call too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp_app.server import create_app
    from interp_app.settings import AppSettings

__all__ = ["AppSettings", "create_app"]


def __getattr__(name: str) -> object:
    # dash takes a second to import, and the command line asks for this package to show its help.
    if name == "create_app":
        from interp_app.server import create_app

        return create_app
    if name == "AppSettings":
        from interp_app.settings import AppSettings

        return AppSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
