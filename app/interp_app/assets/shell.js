"use strict";
// The view of a page lives in the store "view"; the address bar follows it, controls and keys change it.
(function () {
  const none = () => window.dash_clientside.no_update;
  // latest: the view before Dash has passed it on; what changes it begins from there.
  const state = { view: {}, latest: null, place: null };
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);

  const search = (view) => {
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(view)) {
      if (value === null || value === undefined || value === "") continue;
      given.set(name, typeof value === "boolean" ? Number(value) : value);
    }
    const text = given.toString();
    return text ? `?${text}` : "";
  };

  const change = (changes) => {
    const next = { ...(state.latest || state.view), ...changes };
    // As the server writes it: what is as usual is not in the view, nor in the address.
    for (const name of Object.keys(changes)) if (next[name] === state.defaults?.[name]) delete next[name];
    state.latest = next;
    setProps("view", { data: next });
  };

  const announce = (text) => {
    const place = document.getElementById("announce");
    if (place) place.textContent = text;
  };

  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
      announce(`${what} copied`);
    } catch {
      window.prompt(`Copy the ${what.toLowerCase()}:`, text);
    }
  };

  const idOf = (parts) => JSON.stringify(parts, Object.keys(parts).sort());

  // Controls whose component is new fire as well: only what differs from the view counts.
  const controlled = (values, checks, defaults) => {
    if (!state.latest) return none(); // the page has not said yet what it shows
    const context = window.dash_clientside.callback_context;
    const next = { ...state.latest };
    let changed = false;
    for (const entry of context.triggered) {
      const at = entry.prop_id.lastIndexOf(".");
      const name = JSON.parse(entry.prop_id.slice(0, at)).control;
      const value = entry.value;
      if (value === null || value === undefined) continue;
      if ((next[name] ?? defaults[name]) === value) continue;
      if (defaults[name] === value) delete next[name];
      else next[name] = value;
      changed = true;
      if (name === "model" || name === "text") {
        for (const field of ["rows", "cols", "lock", "start", "at"]) delete next[field];
        if (name === "model") for (const field of ["head", "other"]) delete next[field];
      }
    }
    if (!changed) return none();
    state.latest = next;
    return next;
  };

  // Scripts of single pages that follow the view. Not callbacks: Dash tells those without outputs apart by their inputs alone.
  const followers = [];

  const viewed = (view, defaults) => {
    if (!view) return;
    const given = view;
    const moved = state.view.head !== undefined && given.head !== state.view.head;
    Object.assign(state, { view: given, latest: given, defaults, path: window.location.pathname });
    const address = window.location.pathname + search(given);
    if (address !== window.location.pathname + window.location.search) {
      // Going back leads to the head before; a zoom is not a place of its own.
      window.history[moved ? "pushState" : "replaceState"](window.history.state, "", address);
    }
    for (const link of document.querySelectorAll('[id^="{\\"nav\\""]')) {
      const { nav } = JSON.parse(link.id);
      setProps({ nav }, { href: nav + search(given) });
    }
    for (const name of ["model", "text"]) setProps({ control: name }, { value: given[name] || defaults[name] });
    for (const follow of followers) follow(given);
  };

  // Going back within a page: Dash has not heard of the addresses that this script wrote.
  const back = () => {
    if (!state.defaults || window.location.pathname !== state.path) return; // Dash opens another page with its view
    const given = {};
    for (const [name, value] of new URLSearchParams(window.location.search)) {
      const usual = state.defaults[name];
      if (usual === undefined) continue;
      given[name] = typeof usual === "number" ? Number(value) : typeof usual === "boolean" ? value === "1" : value;
    }
    if (search(given) !== search(state.view)) setProps("view", { data: given });
  };
  window.addEventListener("popstate", back);

  // Dash gives the file field of an upload no name; it is there a moment after the page.
  const nameUploads = (tries) => {
    for (const field of document.querySelectorAll("input[type=file]:not([aria-label])")) field.setAttribute("aria-label", "A text file");
    if (tries) window.setTimeout(nameUploads, 100, tries - 1);
  };

  const opened = (views) => {
    nameUploads(20);
    if (!views.length) return none();
    state.latest = views[views.length - 1];
    return state.latest;
  };

  const placed = (place) => {
    state.place = place || null;
    window.dash_clientside.interp.markHead();
  };

  const saveFigure = (clicks) => {
    const context = window.dash_clientside.callback_context;
    const entry = context.triggered[0];
    if (!entry || !entry.value) return;
    const { panel, tool } = JSON.parse(entry.prop_id.slice(0, entry.prop_id.lastIndexOf(".")));
    const frame = document.getElementById(idOf({ panel, part: "graph" }));
    const graph = frame && (frame.classList.contains("js-plotly-plot") ? frame : frame.querySelector(".js-plotly-plot"));
    if (!graph) {
      announce("There is no figure to save yet");
      return;
    }
    const box = graph.getBoundingClientRect();
    window.Plotly.downloadImage(graph, { format: tool, filename: panel, width: box.width, height: box.height, scale: 2 });
    announce(`${panel}.${tool} saved`);
  };

  const moveHead = (layerStep, headStep) => {
    const place = state.place;
    if (!place) return;
    const layer = Math.min(place.layers - 1, Math.max(0, place.layer + layerStep));
    const head = Math.min(place.heads - 1, Math.max(0, place.head + headStep));
    placed({ ...place, layer, head });
    change({ head: `L${layer}H${head}`, rows: "", cols: "" });
    announce(`Head L${layer}H${head}`);
  };

  const isTyping = (element) =>
    element && (element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName) || element.closest("[role=listbox],[role=slider],[data-own-keys]"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (isTyping(document.activeElement) && document.activeElement.blur) document.activeElement.blur();
      else if ((state.view.lock ?? -1) >= 0) change({ lock: -1 });
      return;
    }
    if (isTyping(event.target)) return;
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search")?.focus();
    } else if (event.key === "?") {
      setProps("help", { opened: true });
    } else if (arrows[event.key] && ["/", "/head"].includes(window.location.pathname)) {
      event.preventDefault();
      moveHead(...arrows[event.key]);
    } else if (event.key === "Enter" && window.location.pathname === "/" && state.place && !event.target.closest("a, button, [tabindex='0']")) {
      const { layer, head } = state.place;
      setProps("go", { href: `/head${search({ ...state.view, head: `L${layer}H${head}` })}` });
    }
  });

  const scheme = () => {
    const root = document.documentElement;
    const tell = () => {
      const now = root.getAttribute("data-mantine-color-scheme") || "light";
      document.body.dataset.agThemeMode = now; // tables
      document.cookie = `interp_scheme=${now}; path=/; SameSite=Strict`;
      setProps("scheme", { data: now });
    };
    new MutationObserver(tell).observe(root, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    tell();
  };
  const waitForDash = () => {
    if (window.dash_clientside && window.dash_clientside.set_props && document.getElementById("announce")) scheme();
    else window.setTimeout(waitForDash, 50);
  };
  waitForDash();

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.interp = Object.assign(window.dash_clientside.interp || {}, {
    controlled,
    opened,
    viewed,
    placed,
    saveFigure,
    copied: (text) => {
      if (text) copy(text, "Python");
    },
    copyLink: (clicks) => {
      if (clicks) copy(window.location.href, "Link");
    },
    openHelp: (clicks) => {
      if (clicks) setProps("help", { opened: true });
    },
  });
  // For the scripts of single pages.
  window.interp = { change, announce, search, state, idOf, followers };
})();
Object.assign(window.dash_clientside.interp, {
  openHead: (click) => {
    const point = click && click.points && click.points[0];
    if (!point) return;
    const head = `L${point.y}H${point.x}`;
    window.dash_clientside.set_props("go", { href: `/head${window.interp.search({ ...window.interp.state.view, head })}` });
  },
});
