"use strict";
// When a panel asks the server: once for what of the view it draws from, and while that is being made again, one question at a time.
(function () {
  const PAUSE = 400; // milliseconds from an answer to the next question
  const none = () => window.dash_clientside.no_update;

  const same = (left, right) => String(left) === String(right);

  // A field that the view leaves out, or holds empty, has its default.
  const valued = (name, view, defaults) => {
    const value = view[name];
    return value === undefined || value === null || value === "" ? defaults[name] : value;
  };

  const isShown = (shown, wanted, dark, defaults) =>
    Boolean(shown && shown.view) && shown.dark === dark &&
    Object.entries(wanted).every(([name, value]) => same(valued(name, shown.view, defaults), value));

  const latest = {}; // the last question of each panel: {key, count}
  const timers = {}; // of the next one

  const askPanel = (view, scheme, shown, asked, { id, depends, button }, defaults) => {
    if (!view) return none();
    const dark = scheme === "dark";
    const wanted = Object.fromEntries(depends.map((name) => [name, valued(name, view, defaults)]));
    const next = { key: JSON.stringify([wanted, dark]), count: (asked ? asked.count : 0) + 1 };
    if (button && !(shown && shown.view)) return none(); // nothing was begun
    if (isShown(shown, wanted, dark, defaults) && shown.is_done) return none();
    if (asked && asked.key === next.key) return none();
    latest[id.panel] = next;
    window.dash_clientside.set_props({ panel: id.panel, part: "body" }, { "aria-busy": "true" }); // until the answer says otherwise
    return next;
  };

  // Every panel whose last question got an answer that is not the last one asks again. By what all of them show, not by which one
  // has changed: Dash may pass over a call where another follows at once. No input of askPanel: Dash takes no circles.
  const waitPanels = (shown, asked, wants) => {
    wants.forEach(({ id }, at) => {
      const now = shown[at];
      if (!now || !now.view || now.is_done) return;
      const last = asked[at] || { count: 0 };
      if (now.answers !== last.count) return; // the last question is under way
      window.clearTimeout(timers[id.panel]);
      timers[id.panel] = window.setTimeout(() => {
        if (latest[id.panel] && latest[id.panel].key !== last.key) return; // something else was asked since
        const next = { key: last.key, count: last.count + 1 };
        latest[id.panel] = next;
        window.dash_clientside.set_props(id, { data: next });
      }, PAUSE);
    });
  };

  // What surrounds the page, see shell_callbacks.py.
  const AROUND = ["model", "text", "head", "detector"];
  const askAround = (view, asked, defaults) => {
    if (!view) return none();
    const next = JSON.stringify(AROUND.map((name) => valued(name, view, defaults)));
    return asked === next ? none() : next;
  };

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.interp = Object.assign(window.dash_clientside.interp || {}, { askPanel, waitPanels, askAround });
})();
