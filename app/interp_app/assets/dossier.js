"use strict";
// The passages of a head's dossier: mounts the widget of interp.dossiers (window.interpPassages) on what the server sent.
(function () {
  const showDossier = (payload) => {
    const place = document.getElementById("dossier-place");
    if (payload && place) window.interpPassages.mount(place, payload);
    return "interp-passages";
  };

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.interp = Object.assign(window.dash_clientside.interp || {}, { showDossier });
})();
