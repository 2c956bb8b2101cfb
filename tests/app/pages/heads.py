"""What the tests of the Head page share: words of components, what is sent, and the dense map of a head."""

from __future__ import annotations

from typing import Any

import numpy as np
from dash.development.base_component import Component
from plotly.io.json import to_json_plotly

from interp_app.panels import shown
from interp_app.view import View
from interp_app.workspace import Workspace
from tests.app.ready import ready

HOSTILE = "</script><img src=x onerror=alert(1)> <b>bold</b> &amp; \u202eright to left\u202c **md** "


def words(component: Any) -> str:
    """All that is read in a component, its parts apart."""
    if isinstance(component, list | tuple):
        return " ".join(map(words, component))
    if isinstance(component, Component):
        return words(getattr(component, "children", None))
    return "" if component is None else str(component)


def drawn(workspace: Workspace, panel: Any, view: View) -> Any:
    """What a panel sends to the page."""
    return shown(panel, ready(lambda: panel.draw(workspace, view)))


def sent_as(component: Any) -> str:
    """What a component is on its way to the browser."""
    return str(to_json_plotly(component))


def dense(workspace: Workspace, view: View) -> np.ndarray:
    """The head's whole map, float64, by softmax of its scores; the text is short."""
    layer, head = workspace.head(view)
    lazy = ready(lambda: workspace.reading(view)).maps[layer]
    ops = lazy.operands
    q, k = ops.q[0, head].double(), ops.k[0, head // ops.group].double()
    scores = (q @ k.T * ops.scale).numpy()
    scores[np.triu_indices(len(scores), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
