/* The token view: hover a token, see where it looks and who looks at it. What it is given: interp/views/token_payload.py.

   interpTokenView.mount(element, payload, options) -> {update(payload), lock(position), unlock(), hideSpecial(isHiding), destroy()}

   options.onJump(position)  called when a key outside of the window is clicked; without, such keys are no buttons
   options.head              the name of the head that is shown first
   options.position          the token that is locked first

   Positions count the tokens of the text. The element is sent "interp:lock" with detail {position: number or null},
   "interp:head" with detail {head: name} and "interp:special" with detail {isHiding: whether special tokens are hidden}. Tokens are hostile: text goes in as textContent alone. */
(() => {
  "use strict";

  const STEPS = 255, NO_QUERY = 65535;
  const TICKS = [0, 0.04, 0.25, 1];
  const EXPLANATION =
    "Attention weight shows where a head reads, not why the model answers as it does: by itself it is no explanation.";
  let mounted = 0;

  function decoded(text, Type) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return new Type(bytes.buffer);
  }

  function made(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  function weightText(weight) {
    if (weight > 0 && weight < 0.001) return "<0.001";
    return weight.toFixed(3);
  }

  const numberText = (value) => value.toLocaleString("en-US");

  /* One head: its arrays, decoded when it is first looked at. */
  class Head {
    constructor(given, tokens, top) {
      this.name = given.name;
      this.n = tokens;
      this.top = top;
      this.isPacked = given.is_packed;
      this.scale = given.scale;
      this.error = given.error;
      this.tile = decoded(given.tile, Uint8Array);
      this.keys = decoded(given.keys, Int32Array);
      this.keyStrings = decoded(given.key_strings, Int32Array);
      this.weights = decoded(given.weights, Float32Array);
      this.queries = decoded(given.queries, Uint16Array);
      this.queryWeights = decoded(given.query_weights, Float32Array);
      this.sums = decoded(given.sums, Float32Array);
      this.seen = decoded(given.seen, Uint16Array);
    }

    /* The square root of the weight of query i and key j of the window. */
    root(i, j) {
      if (this.isPacked && j > i) return 0;
      const step = this.tile[this.isPacked ? (i * (i + 1)) / 2 + j : i * this.n + j];
      return (step / STEPS) * Math.sqrt(this.scale);
    }

    sees(i, j) {
      return j >= this.seen[i] && j < this.seen[this.n + i];
    }

    sum(row, i) {
      return this.sums[row * this.n + i];
    }

    looksAt(i) {
      const found = [];
      for (let at = i * this.top; at < (i + 1) * this.top && this.keys[at] >= 0; at++) {
        found.push({ position: this.keys[at], string: this.keyStrings[at], weight: this.weights[at] });
      }
      return found;
    }

    lookedAtBy(j, start, tokens) {
      const found = [];
      for (let at = j * this.top; at < (j + 1) * this.top && this.queries[at] !== NO_QUERY; at++) {
        const query = this.queries[at];
        found.push({ position: start + query, string: tokens[query], weight: this.queryWeights[at] });
      }
      return found;
    }
  }

  class InterpTokenView {
    #element;
    #options;
    #events = new AbortController();
    #id = `itv-${++mounted}-${Math.random().toString(36).slice(2, 8)}`;
    #payload;
    #heads;
    #head;
    #special;
    #tokens = [];
    #over = null; // the token under the pointer or with the focus, in the window
    #locked = null;
    #stop = 0; // the one token that Tab reaches
    #isBoth = false;
    #isHiding = false;
    #isFitted = false;
    #parts = {};

    constructor(element, payload, options = {}) {
      this.#element = element;
      this.#options = options;
      element.setAttribute("data-mounted", "");
      this.#build();
      this.update(payload, options.head);
      if (Number.isInteger(options.position)) this.lock(options.position);
    }

    /* ---- what others call */

    update(payload, head = this.#head?.name) {
      const locked = this.#locked === null ? null : this.#payload.start + this.#locked;
      this.#payload = payload;
      this.#special = new Set(payload.special);
      this.#heads = new Map();
      this.#over = null;
      const names = payload.heads.map((each) => each.name);
      this.#parts.select.replaceChildren(...names.map((name) => made("option", { value: name }, name)));
      this.#showHead(names.includes(head) ? head : payload.head);
      this.#parts.title.textContent = payload.title;
      this.#parts.window.textContent = payload.window;
      this.#parts.notes.replaceChildren(...payload.notes.map((note) => made("p", {}, note)));
      this.#parts.hiding.hidden = !payload.special.length;
      this.#layTokens();
      const index = locked === null ? null : locked - payload.start;
      this.#locked = index !== null && index >= 0 && index < this.#tokens.length ? index : null;
      if (locked !== null && this.#locked === null) this.#tell("interp:lock", { position: null });
      this.#stop = this.#locked ?? 0;
      this.#setStop(this.#stop);
      this.#paint();
    }

    lock(position) {
      const index = position - this.#payload.start;
      if (!(index >= 0 && index < this.#tokens.length) || index === this.#locked) return;
      this.#locked = index;
      this.#setStop(index);
      this.#tell("interp:lock", { position });
      this.#paint();
      this.#say(`locked. ${this.#inWords(index)}`);
    }

    unlock() {
      if (this.#locked === null) return;
      this.#locked = null;
      this.#tell("interp:lock", { position: null });
      this.#paint();
      this.#say("released");
    }

    hideSpecial(isHiding) {
      if (isHiding === this.#isHiding) return;
      this.#isHiding = isHiding;
      this.#parts.hide.checked = isHiding;
      this.#parts.root.classList.toggle("itv-hiding", isHiding);
      if (this.#locked !== null && this.#isHidden(this.#locked)) this.unlock();
      if (this.#over !== null && this.#isHidden(this.#over)) this.#over = null;
      if (this.#isHidden(this.#stop)) this.#setStop(Math.max(0, this.#next(-1, 1)));
      this.#tell("interp:special", { isHiding });
      this.#paint();
    }

    destroy() {
      this.#events.abort();
      this.#element.replaceChildren();
      this.#element.removeAttribute("data-mounted");
    }

    /* ---- what is built once */

    #build() {
      const id = (name) => `${this.#id}-${name}`;
      const p = this.#parts;
      p.title = made("strong", { class: "itv-title" });
      p.window = made("span", { class: "itv-window" });
      p.select = made("select", { id: id("head") });
      p.both = made("input", { type: "checkbox" });
      p.hide = made("input", { type: "checkbox" });
      p.hiding = made("label", {}, p.hide, "hide special tokens");
      p.scale = made(
        "select",
        { id: id("scale") },
        made("option", { value: "fixed" }, "from 0 to 1"),
        made("option", { value: "fitted" }, "fitted to the token"),
      );
      p.text = made("div", { class: "itv-text", role: "listbox", "aria-label": "Tokens of the text" });
      p.keys = made("ol", { class: "itv-list", "aria-labelledby": id("keys") });
      p.keysTitle = made("p", { class: "itv-subtitle", id: id("keys") });
      p.sums = made("p", { class: "itv-sums" });
      p.queries = made("ol", { class: "itv-list itv-from", "aria-labelledby": id("queries") });
      p.queriesTitle = made("p", { class: "itv-subtitle", id: id("queries") });
      p.received = made("p", { class: "itv-sums" });
      p.side = made(
        "div",
        { class: "itv-side", role: "group", "aria-label": "Links of the token" },
        ...[p.keysTitle, p.keys, p.sums, p.queriesTitle, p.queries, p.received],
      );
      p.row = this.#scaleOf("itv-row", "the token looks at it");
      p.column = this.#scaleOf("itv-column", "it looks at the token (in this window)");
      p.rounding = made("span", {});
      p.notes = made("div", {});
      p.status = made("div", { class: "itv-status", role: "status" });
      p.root = made(
        "div",
        // JupyterLab leaves the keys to what has this attribute.
        { class: "interp-token-view", "data-lm-suppress-shortcuts": "true" },
        made("div", { class: "itv-top" }, p.title, p.window),
        made(
          "div",
          { class: "itv-controls" },
          made("label", {}, "head ", p.select),
          made("label", {}, p.both, "who looks at it, too"),
          p.hiding,
          made("label", {}, "colours ", p.scale),
        ),
        made("div", { class: "itv-body" }, p.text, p.side),
        made("div", { class: "itv-legend" }, p.row.element, p.column.element, "grey text: the mask hides it from the token"),
        made("p", { class: "itv-notes" }, p.rounding, " ", EXPLANATION),
        made("div", { class: "itv-notes" }, p.notes),
        p.status,
      );
      this.#element.replaceChildren(p.root);
      this.#listen();
    }

    #scaleOf(kind, words) {
      const ticks = TICKS.map((tick) => made("span", { style: `left: ${100 * Math.sqrt(tick)}%` }));
      const element = made(
        "div",
        { class: `itv-scale ${kind}` },
        made("span", { class: "itv-words" }, words),
        made("div", { class: "itv-gradient" }),
        made("div", { class: "itv-ticks" }, ...ticks),
      );
      return { element, ticks };
    }

    #listen() {
      const p = this.#parts;
      const on = (target, name, run) => target.addEventListener(name, run, { signal: this.#events.signal });
      const tokenOf = (event) => {
        const found = event.target.closest?.(".itv-token");
        return found ? this.#tokens.indexOf(found) : -1;
      };
      on(p.text, "pointerover", (event) => this.#hover(tokenOf(event)));
      on(p.text, "focusin", (event) => {
        const index = tokenOf(event);
        if (index < 0) return;
        this.#setStop(index);
        this.#hover(index);
        this.#say(this.#inWords(index));
      });
      on(p.text, "click", (event) => {
        const index = tokenOf(event);
        if (index >= 0) this.#toggle(index);
      });
      on(p.text, "keydown", (event) => this.#key(event));
      on(p.root, "keydown", (event) => {
        if (event.key !== "Escape" || (this.#locked === null && this.#over === null)) return;
        event.stopPropagation();
        if (this.#locked === null) this.#over = null;
        this.unlock();
        this.#paint();
      });
      on(p.select, "change", () => {
        this.#showHead(p.select.value);
        this.#tell("interp:head", { head: this.#head.name });
        this.#paint();
      });
      on(p.both, "change", () => {
        this.#isBoth = p.both.checked;
        this.#paint();
      });
      on(p.scale, "change", () => {
        this.#isFitted = p.scale.value === "fitted";
        this.#paint();
      });
      on(p.hide, "change", () => this.hideSpecial(p.hide.checked));
    }

    /* ---- tokens */

    #layTokens() {
      const { tokens, strings, start } = this.#payload;
      this.#tokens = tokens.map((place, index) => {
        const [, before, word, after] = /^( *)([^]*?)([ \n]*)$/.exec(strings[place]);
        const token = made(
          "span",
          {
            class: `itv-token${this.#special.has(place) ? " itv-special" : ""}`,
            role: "option",
            tabindex: "-1",
            "aria-selected": "false",
            "aria-label": `${start + index}: ${strings[place].trim() || "an empty piece"}`,
            dir: "auto",
          },
          before,
          made("span", { class: `itv-word${word ? "" : " itv-empty"}` }, word),
          after,
        );
        return token;
      });
      this.#parts.text.replaceChildren(...this.#tokens);
    }

    #isHidden(index) {
      return this.#isHiding && this.#special.has(this.#payload.tokens[index]);
    }

    /* The next shown token from ``index`` in a direction, -1 without any. */
    #next(index, step) {
      for (let at = index + step; at >= 0 && at < this.#tokens.length; at += step) {
        if (!this.#isHidden(at)) return at;
      }
      return -1;
    }

    #setStop(index) {
      this.#tokens[this.#stop]?.setAttribute("tabindex", "-1");
      this.#stop = index;
      this.#tokens[index]?.setAttribute("tabindex", "0");
    }

    #hover(index) {
      if (index < 0 || index === this.#over) return;
      this.#over = index;
      if (this.#locked === null) this.#paint();
    }

    #toggle(index) {
      this.#over = index;
      if (this.#locked === index) this.unlock();
      else this.lock(this.#payload.start + index);
    }

    #key(event) {
      const last = this.#tokens.length;
      const targets = {
        ArrowRight: () => this.#next(this.#stop, 1),
        ArrowLeft: () => this.#next(this.#stop, -1),
        Home: () => this.#next(-1, 1),
        End: () => this.#next(last, -1),
      };
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key in targets) {
        const target = targets[event.key]();
        if (target >= 0) this.#tokens[target].focus();
      } else if (event.key === "Enter" || event.key === " ") {
        this.#toggle(this.#stop);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    }

    #showHead(name) {
      const { heads, tokens, top } = this.#payload;
      if (!this.#heads.has(name)) {
        const given = heads.find((each) => each.name === name);
        this.#heads.set(name, new Head(given, tokens.length, top));
      }
      this.#head = this.#heads.get(name);
      this.#parts.select.value = name;
      this.#parts.rounding.textContent =
        `Weights are ${this.#payload.weighting}; the colour is their square root. Colours are rounded to ${STEPS} steps, which is ` +
        `wrong by at most ${this.#head.error.toPrecision(2)} here; the numbers of the lists are exact.`;
    }

    /* ---- what is drawn for the token that is looked at */

    #paint() {
      const active = this.#locked ?? this.#over;
      const head = this.#head;
      const n = this.#tokens.length;
      const rows = new Float64Array(n), columns = new Float64Array(n);
      let rowMost = 0, columnMost = 0;
      if (active !== null) {
        for (let j = 0; j < n; j++) {
          if (this.#isHidden(j)) continue;
          rows[j] = head.root(active, j);
          rowMost = Math.max(rowMost, rows[j]);
          if (!this.#isBoth) continue;
          columns[j] = head.root(j, active);
          columnMost = Math.max(columnMost, columns[j]);
        }
      }
      const rowTop = this.#isFitted && rowMost > 0 ? rowMost : 1;
      const columnTop = this.#isFitted && columnMost > 0 ? columnMost : 1;
      this.#tokens.forEach((token, j) => {
        token.style.setProperty("--itv-r", (rows[j] / rowTop).toFixed(3));
        token.style.setProperty("--itv-c", (columns[j] / columnTop).toFixed(3));
        token.classList.toggle("itv-keyed", rows[j] > 0);
        token.classList.toggle("itv-querying", columns[j] > 0);
        token.classList.toggle("itv-active", j === active);
        token.classList.toggle("itv-locked", j === this.#locked);
        const isApart = active !== null && j !== active && !head.sees(active, j) && !(this.#isBoth && head.sees(j, active));
        token.classList.toggle("itv-unseen", isApart);
        token.setAttribute("aria-selected", String(j === this.#locked));
      });
      this.#drawScale(this.#parts.row, rowTop * rowTop);
      this.#drawScale(this.#parts.column, columnTop * columnTop);
      this.#parts.column.element.hidden = !this.#isBoth;
      this.#list(active);
    }

    #drawScale(scale, top) {
      scale.ticks.forEach((tick, at) => {
        const value = TICKS[at] * top;
        tick.textContent = value === 0 ? "0" : String(Number(value.toPrecision(2)));
      });
    }

    #list(active) {
      const p = this.#parts;
      const isShown = active !== null;
      for (const part of [p.keys, p.sums]) part.hidden = !isShown;
      for (const part of [p.queries, p.queriesTitle, p.received]) part.hidden = !isShown || !this.#isBoth;
      if (!isShown) {
        p.keysTitle.textContent =
          "Hover a token, or tab to the text and use the arrow keys. A click or Enter locks it, a second one or Escape releases it.";
        return;
      }
      const { start, tokens } = this.#payload;
      const head = this.#head;
      const own = this.#word(tokens[active]);
      const state = this.#locked === null ? "" : " (locked; Escape releases)";
      p.keysTitle.replaceChildren(`${numberText(start + active)}: `, own, ` looks at${state}`);
      const keys = head.looksAt(active);
      const shown = keys.filter((link) => !this.#isHiding || !this.#special.has(link.string));
      p.keys.replaceChildren(...shown.map((link) => this.#item(link)));
      const parts = [`listed ${weightText(shown.reduce((sum, link) => sum + link.weight, 0))}`];
      if (shown.length < keys.length) {
        const rest = keys.filter((link) => !shown.includes(link));
        parts.push(`special tokens, hidden ${weightText(rest.reduce((sum, link) => sum + link.weight, 0))}`);
      }
      const [before, within, after, first] = [0, 1, 2, 3].map((row) => head.sum(row, active));
      if (start > 0) parts.push(`before this window ${weightText(before)}`);
      if (start + tokens.length < this.#payload.length && after > 0) parts.push(`after it ${weightText(after)}`);
      parts.push(`attention to the first token ${weightText(first)}`);
      const none = 1 - before - within - after;
      if (none > 0.001) parts.push(`to no key ${weightText(none)}`);
      p.sums.textContent = parts.join(" · ");
      if (!this.#isBoth) return;
      p.queriesTitle.textContent = "is looked at by, of the tokens of this window";
      const queries = head.lookedAtBy(active, start, tokens);
      const asking = queries.filter((link) => !this.#isHiding || !this.#special.has(link.string));
      p.queries.replaceChildren(...asking.map((link) => this.#item(link)));
      p.received.textContent = `all of them together ${weightText(head.sum(4, active))}`;
    }

    #word(place) {
      const text = this.#payload.strings[place].trim();
      return made("bdi", { class: `itv-word${text ? "" : " itv-empty"}` }, text);
    }

    #item(link) {
      const { start } = this.#payload;
      const index = link.position - start;
      const isOutside = index < 0 || index >= this.#tokens.length;
      const where = numberText(link.position);
      const { onJump } = this.#options;
      const word = this.#word(link.string);
      const label = isOutside ? `${where} outside` : where;
      const place = isOutside && !onJump ? made("span", { class: "itv-place" }, label) : made("button", { type: "button", class: "itv-place" }, label);
      if (place.tagName === "BUTTON") {
        place.setAttribute("aria-label", isOutside ? `show token ${where}, outside of this window` : `lock token ${where}`);
        place.addEventListener("click", () => (isOutside ? onJump(link.position) : this.#toggle(index)));
      }
      const item = made(
        "li",
        { class: isOutside ? "itv-outside" : null },
        made("span", { class: "itv-bar", "aria-hidden": "true" }),
        made("span", { class: "itv-weight" }, weightText(link.weight)),
        word,
        place,
      );
      item.style.setProperty("--itv-w", Math.min(1, link.weight).toFixed(4));
      if (!isOutside) {
        item.addEventListener("pointerenter", () => this.#tokens[index].classList.add("itv-pointed"));
        item.addEventListener("pointerleave", () => this.#tokens[index].classList.remove("itv-pointed"));
      }
      return item;
    }

    /* ---- what is said */

    #inWords(index) {
      const { start, tokens, strings } = this.#payload;
      const best = this.#head.looksAt(index)[0];
      const most = best
        ? `looks most at ${strings[best.string].trim()}, token ${best.position}, ${weightText(best.weight)}`
        : "looks at no token";
      return `${start + index}: ${strings[tokens[index]].trim()} ${most}`;
    }

    #say(words) {
      this.#parts.status.textContent = words;
    }

    #tell(name, detail) {
      this.#element.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
    }
  }

  function mount(element, payload, options) {
    const view = new InterpTokenView(element, payload, options);
    return {
      update: (next) => view.update(next),
      lock: (position) => view.lock(position),
      unlock: () => view.unlock(),
      hideSpecial: (isHiding) => view.hideSpecial(isHiding),
      destroy: () => view.destroy(),
    };
  }

  window.interpTokenView = { mount };
})();
