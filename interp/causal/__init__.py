"""What heads do to the model, seen by changing them.

scores = interp.scan(model, ["induction"])
print(interp.causal.verify(model, scores, "induction").summary())
"""

from interp.causal.found import heads_above
from interp.causal.loss import token_losses
from interp.causal.task import Task
from interp.causal.tasks import induction_task, perplexity_task, retrieval_task
from interp.causal.verification import Comparison, Verification
from interp.causal.verify import verify

__all__ = [
    "Comparison",
    "Task",
    "Verification",
    "heads_above",
    "induction_task",
    "perplexity_task",
    "retrieval_task",
    "token_losses",
    "verify",
]
