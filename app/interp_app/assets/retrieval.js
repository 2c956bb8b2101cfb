"use strict";
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.interp = Object.assign(window.dash_clientside.interp || {}, {
  // What follows the run is drawn by the callback that drew the run; Dash does not call one from a chain that it began,
  // so the chain ends here.
  runShown: (shown) => {
    window.setTimeout(() => {
      if (window.location.pathname !== "/retrieval") return;
      window.dash_clientside.set_props("retrieval-done", { data: Boolean(shown && shown.is_done) });
    }, 0);
  },
});
