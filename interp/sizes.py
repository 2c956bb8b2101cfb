"""Sizes as people read them."""

from __future__ import annotations


def readable(size: float) -> str:
    """ "1.2 GB": decimal units."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
