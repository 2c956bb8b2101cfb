"use strict";
// The zoom of a page's maps: what is dragged, clicked and pressed becomes rows and cols of the view, "first-end" of token positions.
(function () {
  // The panels of a page that show one place of the maps, together.
  const MAPS = { "/head": ["head-map"], "/compare": ["compare-first", "compare-second", "compare-difference"] };
  const LEAST = 4; // tokens along a side
  const AROUND = 32; // tokens before and after one that is zoomed in on
  let asked = "";
  let place = ["", ""]; // rows and cols of the view, or those that it is about to have

  const graphOf = (panel) => {
    const frame = document.getElementById(window.interp.idOf({ panel, part: "graph" }));
    return frame && (frame.classList.contains("js-plotly-plot") ? frame : frame.querySelector(".js-plotly-plot"));
  };

  const graphs = () => (MAPS[window.location.pathname] || []).map(graphOf).filter((graph) => graph?.layout?.meta);

  const triggered = () => {
    const entry = window.dash_clientside.callback_context.triggered[0];
    return entry && entry.value ? JSON.parse(entry.prop_id.slice(0, entry.prop_id.lastIndexOf("."))) : null;
  };

  const fitted = ([first, end], size) => {
    let from = Math.floor(first), to = Math.ceil(end);
    const missing = LEAST - (to - from);
    if (missing > 0) {
      from -= Math.floor(missing / 2);
      to += Math.ceil(missing / 2);
    }
    if (from < 0) [from, to] = [0, to - from];
    if (to > size) [from, to] = [from - (to - size), size];
    return [Math.max(0, from), to];
  };

  // The map of the Head page has an answer of its own, which is quicker than that of all panels.
  const askMap = (view) => {
    const wanted = JSON.stringify([view.rows || "", view.cols || "", view.colours]);
    if (wanted === asked) return;
    asked = wanted;
    if (graphOf("head-map")) window.dash_clientside.set_props("map-asked", { data: view });
  };

  // A graph that was dragged to a place that is not another one is put back.
  const restore = () => {
    for (const graph of graphs()) {
      const { rows, cols } = graph.layout.meta;
      const ends = { xaxis: [cols[0] - 0.5, cols[1] - 0.5], yaxis: [rows[1] - 0.5, rows[0] - 0.5] };
      const isThere = Object.entries(ends).every(([name, range]) => range.every((end, at) => Math.abs(end - graph.layout[name].range[at]) < 1e-3));
      if (!isThere) window.Plotly.relayout(graph, { "xaxis.range": ends.xaxis, "yaxis.range": ends.yaxis });
    }
  };

  const show = (rows, cols, shape) => {
    const spans = [fitted(rows, shape[0]), fitted(cols, shape[1])];
    const isAll = spans.every(([first, end], side) => first === 0 && end === shape[side]);
    const [r, c] = spans.map(([first, end]) => (isAll ? "" : `${first}-${end}`));
    if (r === place[0] && c === place[1]) {
      restore();
      return;
    }
    place = [r, c];
    window.interp.change({ rows: r, cols: c });
    window.interp.announce(isAll ? "The whole text" : `Queries ${r}, keys ${c}`);
  };

  // Centres of cells are whole numbers: the cell of token 3 reaches from 2.5 to 3.5.
  const dragged = (relayout, letter) => {
    for (const [name, value] of Object.entries(relayout)) {
      const match = new RegExp(`^${letter}axis\\d*\\.range(\\[0\\])?$`).exec(name);
      if (!match) continue;
      const ends = match[1] ? [value, relayout[name.replace("[0]", "[1]")]] : value;
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      return [low + 0.5 + 1e-6, high + 0.5 - 1e-6];
    }
    return null;
  };

  const zoomMap = (relayout) => {
    const now = graphOf(triggered()?.panel)?.layout?.meta;
    if (!relayout || !now) return;
    if (Object.entries(relayout).some(([name, value]) => name.endsWith(".autorange") && value)) {
      show([0, now.shape[0]], [0, now.shape[1]], now.shape);
      return;
    }
    const rows = dragged(relayout, "y"), cols = dragged(relayout, "x");
    if (rows || cols) show(rows || now.rows, cols || now.cols, now.shape);
  };

  const scaled = ([first, end], factor) => {
    const middle = (first + end) / 2, half = (factor * (end - first)) / 2;
    return [middle - half, middle + half];
  };

  const moved = ([first, end], share) => [first + share * (end - first), end + share * (end - first)];
  const PANS = { up: [-0.5, 0], down: [0.5, 0], left: [0, -0.5], right: [0, 0.5] }; // by shares of what is shown

  // What the next step starts from: the place that was asked for last, which the maps may not show yet.
  const spans = (shape) =>
    place.map((text, side) => {
      const [first, end] = text ? text.split("-").map(Number) : [0, shape[side]];
      return first < shape[side] ? [first, Math.min(end, shape[side])] : [0, shape[side]];
    });

  const stepMap = () => {
    const step = triggered()?.["map-zoom"];
    const now = graphs()[0]?.layout.meta;
    if (!step) return;
    if (!now) {
      // Nothing is drawn yet: the view alone says what will be.
      window.interp.change({ rows: "", cols: "" });
      return;
    }
    const lock = window.interp.state.view.lock ?? -1;
    const [rows, cols] = spans(now.shape);
    if (step === "all") show([0, now.shape[0]], [0, now.shape[1]], now.shape);
    else if (step in PANS) show(moved(rows, PANS[step][0]), moved(cols, PANS[step][1]), now.shape);
    else if (step === "in") show(scaled(rows, 0.5), scaled(cols, 0.5), now.shape);
    else if (step === "out") {
      // Of a side that is all there already, no more than that.
      const wider = [scaled(rows, 2), scaled(cols, 2)].map(([first, end], side) =>
        end - first >= now.shape[side] ? [0, now.shape[side]] : [first, end],
      );
      show(...wider, now.shape);
    } else if (lock >= 0) show([lock - AROUND / 2, lock + AROUND / 2], [lock - AROUND, lock + 1], now.shape);
    else window.interp.announce("Lock a token in the strip first");
  };

  window.interp.followers.push((view) => {
    place = [view.rows || "", view.cols || ""];
    askMap(view);
  });
  Object.assign(window.dash_clientside.interp, { zoomMap, stepMap });
})();
