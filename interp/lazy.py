"""Packages whose names are imported when they are first used, so that importing a package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any


def lazily(
    package: str,
    homes: Mapping[str, str],
    *,
    packages: Sequence[str] = (),
    made: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
) -> None:
    """Let ``package`` offer names that live in modules of its own, each imported when it is first asked for.

    A function may have the name of the module that it lives in: importing that module does not put it in the function's place.

    Args:
        package: its ``__name__``.
        homes: name -> the module that it lives in.
        packages: packages within it that are reached as its attributes.
        made: name -> a function that makes its value.
    """

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name in packages:
                return import_module(f"{package}.{name}")
            if name in made:
                value = made[name]()
            elif name in homes:
                value = getattr(import_module(homes[name]), name)
            else:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            setattr(self, name, value)
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted([*homes, *made, *packages])

    sys.modules[package].__class__ = Package
