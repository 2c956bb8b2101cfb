"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""

from interp.heads.needles import Needle
from interp.heads.recall import needle_recall
from interp.heads.retrieval import RetrievalHeads, RetrievalResult, retrieval
from interp.heads.trials import Trial, needle_trials

__all__ = ["Needle", "RetrievalHeads", "RetrievalResult", "Trial", "needle_recall", "needle_trials", "retrieval"]
