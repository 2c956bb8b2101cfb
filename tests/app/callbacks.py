"""What a page asks the server, as the browser sends it."""

from __future__ import annotations

from typing import Any

UPDATE = "/_dash-update-component"


def question(
    outputs: list[tuple[Any, str]], inputs: list[dict[str, Any]], state: list[dict[str, Any]]
) -> dict[str, Any]:
    """A call of the callback with these outputs (id and property)."""
    named = "...".join(f"{_named(each)}.{name}" for each, name in outputs)
    return {
        "output": f"..{named}..",
        "outputs": [{"id": each, "property": name} for each, name in outputs],
        "inputs": inputs,
        "changedPropIds": [f"{_named(inputs[0]['id'])}.{inputs[0]['property']}"],
        "state": state,
    }


def _named(component: Any) -> str:
    # As Dash names patterns: {"panel":["MATCH"],"part":"body"}; every panel has the same callback.
    if isinstance(component, str):
        return component
    fields = (
        f'"{name}":' + ('["MATCH"]' if name == "panel" else f'"{value}"') for name, value in sorted(component.items())
    )
    return "{" + ",".join(fields) + "}"


def part(component: Any, name: str, value: Any = None) -> dict[str, Any]:
    """One input or state."""
    return {"id": component, "property": name, "value": value}


AROUND = question(
    [("queue", "children"), ({"control": "text"}, "data"), ("place", "data")],
    [part("queue-poll", "n_intervals", 1), part("around", "data")],
    [
        part("view", "data", {}),
        part("queue", "children", ""),
        part({"control": "text"}, "data"),
        part("place", "data"),
    ],
)
"""What the header asks every two seconds."""


def drawing(panel: str) -> dict[str, Any]:
    """What a panel asks."""

    def of(which: str) -> dict[str, str]:
        return {"panel": panel, "part": which}

    return question(
        [(of("body"), "children"), (of("shown"), "data"), (of("job"), "data"), (of("body"), "aria-busy")],
        [part(of("asked"), "data", {}), part(of("again"), "n_clicks"), part(of("begin"), "n_clicks")],
        [
            part("view", "data", {}),
            part("scheme", "data", "light"),
            part(of("shown"), "data"),
            part(of("shown"), "id", of("shown")),
        ],
    )
