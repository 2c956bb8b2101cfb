"""Values as plain Python has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as Python's, in lists, tuples and mappings too; other things as they are."""
    if getattr(value, "is_meta", False):  # a tensor without numbers
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value
