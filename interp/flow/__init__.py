"""How information moves through layers: what combines the maps of several layers.

rolled = interp.flow.rollout(model, text, every_level=True)
rolled.plot()
"""

from interp.flow.attention_flow import AttentionFlow, attention_flow
from interp.flow.comparison import Comparison, compare, side_by_side
from interp.flow.rollout import Rollout, rollout

__all__ = ["AttentionFlow", "Comparison", "Rollout", "attention_flow", "compare", "rollout", "side_by_side"]
