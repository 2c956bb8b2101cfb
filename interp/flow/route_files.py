"""Routes as files of other programs: JSON, and GraphML for Gephi, yEd, networkx and the like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.folders import checked_path

if TYPE_CHECKING:
    from interp.flow.routes import Routes


def as_json(result: Routes) -> str:
    """Nodes, edges, tokens and settings as one object."""
    content = {
        "position": result.position,
        "blocks": result.blocks,
        "tokens": list(result.tokens),
        "nodes": result.nodes.to_dict("records"),
        "edges": result.edges.to_dict("records"),
        "settings": result.settings,
    }
    return json.dumps(content, ensure_ascii=False, indent=1)


def as_graphml(result: Routes) -> str:
    """The graph as GraphML; whatever tokens hold, ElementTree escapes it, and what XML has no word for is left out."""
    from xml.etree import ElementTree as Xml

    root = Xml.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    kinds = {"stage": "int", "position": "int", "token": "string", "flow": "double"}
    of_edges = {"kind": "string", "head": "string", "weight": "double", "edge_flow": "double"}
    for domain, attributes in (("node", kinds), ("edge", of_edges)):
        for name, kind in attributes.items():
            Xml.SubElement(root, "key", {"id": name, "for": domain, "attr.name": name, "attr.type": kind})
    graph = Xml.SubElement(root, "graph", edgedefault="directed")
    for stage, position, token, flow in result.nodes.itertuples(index=False):
        node = Xml.SubElement(graph, "node", id=f"{stage}.{position}")
        _data(node, {"stage": stage, "position": position, "token": token, "flow": flow})
    columns = ["kind", "head", "from_stage", "from_position", "to_stage", "to_position", "weight", "flow"]
    for kind, head, *ends, weight, flow in result.edges[columns].itertuples(index=False):
        ids = {"source": f"{ends[0]}.{ends[1]}", "target": f"{ends[2]}.{ends[3]}"}
        edge = Xml.SubElement(graph, "edge", ids)
        _data(edge, {"kind": kind, "head": head, "weight": weight, "edge_flow": flow})
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True)


def _data(element: Any, values: dict[str, Any]) -> None:
    from xml.etree import ElementTree as Xml

    for name, value in values.items():
        Xml.SubElement(element, "data", key=name).text = "".join(_in_xml(str(value)))


def _in_xml(text: str) -> Iterator[str]:
    """The characters that XML 1.0 allows."""
    for c in text:
        if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000":
            yield c


def written(path: str | Path, text: str) -> Path:
    """Write a text as UTF-8; returns its path.

    Raises:
        InputError: it is no path, or cannot be written.
    """
    path = checked_path("path", path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; give a file in a folder that can be written"
        ) from error
    return path
