"""What heads do to the model, seen by changing them."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.causal.found import heads_above
    from interp.causal.importance import Importance, importance
    from interp.causal.loss import token_losses
    from interp.causal.pruning import PruningCurve, pruning_curve
    from interp.causal.task import Task
    from interp.causal.tasks import induction_task, perplexity_task, retrieval_task
    from interp.causal.verification import Comparison, Verification
    from interp.causal.verify import verify

__all__ = [
    "Comparison",
    "Importance",
    "PruningCurve",
    "Task",
    "Verification",
    "heads_above",
    "importance",
    "induction_task",
    "perplexity_task",
    "pruning_curve",
    "retrieval_task",
    "token_losses",
    "verify",
]

lazily(
    __name__,
    {
        "Comparison": "interp.causal.verification",
        "Importance": "interp.causal.importance",
        "PruningCurve": "interp.causal.pruning",
        "Task": "interp.causal.task",
        "Verification": "interp.causal.verification",
        "heads_above": "interp.causal.found",
        "importance": "interp.causal.importance",
        "induction_task": "interp.causal.tasks",
        "perplexity_task": "interp.causal.tasks",
        "pruning_curve": "interp.causal.pruning",
        "retrieval_task": "interp.causal.tasks",
        "token_losses": "interp.causal.loss",
        "verify": "interp.causal.verify",
    },
)
