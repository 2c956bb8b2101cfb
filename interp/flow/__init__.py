"""How information moves through layers: what combines the maps of several layers."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.flow.routes import Routes, routes

__all__ = ["Routes", "routes"]

lazily(__name__, {"Routes": "interp.flow.routes", "routes": "interp.flow.routes"})
