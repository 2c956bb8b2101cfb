/* Passages of a head dossier: hover a token, see which tokens it looks at and which look at it. What it is given:
   interp/dossiers/payload.py.

   interpPassages.mount(element, payload) -> {destroy()}

   Tokens are hostile: text goes in as textContent alone. */
(() => {
  "use strict";

  function made(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /* "\n" in a shown text ends a line. */
  function word(text) {
    const parts = text.split("\n").flatMap((part, at) => (at ? [made("br"), part] : [part]));
    return made("span", { class: "ipd-word" }, ...parts);
  }

  const told = (text) => text.replaceAll("\n", "") || "·";

  class Passage {
    constructor(given) {
      this.given = given;
      this.keys = new Map();
      this.queries = new Map();
      for (let at = 0; at < given.edges.length; at += 3) {
        const [query, key, weight] = [given.edges[at], given.edges[at + 1], given.edges[at + 2] / 1000];
        (this.keys.get(query) ?? this.keys.set(query, []).get(query)).push([key, weight]);
        (this.queries.get(key) ?? this.queries.set(key, []).get(key)).push([query, weight]);
      }
      this.locked = null;
      this.build();
    }

    build() {
      const { given } = this;
      this.tokens = given.tokens.map((text, at) => {
        const position = given.start + at;
        const token = made("span", { class: "ipd-token", tabindex: at ? "-1" : "0", role: "button", "aria-pressed": "false" }, word(text));
        token.setAttribute("aria-label", `token ${position}: ${told(text)}`);
        if (!text) token.classList.add("ipd-empty");
        return token;
      });
      this.text = made("div", { class: "ipd-text", role: "group", "aria-label": "tokens of the passage" }, ...this.tokens);
      this.line = made("p", { class: "ipd-line", "aria-live": "polite" });
      const title = made("p", { class: "ipd-title" }, made("b", {}, given.title), ` ${given.note}`);
      this.element = made("div", { class: "ipd-passage" }, title, this.text, this.line);
      const at = (event) => this.tokens.indexOf(event.target.closest(".ipd-token"));
      this.text.addEventListener("pointerover", (event) => this.locked === null && at(event) >= 0 && this.show(at(event)));
      this.text.addEventListener("pointerleave", () => this.locked === null && this.show(this.first()));
      this.text.addEventListener("focusin", (event) => this.locked === null && at(event) >= 0 && this.show(at(event)));
      this.text.addEventListener("click", (event) => at(event) >= 0 && this.lock(at(event)));
      this.text.addEventListener("keydown", (event) => this.pressed(event, at(event)));
      this.show(this.first());
    }

    /* The token that is shown first, in the middle of the passage's own scrolling box. */
    scroll() {
      const at = this.first();
      if (at !== null) this.text.scrollTop = this.tokens[at].offsetTop - this.text.clientHeight / 2;
    }

    /* What is shown when nothing is pointed at: the passage's strongest link. */
    first() {
      const { strongest, start } = this.given;
      return strongest === null ? null : strongest - start;
    }

    pressed(event, at) {
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.tokens.length - 1 };
      if (event.key === "Escape") this.lock(null);
      else if (event.key === "Enter" || event.key === " ") this.lock(at);
      else if (event.key in moves) {
        const to = Math.min(Math.max(moves[event.key], 0), this.tokens.length - 1);
        this.tokens[at].setAttribute("tabindex", "-1");
        this.tokens[to].setAttribute("tabindex", "0");
        this.tokens[to].focus();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    }

    lock(at) {
      this.locked = at === this.locked ? null : at;
      this.tokens.forEach((token, n) => token.setAttribute("aria-pressed", String(n === this.locked)));
      this.show(this.locked ?? at ?? this.first());
    }

    show(at) {
      for (const token of this.tokens) {
        token.classList.remove("ipd-active", "ipd-key", "ipd-query");
        token.style.removeProperty("--ipd-k");
        token.style.removeProperty("--ipd-q");
      }
      if (at === null) {
        this.line.textContent = "no link of this passage is strong enough to be kept";
        return;
      }
      const position = this.given.start + at;
      const keys = this.keys.get(position) ?? [];
      const queries = [...(this.queries.get(position) ?? [])].sort((a, b) => b[1] - a[1]);
      this.tokens[at].classList.add("ipd-active");
      this.colour(queries.filter(([query]) => query !== position), "ipd-query", "--ipd-q");
      this.colour(keys, "ipd-key", "--ipd-k");
      this.line.replaceChildren(
        made("b", {}, `${position} “${told(this.given.tokens[at])}”`),
        " looks at ", ...this.listed(keys), made("br"), "looked at by ", ...this.listed(queries.slice(0, 6)),
      );
    }

    colour(links, name, variable) {
      for (const [position, weight] of links) {
        const token = this.tokens[position - this.given.start];
        if (!token) continue;
        token.classList.add(name);
        token.style.setProperty(variable, String(Math.sqrt(weight)));
      }
    }

    listed(links) {
      if (!links.length) return ["nothing that was kept"];
      return links.flatMap(([position, weight], at) => {
        const inside = this.given.tokens[position - this.given.start];
        const text = inside ?? this.given.outside[position] ?? "";
        return [at ? " · " : "", `${position} “${told(text)}” `, made("span", { class: "ipd-weight" }, weight.toFixed(3))];
      });
    }
  }

  window.interpPassages = {
    mount(element, payload) {
      element.classList.add("interp-passages");
      const passages = payload.passages.map((given) => new Passage(given));
      element.replaceChildren(...passages.map((passage) => passage.element));
      element.setAttribute("data-mounted", "");
      for (const passage of passages) passage.scroll();
      return { destroy: () => element.replaceChildren() };
    },
  };
})();
