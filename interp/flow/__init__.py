"""How information moves through layers: what combines the maps of several layers."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.flow.faithfulness import faithfulness
    from interp.flow.faithfulness_result import Faithfulness
    from interp.flow.input_gradients import InputGradients, input_gradients
    from interp.flow.methods import METHODS, Example, Method
    from interp.flow.norm_attention import norm_attention
    from interp.flow.norm_attention_result import NormAttention
    from interp.flow.relevance import relevance
    from interp.flow.relevance_result import Relevance
    from interp.flow.routes import Routes, routes

__all__ = [
    "METHODS",
    "Example",
    "Faithfulness",
    "InputGradients",
    "Method",
    "NormAttention",
    "Relevance",
    "Routes",
    "faithfulness",
    "input_gradients",
    "norm_attention",
    "relevance",
    "routes",
]

lazily(
    __name__,
    {
        "METHODS": "interp.flow.methods",
        "Example": "interp.flow.methods",
        "Faithfulness": "interp.flow.faithfulness_result",
        "InputGradients": "interp.flow.input_gradients",
        "Method": "interp.flow.methods",
        "NormAttention": "interp.flow.norm_attention_result",
        "Relevance": "interp.flow.relevance_result",
        "Routes": "interp.flow.routes",
        "faithfulness": "interp.flow.faithfulness",
        "input_gradients": "interp.flow.input_gradients",
        "norm_attention": "interp.flow.norm_attention",
        "relevance": "interp.flow.relevance",
        "routes": "interp.flow.routes",
    },
)
