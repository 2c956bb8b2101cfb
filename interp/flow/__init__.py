"""How information moves through layers: what combines the maps of several layers."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.flow.attention_flow import AttentionFlow, attention_flow
    from interp.flow.comparison import Comparison, compare, side_by_side
    from interp.flow.faithfulness import faithfulness
    from interp.flow.faithfulness_result import Faithfulness
    from interp.flow.input_gradients import InputGradients, input_gradients
    from interp.flow.methods import METHODS, Example, Method
    from interp.flow.norm_attention import norm_attention
    from interp.flow.norm_attention_result import NormAttention
    from interp.flow.relevance import relevance
    from interp.flow.relevance_result import Relevance
    from interp.flow.rollout import Rollout, rollout
    from interp.flow.routes import Routes, routes

__all__ = [
    "METHODS",
    "AttentionFlow",
    "Comparison",
    "Example",
    "Faithfulness",
    "InputGradients",
    "Method",
    "NormAttention",
    "Relevance",
    "Rollout",
    "Routes",
    "attention_flow",
    "compare",
    "faithfulness",
    "input_gradients",
    "norm_attention",
    "relevance",
    "rollout",
    "routes",
    "side_by_side",
]

lazily(
    __name__,
    {
        "METHODS": "interp.flow.methods",
        "AttentionFlow": "interp.flow.attention_flow",
        "Comparison": "interp.flow.comparison",
        "Example": "interp.flow.methods",
        "Faithfulness": "interp.flow.faithfulness_result",
        "InputGradients": "interp.flow.input_gradients",
        "Method": "interp.flow.methods",
        "NormAttention": "interp.flow.norm_attention_result",
        "Relevance": "interp.flow.relevance_result",
        "Rollout": "interp.flow.rollout",
        "Routes": "interp.flow.routes",
        "attention_flow": "interp.flow.attention_flow",
        "compare": "interp.flow.comparison",
        "faithfulness": "interp.flow.faithfulness",
        "input_gradients": "interp.flow.input_gradients",
        "norm_attention": "interp.flow.norm_attention",
        "relevance": "interp.flow.relevance",
        "rollout": "interp.flow.rollout",
        "routes": "interp.flow.routes",
        "side_by_side": "interp.flow.comparison",
    },
)
