"use strict";
// The token strip: mounts the widget of interp.views (window.interpTokenView) on what the server sent, and keeps in the view which token
// is locked and whether special tokens are hidden.
(function () {
  const BEFORE = 64; // tokens that are shown before the one that is jumped to
  let strip = null; // {place, payload, view}
  let isUpdating = false;
  let locked = -1, isHiding = false; // as the view says

  const follow = () => {
    if (!strip) return;
    strip.view.hideSpecial(isHiding);
    if (locked >= 0) strip.view.lock(locked);
    else strip.view.unlock();
  };

  const page = (start) => window.interp.change({ start: Math.max(0, start) });

  const showStrip = (payload) => {
    const place = document.getElementById("strip-place");
    if (!payload || !place) return "token-strip";
    if (strip && strip.place !== place) {
      strip.view.destroy();
      strip = null;
    }
    if (strip) {
      // What the widget releases because its window moved is still locked in the view.
      isUpdating = true;
      strip.view.update(payload);
      isUpdating = false;
      strip.payload = payload;
    } else {
      const onJump = (position) => window.interp.change({ start: Math.max(0, position - BEFORE), lock: position });
      strip = { place, payload, view: window.interpTokenView.mount(place, payload, { onJump }) };
      place.addEventListener("interp:lock", (event) => {
        const position = event.detail.position ?? -1;
        if (isUpdating || position === locked) return;
        locked = position;
        window.interp.change({ lock: position });
      });
      place.addEventListener("interp:special", (event) => {
        if (event.detail.isHiding === isHiding) return;
        isHiding = event.detail.isHiding;
        // The lock once more: that of a token that is now hidden was released a moment ago, which the view has not heard of yet.
        window.interp.change({ special: !isHiding, lock: locked });
      });
    }
    follow();
    return "token-strip";
  };

  const lockStrip = (view) => {
    const control = window.interp.idOf({ control: "start" });
    if (document.getElementById(control)) window.dash_clientside.set_props({ control: "start" }, { value: view.start ?? 0 });
    locked = view.lock ?? -1;
    isHiding = view.special === false;
    if (strip && document.contains(strip.place)) follow();
  };

  const pageStrip = () => {
    const entry = window.dash_clientside.callback_context.triggered[0];
    if (!entry || !entry.value || !strip) return;
    const step = JSON.parse(entry.prop_id.slice(0, entry.prop_id.lastIndexOf(".")))["strip-page"];
    const { start, tokens, length } = strip.payload;
    const next = start + step * tokens.length;
    if (next < length && (step > 0 || start > 0)) page(next);
    else window.interp.announce(step > 0 ? "This is the end of the text" : "This is the beginning of the text");
  };

  const changeHead = () => {
    const entry = window.dash_clientside.callback_context.triggered[0];
    if (!entry || !entry.value) return;
    const head = JSON.parse(entry.prop_id.slice(0, entry.prop_id.lastIndexOf(".")))["open-head"];
    window.interp.change({ head, rows: "", cols: "" });
  };

  window.interp.followers.push(lockStrip);
  Object.assign(window.dash_clientside.interp, { changeHead, showStrip, pageStrip });
})();
