"""What heads do to the model, seen by changing them.

scores = interp.scan(model, ["induction"])
print(interp.causal.verify(model, scores, "induction").summary())
"""

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
