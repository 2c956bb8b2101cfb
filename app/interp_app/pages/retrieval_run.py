"""What the Retrieval page asks of ``interp.heads``: a run over needles, and one of its trials again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.naming import head_name
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    from interp.heads.replay import Replay
    from interp.heads.retrieval import RetrievalResult
    from interp.models.hooked import HookedModel

SMALL_LONGEST = 1024
"""Tokens of the longest prompt with its answer in a small run, less where the context is shorter."""
SMALL = {"depths": (0, 50, 100), "needles": 2}
SIZES = (
    {"value": "small", "label": f"30 trials, up to {SMALL_LONGEST:,} tokens"},
    {"value": "full", "label": "75 trials, up to the model's context"},
)
REPLAYED = 4
"""Heads that a replay shows."""


def options(model: HookedModel, view: View) -> dict[str, Any]:
    """What ``interp.heads.retrieval`` and ``needle_trials`` are called with."""
    if view.trials == "full":
        return {}
    return {"longest": min(SMALL_LONGEST, model.shape.context or SMALL_LONGEST), **SMALL}


def result(workspace: Workspace, view: View) -> RetrievalResult:
    """The run of the view's model; the view's text has no part in it.

    Raises:
        Pending, Failed, InputError
    """
    from interp.heads import retrieval

    return workspace.made(
        _without_text(view),
        ("retrieval", view.trials),
        "hide needles",
        lambda model, text: retrieval(model, **options(model, view), progress=False),
        lane="long",
    )


def held(workspace: Workspace, view: View) -> RetrievalResult | None:
    """The run, where it was made already; nothing is begun."""
    try:
        return workspace.jobs.peek(workspace.key_of(_without_text(view), ("retrieval", view.trials)))
    except InputError:
        return None


def replayed(workspace: Workspace, view: View) -> Replay:
    """The view's trial again, with the strongest heads of the run watched.

    Raises:
        Pending, Failed
        InputError: there is no trial of that number.
    """
    from interp.heads import needle_trials, replay

    run = result(workspace, view)
    if view.trial >= len(run.trials):
        raise InputError(f"trial: there are {len(run.trials)} trials, 0 to {len(run.trials) - 1}, got {view.trial}")
    heads = watched(run)
    return workspace.made(
        _without_text(view),
        ("replay", view.trials, view.trial, tuple(heads)),
        f"replay trial {view.trial}",
        lambda model, text: replay(model, needle_trials(model, **options(model, view))[view.trial], heads),
    )


def watched(run: RetrievalResult) -> list[str]:
    """The heads of a replay: the strongest ones of the run, by all of its trials where none counts."""
    frame = run.to_frame()
    if not run.counted.any():
        frame = frame.assign(score=run.trial_scores.mean(axis=0).ravel())
    frame = frame.sort_values("score", ascending=False, kind="stable").head(REPLAYED)
    return [head_name(row["layer"], int(row["head"])) for row in frame.to_dict("records")]


def written(given: dict[str, Any]) -> str:
    """Options as they stand in a call."""
    return "".join(f", {name}={value!r}" for name, value in given.items())


def _without_text(view: View) -> View:
    return view.but(text="", beyond=False)
