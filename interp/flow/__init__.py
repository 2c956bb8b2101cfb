"""How information moves through layers: what combines the maps of several layers."""

from interp.flow.input_gradients import InputGradients, input_gradients
from interp.flow.relevance import Relevance, relevance

__all__ = [
    "InputGradients",
    "Relevance",
    "input_gradients",
    "relevance",
]
