"use strict";
// A click on a token of the list makes its output the one that is explained.
document.addEventListener("click", (event) => {
  const token = event.target.closest && event.target.closest("[data-jump]");
  if (!token) return;
  const at = Number(token.dataset.jump);
  window.interp.change({ at });
  window.dash_clientside.set_props({ control: "at" }, { value: at });
  window.interp.announce(`Output of token ${at}`);
});
