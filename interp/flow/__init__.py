"""How information moves through layers: what combines the maps of several layers."""

from interp.flow.relevance import Relevance, relevance

__all__ = [
    "Relevance",
    "relevance",
]
