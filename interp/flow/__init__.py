"""How information moves through layers: what combines the maps of several layers."""

from interp.flow.faithfulness import faithfulness
from interp.flow.faithfulness_result import Faithfulness
from interp.flow.input_gradients import InputGradients, input_gradients
from interp.flow.methods import METHODS, Example, Method
from interp.flow.relevance import relevance
from interp.flow.relevance_result import Relevance

__all__ = [
    "METHODS",
    "Example",
    "Faithfulness",
    "InputGradients",
    "Method",
    "Relevance",
    "faithfulness",
    "input_gradients",
    "relevance",
]
