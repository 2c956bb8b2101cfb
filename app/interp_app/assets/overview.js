"use strict";
// The grid of the Overview: an orange frame marks the head that the arrow keys are at and that Enter opens.
(function () {
  const NAME = "current head";
  const TRIES = 100; // of 100 ms, until the grid is there

  const grid = () => {
    const frame = document.getElementById(window.interp.idOf({ panel: "overview-grid", part: "graph" }));
    const graph = frame && (frame.classList.contains("js-plotly-plot") ? frame : frame.querySelector(".js-plotly-plot"));
    return graph && graph.layout && graph.data ? graph : null;
  };

  const mark = (graph) => {
    const { place } = window.interp.state;
    if (!place) return;
    const shapes = graph.layout.shapes || [];
    const held = shapes.find((shape) => shape.name === NAME);
    const frame = { x0: place.head - 0.5, x1: place.head + 0.5, y0: place.layer - 0.5, y1: place.layer + 0.5 };
    if (held && Object.entries(frame).every(([name, value]) => held[name] === value)) return;
    const shown = { type: "rect", name: NAME, layer: "above", line: { color: "#ff7a00", width: 4 }, ...frame };
    window.Plotly.relayout(graph, { shapes: [...shapes.filter((shape) => shape !== held), shown] });
  };

  const markHead = (tries = TRIES) => {
    if (window.location.pathname !== "/") return;
    const graph = grid();
    if (!graph) {
      if (tries) window.setTimeout(markHead, 100, tries - 1);
      return;
    }
    if (!graph.dataset.marked) {
      graph.dataset.marked = "yes";
      graph.on("plotly_afterplot", () => mark(graph)); // another detector is another figure, without the mark
    }
    mark(graph);
  };

  // A figure may come in an element of its own, a moment after it is told.
  const gridDrawn = () => {
    const body = document.getElementById(window.interp.idOf({ panel: "overview-grid", part: "body" }));
    if (!body || body.dataset.watched) return;
    body.dataset.watched = "yes";
    const look = () => {
      const graph = grid();
      if (graph && !graph.dataset.marked) markHead();
    };
    new MutationObserver(look).observe(body, { childList: true, subtree: true });
    look();
  };

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.interp = Object.assign(window.dash_clientside.interp || {}, { markHead, gridDrawn });
})();
