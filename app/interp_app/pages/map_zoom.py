"""Buttons that zoom and pan the maps of a page; see assets/zoom.js. The place is the view's rows and cols."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc

from interp_app.panel import labelled

ZOOM = {
    "in": ("Zoom in", "Zoom in on the middle"),
    "out": ("Zoom out", "Zoom out by two"),
    "token": ("At the token", "Show the tokens around the locked one"),
    "all": ("All", "Show the whole text"),
}
PAN = {
    "left": ("←", "Earlier keys"),
    "right": ("→", "Later keys"),
    "up": ("↑", "Earlier queries"),
    "down": ("↓", "Later queries"),
}
STEPS = ZOOM | PAN


def buttons(*steps: str) -> dmc.ButtonGroup:
    """Some of the steps, by name."""
    return dmc.ButtonGroup(
        [
            dmc.Button(
                STEPS[step][0], id={"map-zoom": step}, size="compact-sm", variant="default", **labelled(STEPS[step][1])
            )
            for step in steps
        ]
    )


def meta(region: Any) -> dict[str, Any]:
    """What a figure says to the script in ``layout.meta``: the queries and keys that it shows, and of how many."""
    return {"rows": region.rows, "cols": region.cols, "shape": region.map_shape}
