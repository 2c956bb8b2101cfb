"use strict";
// The list of texts to compare on is asked for anew when its field is entered: texts come from other pages and browsers.
document.addEventListener("focusin", (event) => {
  if (event.target.id === window.interp.idOf({ control: "against" })) {
    window.dash_clientside.set_props("against-asked", { data: Date.now() });
  }
});
