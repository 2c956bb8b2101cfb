"""How a capture shows itself in a notebook: what was measured, how large it is, where it came from; no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from interp.naming import named_layers
from interp.sizes import readable

if TYPE_CHECKING:
    from interp.captures.capture import Capture


def capture_html(capture: Capture) -> str:
    """A small table of the statistics, with the facts folded up below it. Everything is escaped."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_meaning(capture, name))}</td><td>{len(values)}</td>"
        f"<td>{escape(_shape(capture, name))}</td><td>{readable(sum(v.nbytes for v in values.values()))}</td></tr>"
        for name, values in capture.stats.items()
    )
    head = "".join(f"<th>{title}</th>" for title in ("statistic", "definition", "layers", "shape of a layer", "size"))
    facts = "".join(f"<tr><td>{escape(k)}</td><td>{escape(_shown(v))}</td></tr>" for k, v in _facts(capture).items())
    return (
        f"<div><b>{escape(_title(capture))}</b>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<details><summary>facts</summary><table><tbody>{facts}</tbody></table></details></div>"
    )


def _title(capture: Capture) -> str:
    size = "" if capture.ids is None else f"{capture.ids.shape[0]} x {capture.ids.shape[1]} tokens, "
    return (
        f"Capture of {capture.facts.get('model', '?')}: {size}layers {named_layers(list(capture.layers))}, "
        f"{capture.heads} heads on {capture.kv_heads} KV heads, {readable(capture.nbytes)}"
    )


def _meaning(capture: Capture, name: str) -> str:
    return capture.statistics[name].definition if name in capture.statistics else ""


def _shape(capture: Capture, name: str) -> str:
    """ "batch 2, head 4, query 30", of the first layer, and its type."""
    value = next(iter(capture[name].values()))
    axes = capture.statistics[name].axes if name in capture.statistics else [""] * value.ndim
    shape = ", ".join(f"{axis} {size}".strip() for axis, size in zip(axes, value.shape, strict=True))
    differ = len({tuple(v.shape) for v in capture[name].values()}) > 1
    return f"{shape}{' (differs)' if differ else ''}; {str(value.dtype).removeprefix('torch.')}"


def _facts(capture: Capture) -> dict[str, Any]:
    whole = all(len(how.heads) == how.query_heads for how in capture.measured.values())
    chosen = {} if whole else {"heads": {layer: list(how.heads) for layer, how in capture.measured.items()}}
    return dict(capture.facts) | chosen | {"logits": "yes" if capture.logits is not None else "no"}


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
