"use strict";
// A replayed trial, one token of the answer at a time: the server sends all steps at once (retrieval_steps.py), the view holds the
// step. Tokens are hostile: text goes in as textContent alone.
(function () {
  const REST = 250; // milliseconds after which a step is written into the address: keys are held down
  const BEAT = 800; // milliseconds of a step that is played
  let shown = null; // {place, data, step, parts}
  let waiting = 0, playing = 0;

  const made = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const last = () => shown.data.steps.length - 1;
  const within = (step) => Math.max(0, Math.min(last(), step));

  const stop = () => {
    window.clearInterval(playing);
    playing = 0;
    if (shown) shown.parts.play.textContent = "Play";
  };

  const draw = (step) => {
    const { data, parts } = shown;
    shown.step = step;
    const { writing, recall, heads, shade } = data.steps[step];
    parts.range.value = String(step);
    parts.range.setAttribute("aria-valuetext", `step ${step + 1} of ${last() + 1}, writes ${data.new[step]}`);
    parts.back.disabled = step === 0;
    parts.on.disabled = step === last();
    parts.count.textContent = `step ${step + 1} of ${last() + 1}`;
    parts.new.forEach((token, at) => {
      token.className = at < step ? "" : at === step ? "replay-now" : "replay-later";
    });
    parts.recall.textContent = `Recall by now ${recall.toFixed(0)} % of “${data.asked}”; written: “${writing}”`;
    const weights = new Map(shade);
    parts.strip.forEach((token, at) => {
      const weight = weights.get(at) || 0;
      token.style.setProperty("--replay-weight", Math.sqrt(weight).toFixed(3));
      token.title = weight ? `${weight.toFixed(3)} at most` : "";
      const labels = heads
        .map((head, number) => (head.at === at ? made("span", { class: "replay-label" }, `${head.mark}${data.heads[number]}`) : null))
        .filter(Boolean);
      parts.labels[at].replaceChildren(...labels);
    });
    heads.forEach((head, number) => {
      const cells = parts.rows[number];
      const texts = head.position < 0
        ? ["nothing", "", "", "", `${head.copied}`]
        : [`${head.mark} ${head.token}`.trim(), head.position.toLocaleString("en-US"), head.weight.toFixed(3), head.on_answer.toFixed(3), `${head.copied} of ${step + 1}`];
      texts.forEach((text, column) => (cells[column].textContent = text));
    });
  };

  // What the view is to hold; at once in the page, a moment later in the address.
  const go = (step) => {
    draw(within(step));
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      waiting = 0;
      if (shown && document.contains(shown.place)) window.interp.change({ step: shown.step });
    }, REST);
  };

  const play = () => {
    if (playing) {
      stop();
      return;
    }
    if (shown.step === last()) go(0);
    shown.parts.play.textContent = "Pause";
    playing = window.setInterval(() => {
      if (!document.contains(shown.place) || shown.step === last()) stop();
      else go(shown.step + 1);
    }, BEAT);
  };

  const button = (text, label, run) => {
    const element = made("button", { type: "button", "aria-label": label }, text);
    element.addEventListener("click", run);
    return element;
  };

  const build = (place, data) => {
    const parts = {
      back: button("←", "The step before", () => go(shown.step - 1)),
      on: button("→", "The next step", () => go(shown.step + 1)),
      play: button("Play", "Play or pause the steps", play),
      range: made("input", { type: "range", min: "0", max: String(data.steps.length - 1), step: "1", "aria-label": "Step of the replay" }),
      count: made("span", { class: "replay-count" }),
      recall: made("p", { class: "token-text" }),
      new: data.new.map((token) => made("span", {}, token)),
      labels: data.strip.map(() => made("span", {})),
      rows: data.heads.map(() => Array.from({ length: 5 }, (_, column) => made("td", column ? {} : { class: "token-text" }))),
    };
    parts.strip = data.strip.map(([token, part]) => made("span", { class: `replay-token ${part && `replay-${part}`}`.trim() }, token));
    parts.range.addEventListener("input", () => go(Number(parts.range.value)));
    const titles = ["head", "looks most at", "position", "weight", "on the answer", "copied so far"];
    const body = data.heads.map((name, number) => made("tr", {}, made("th", { scope: "row" }, name), ...parts.rows[number]));
    const table = made("table", {}, made("thead", {}, made("tr", {}, ...titles.map((each) => made("th", { scope: "col" }, each)))), made("tbody", {}, ...body));
    const text = parts.strip.flatMap((token, at) => [token, parts.labels[at]]);
    place.replaceChildren(
      made("div", { class: "replay-controls", role: "group", "aria-label": "Steps of the replay" }, parts.back, parts.range, parts.on, parts.play, parts.count),
      made("div", { class: "replay-new token-text" }, ...parts.new),
      parts.recall,
      made("div", { class: "replay-strip token-text" }, data.before ? "…" : "", ...text, data.after ? "…" : ""),
      table,
    );
    return parts;
  };

  const showSteps = (data) => {
    const place = document.getElementById("replay-place");
    if (!data || !place) return "replay";
    if (shown) stop();
    window.clearTimeout(waiting);
    waiting = 0;
    if (!data.steps.length) {
      shown = null;
      place.textContent = "Nothing was written.";
      return "replay";
    }
    const wanted = window.interp.state.view.step ?? 0;
    shown = { place, data, step: 0, parts: build(place, data) };
    draw(within(wanted));
    // A step that this trial has not is not one of the address either.
    if (shown.step !== wanted) window.interp.change({ step: shown.step });
    return "replay";
  };

  window.interp.followers.push((view) => {
    if (!shown || waiting || !document.contains(shown.place)) return;
    const step = within(view.step ?? 0);
    if (step !== shown.step) draw(step);
  });
  Object.assign(window.dash_clientside.interp, { showSteps });
})();
