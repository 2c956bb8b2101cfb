"""What the Flow page asks of ``interp.flow``: each call once, so that what is shown and what "Python" copies are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import InputError
from interp.naming import nearest
from interp_app.jobs import Lane
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    from interp.flow.faithfulness_result import Faithfulness
    from interp.flow.routes import Routes
    from interp.flow.token_weights import TokenWeights
    from interp.inputs.windows import Window
    from interp.models.hooked import HookedModel
    from interp.results.result import Result

METHODS = {
    "rollout": "Rollout",
    "attention_flow": "Attention flow",
    "relevance": "Relevance",
    "input_gradients": "Input gradients",
    "norm_attention": "Norm-based attention",
}
ALL_EDGES = 256
"""Tokens up to which attention flow goes through all edges: two seconds. Of more the largest of each query and head are kept."""
KEEP = 16
MOST_FLOWED = 1024
"""Tokens up to which attention flow is one of the methods that are shown side by side: eight seconds."""
PIECES, PIECE = 4, 32
"""The text's first pieces, and tokens of each, on which methods are tested: four examples give a standard error."""


@dataclass(frozen=True)
class Call:
    """``interp.flow.NAME(model, text, **options)``."""

    name: str
    options: Mapping[str, Any]
    lane: Lane = "quick"

    def run(self, model: HookedModel, text: str) -> Any:
        import interp.flow

        return getattr(interp.flow, self.name)(model, text, **self.options)

    @property
    def python(self) -> str:
        """As it is written in a notebook."""
        given = {name: value for name, value in self.options.items() if value is not None}
        if not given["beyond_context"]:
            del given["beyond_context"]
        return f"interp.flow.{self.name}(model, text{''.join(f', {name}={value!r}' for name, value in given.items())})"

    @property
    def key(self) -> tuple[Any, ...]:
        return ("flow", self.name, *((name, str(value)) for name, value in self.options.items()))


@dataclass(frozen=True)
class Output:
    """The output that is explained. position: its token; drawn_on: tokens that it can draw on; tokens: of the text."""

    position: int
    drawn_on: int
    tokens: tuple[str, ...] = field(repr=False)


def output_of(workspace: Workspace, view: View) -> Output:
    """Raises:
    InputError: the text has no such token.
    Pending, Failed
    """
    reading, model = workspace.reading(view), workspace.model(view)
    count = len(reading.tokens)
    if view.at >= count:
        raise InputError(
            f"output position: the text has {count:,} tokens, 0 to {count - 1:,}, and -1 stands for the last; got {view.at:,}"
        )
    position = view.at % count
    return Output(position, position + 1 if model.shape.is_causal else count, tuple(reading.strings))


def call_of(workspace: Workspace, view: View, method: str | None = None) -> Call:
    """The call of a method, by default of the view's.

    Raises:
        InputError: there is no such method or output.
        Pending, Failed
    """
    method = method or view.method
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not one of this page; {nearest(method, METHODS)}")
    output = output_of(workspace, view)
    at, beyond = output.position, {"beyond_context": view.beyond}
    if method == "attention_flow":
        keep = KEEP if output.drawn_on > ALL_EDGES else None
        return Call(method, {"positions": at, "keep": keep} | beyond, "long")
    if method == "rollout":
        return Call(method, {"positions": at, "every_level": True} | beyond)
    return Call(method, {"positions" if method == "norm_attention" else "at": at} | beyond)


def result_of(workspace: Workspace, view: View, method: str | None = None) -> Result:
    """What a method gives of the view's output."""
    return _made(workspace, view, call_of(workspace, view, method))


def calls_side_by_side(workspace: Workspace, view: View) -> dict[str, Call]:
    """The methods that give weights of the same kind: raw attention of the last layer, rollout, and attention flow where the
    output draws on at most ``MOST_FLOWED`` tokens."""
    output, last = output_of(workspace, view), workspace.model(view).layers[-1]
    raw = {"positions": output.position, "layers": [last], "residual": False, "beyond_context": view.beyond}
    calls = {"raw attention": Call("rollout", raw), "rollout": call_of(workspace, view, "rollout")}
    if output.drawn_on <= MOST_FLOWED:
        calls["attention flow"] = call_of(workspace, view, "attention_flow")
    return calls


def results_side_by_side(workspace: Workspace, view: View) -> dict[str, TokenWeights]:
    """What they give, by name."""
    return {name: _made(workspace, view, call) for name, call in calls_side_by_side(workspace, view).items()}


def routes_call(workspace: Workspace, view: View) -> Call:
    """The routes to the view's output, with the view's threshold."""
    position = output_of(workspace, view).position
    return Call("routes", {"position": position, "threshold": view.threshold, "beyond_context": view.beyond})


def routes_of(workspace: Workspace, view: View) -> Routes:
    return _made(workspace, view, routes_call(workspace, view))


FAITHFULNESS = f"""pieces = [window.batch.ids[0].tolist() for window in model.windows(text, {PIECE})[:{PIECES}]]
interp.flow.faithfulness(model, pieces).plot()"""


def ids_of(window: Window) -> list[int]:
    """Token ids of a window of text."""
    assert window.batch.ids is not None
    return window.batch.ids[0].tolist()


def faithfulness_of(workspace: Workspace, view: View) -> Faithfulness:
    """All methods that the model allows, tested on the text's first pieces."""

    def work(model: HookedModel, text: Any) -> Faithfulness:
        from interp.flow import faithfulness

        pieces = [ids_of(window) for window in model.windows(text.content, PIECE)[:PIECES]]
        return faithfulness(model, pieces, progress=False)

    return workspace.made(view, "faithfulness", "faithfulness of the methods", work, lane="long")


def _made(workspace: Workspace, view: View, call: Call) -> Any:
    title = f"{METHODS.get(call.name, 'Routes').lower()} at {output_of(workspace, view).position}"
    return workspace.made(
        view, call.key, title, lambda model, text: call.run(model, text.content), size=_bytes, lane=call.lane
    )


def _bytes(result: Any) -> int:
    """Arrays and tables of a result, and room for its tokens."""
    import pandas as pd

    held = 2**16
    for value in vars(result).values():
        if isinstance(value, np.ndarray):
            held += value.nbytes
        elif isinstance(value, pd.DataFrame):
            held += int(value.memory_usage(deep=True).sum())
    return held
