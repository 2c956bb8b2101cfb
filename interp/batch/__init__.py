"""Batch work over many models and texts: planned, stored, resumable; see docs/batch.md."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.batch.estimate import Estimate, estimate
    from interp.batch.plan import Plan, make_plan, read_plan
    from interp.batch.published import PublishedHeads, read_published
    from interp.batch.run import run_batch
    from interp.batch.store import BatchStore, open_store
    from interp.batch.summary import Summary

__all__ = [
    "BatchStore",
    "Estimate",
    "Plan",
    "PublishedHeads",
    "Summary",
    "estimate",
    "make_plan",
    "open_store",
    "read_plan",
    "read_published",
    "run_batch",
]

lazily(
    __name__,
    {
        "BatchStore": "interp.batch.store",
        "Estimate": "interp.batch.estimate",
        "Plan": "interp.batch.plan",
        "PublishedHeads": "interp.batch.published",
        "Summary": "interp.batch.summary",
        "estimate": "interp.batch.estimate",
        "make_plan": "interp.batch.plan",
        "open_store": "interp.batch.store",
        "read_plan": "interp.batch.plan",
        "read_published": "interp.batch.published",
        "run_batch": "interp.batch.run",
    },
)
