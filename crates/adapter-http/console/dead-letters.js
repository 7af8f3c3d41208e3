// The page of dead letters.

import { Problem, get, poll, send } from "./api.js";
import { button, byId, copy, h, icon, onClick, problemText, refill, setText } from "./dom.js";
import { Jobs } from "./jobs.js";
import { field, wholeText } from "./row.js";
import { preferences } from "./store.js";
import { clock, full, instant, many, number, short, size } from "./time.js";

/** How many letters a page has, and how many are shown at most; jobs take as many ids. */
const PAGE = 100;
const MOST = 1_000;

/** How often they are counted, milliseconds. */
const EVERY = 4_000;

/** What kinds of fault there are, in words. */
const REASONS = /** @type {Record<string, string>} */ ({
  undecodable: "no message could be read from it",
  refused_by_store: "the store refused it",
  delivery_limit: "it was given up after too many deliveries",
});

export class DeadLetters {
  #store;
  /** @type {Letter[]} */
  #letters = [];
  /** @type {Set<string>} */
  #chosen = new Set();
  #next = /** @type {string | null} */ (null);
  #loaded = "";
  /** How many letters there are, and were when the list was read; -1 while that is not known. */
  #total = -1;
  #listed = -1;
  #abort = new AbortController();
  #rows = byId("letters");
  #problem = byId("letters-problem");
  #all = byId("choose-all", HTMLInputElement);
  #severity = byId("letter-severity", HTMLSelectElement);
  #source = byId("letter-source", HTMLInputElement);
  #when = byId("letter-when", HTMLSelectElement);
  #jobs;
  #poll = poll((signal) => this.#count(signal), EVERY);

  /** @param {Store} store */
  constructor(store) {
    this.#store = store;
    this.#jobs = new Jobs(() => this.#reload());
    onClick("redrive", () => void this.#jobs.ask("redrive", this.#wish(), this.#meant()));
    onClick("purge", () => void this.#jobs.ask("purge", this.#wish(), this.#meant()));
    onClick("letters-refresh", () => this.#reload());
    onClick("letters-more", () => void this.#load(this.#next), "letters-region");
    this.#all.addEventListener("change", () => {
      this.#chosen = new Set(this.#all.checked ? this.#letters.map(({ id }) => id) : []);
      for (const box of this.#rows.querySelectorAll("input")) box.checked = this.#all.checked;
      this.#drawChosen();
    });
    byId("letter-filter").addEventListener("submit", (event) => event.preventDefault());
    byId("letter-filter").addEventListener("change", (event) => this.#filtered(event));
    onClick(
      "letter-filter-clear",
      () => store.set({ reason: "", severity: "", source: "", since: "", before: "" }),
      "letter-source",
    );
  }

  /** @param {State} state */
  update(state) {
    const { view, reason, severity, source, since, before } = state;
    const wanted = view === "dead-letters" ? [reason, severity, source, since, before].join("\n") + "\n" : "";
    this.#jobs.show(wanted !== "");
    if (wanted !== this.#loaded) {
      this.#loaded = wanted;
      if (wanted) {
        this.#drawFilter(state);
        this.#reload();
      } else {
        this.#poll.stop();
        this.#abort.abort();
      }
    } else if (wanted) {
      this.#openRow(state.open);
    }
  }

  redraw() {
    if (this.#loaded) {
      this.#drawFilter(this.#store.state);
      this.#draw();
    }
  }

  /** @param {number} step */
  move(step) {
    const buttons = Array.from(this.#rows.querySelectorAll("button.disclose"));
    const at = buttons.indexOf(
      /** @type {Element} */ (document.activeElement?.closest("tr")?.querySelector(".disclose")),
    );
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, at + step))];
    if (next instanceof HTMLElement) next.focus();
  }

  /** Closes the open letter; tells whether there was one. */
  close() {
    const { open } = this.#store.state;
    if (open) this.#store.set({ open: "" }, "replace");
    return open !== "";
  }

  #filter() {
    const { reason, severity, source, since, before } = this.#store.state;
    // What is no time goes as it is: the server says what is wrong with it.
    const time = (/** @type {string} */ text) => {
      const at = text ? instant(text) : NaN;
      return Number.isNaN(at) ? text : new Date(at).toISOString();
    };
    const written = { reason, severity, source, since: time(since), until: time(before) };
    return Object.fromEntries(Object.entries(written).filter(([, value]) => value !== ""));
  }

  /**
   * What a job is to mean: the letters that are chosen, or else all that the filter means.
   *
   * @returns {Wish}
   */
  #wish() {
    if (this.#chosen.size > 0) return { ids: Array.from(this.#chosen) };
    return this.#isFiltered ? { filter: this.#filter() } : { all: true };
  }

  #reload() {
    this.#letters = [];
    this.#listed = -1;
    void this.#load(null);
    this.#poll.start();
  }

  /** @param {string | null} after */
  async #load(after) {
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const page = await get(
        "/v1/dead-letters",
        { ...this.#filter(), limit: PAGE, after: after ?? "" },
        signal,
      );
      // One that died again meanwhile has moved to the front, and may be here already.
      const known = new Set(this.#letters.map(({ id }) => id));
      const fresh = page.letters.filter((/** @type {Letter} */ { id }) => !known.has(id));
      this.#letters = after ? [...this.#letters, ...fresh] : page.letters;
      // Those that have gone are chosen no more.
      this.#chosen = new Set(this.#letters.map(({ id }) => id).filter((id) => this.#chosen.has(id)));
      this.#next = page.next;
      this.#problem.hidden = true;
      this.#draw();
    } catch (error) {
      if (signal.aborted) return;
      this.#problem.hidden = false;
      this.#problem.replaceChildren(problemText(Problem.of(error)));
    }
  }

  /** @param {AbortSignal} signal */
  async #count(signal) {
    const { reason, ...filter } = this.#filter();
    const dry = { dry_run: true, ...(Object.keys(filter).length > 0 ? { filter } : {}) };
    /** @type {DryRun} */
    const counts = await send("POST", "/v1/dead-letters/redrive", dry, signal);
    const chosen = new Set(reason ? reason.split(",") : []);
    // One that is chosen stays, so that it can be chosen no more.
    const none = Object.fromEntries(Array.from(chosen, (name) => [name, 0]));
    const reasons = Object.entries({ ...none, ...counts.by_reason }).sort(([, a], [, b]) => b - a);
    const meant = reasons.filter(([name]) => chosen.size === 0 || chosen.has(name));
    const total = meant.reduce((sum, [, count]) => sum + count, 0);
    setText(byId("letters-total"), many(total, "dead letter"));
    refill(
      byId("letter-reasons"),
      reasons.map(([name, count]) => this.#reasonChip(name, count, chosen.has(name))),
    );
    const changed = this.#listed >= 0 && total !== this.#listed;
    this.#total = total;
    // Rows that somebody reads, or chooses, stay where they are.
    const calm =
      this.#chosen.size === 0 &&
      !this.#store.state.open &&
      !this.#rows.contains(document.activeElement) &&
      this.#letters.length <= PAGE;
    if (changed && calm) void this.#load(null);
    byId("letters-changed").hidden = !changed || calm;
    if (!changed || calm) this.#listed = total;
    this.#drawChosen();
  }

  /**
   * @param {string} name
   * @param {number} count
   * @param {boolean} chosen
   */
  #reasonChip(name, count, chosen) {
    const onclick = () => {
      const next = new Set(this.#store.state.reason.split(",").filter(Boolean));
      if (!next.delete(name)) next.add(name);
      this.#store.set({ reason: Array.from(next).join(",") });
    };
    return button(
      { class: "chip", "data-key": name, "aria-pressed": String(chosen), title: REASONS[name], onclick },
      name,
      h("span", { class: "count" }, short(count)),
    );
  }

  /** @param {Event} event */
  #filtered({ target }) {
    const [since = "", before = ""] = this.#when.value.split("/");
    const times = target === this.#when ? { since, before } : {};
    this.#store.set({ severity: this.#severity.value, source: this.#source.value.trim(), ...times });
  }

  /** @param {State} state */
  #drawFilter({ reason, severity, source, since, before }) {
    choose(this.#severity, severity, severity);
    choose(
      this.#when,
      before ? `${since}/${before}` : since,
      `from ${since || "ever"} until ${before || "now"}`,
    );
    this.#source.value = source;
    byId("letter-filter-clear").hidden = [reason, severity, source, since, before].every(
      (part) => part === "",
    );
  }

  #draw() {
    this.#rows.replaceChildren(...this.#letters.map((letter) => this.#row(letter)));
    byId("letters-empty").hidden = this.#letters.length > 0;
    setText(
      byId("letters-empty"),
      this.#isFiltered ? "No dead letter is like this." : "No dead letter. What nobody can store comes here.",
    );
    byId("letters-table").hidden = this.#letters.length === 0;
    byId("letters-more").hidden = this.#next === null || this.#letters.length >= MOST;
    setText(
      byId("letters-shown"),
      this.#letters.length >= MOST ? `The first ${number(MOST)} are shown; a filter shows others.` : "",
    );
    this.#drawChosen();
    this.#openRow(this.#store.state.open);
  }

  /** @param {Letter} letter */
  #row(letter) {
    const { id, reason, detail, severity, source, attempts, bytes, last_at: died } = letter;
    const at = clock(died, preferences.zone);
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${id}` });
    box.checked = this.#chosen.has(id);
    box.addEventListener("change", () => {
      if (box.checked) this.#chosen.add(id);
      else this.#chosen.delete(id);
      this.#drawChosen();
    });
    const toggle = () => {
      if (!getSelection()?.isCollapsed) return;
      this.#store.set({ open: this.#store.state.open === id ? "" : id }, "replace");
    };
    return h(
      "tr",
      { class: `letter ${severity ?? ""}`, "data-id": id },
      h("td", { class: "choose" }, box),
      h(
        "td",
        { class: "when" },
        button(
          { class: "disclose", "aria-expanded": "false", "aria-label": `Details of ${id}`, onclick: toggle },
          icon("open"),
        ),
        h("time", { datetime: died }, h("span", { class: "date" }, `${at.date} `), at.time.slice(0, 8)),
      ),
      h("td", { class: "reason", title: REASONS[reason], onclick: toggle }, reason),
      h("td", { class: "severity" }, severity ?? "—"),
      h("td", { class: "source", onclick: toggle }, source ?? "—"),
      h("td", { class: "number" }, number(attempts)),
      h("td", { class: "number" }, size(bytes)),
      h("td", { class: "detail", onclick: toggle }, h("bdi", {}, detail)),
    );
  }

  #drawChosen() {
    const chosen = this.#chosen.size;
    this.#all.checked = chosen > 0 && chosen === this.#letters.length;
    this.#all.indeterminate = chosen > 0 && chosen < this.#letters.length;
    setText(byId("redrive"), `Redrive ${this.#meant()}…`);
    setText(byId("purge"), `Purge ${this.#meant()}…`);
    for (const id of ["redrive", "purge"]) {
      byId(id, HTMLButtonElement).disabled = chosen === 0 && this.#total <= 0;
    }
  }

  get #isFiltered() {
    return Object.keys(this.#filter()).length > 0;
  }

  /** Says what a job would mean. */
  #meant() {
    if (this.#chosen.size > 0) return `${number(this.#chosen.size)} chosen`;
    const count = this.#total > 0 ? ` ${number(this.#total)}` : "";
    return `all${count}${this.#isFiltered ? " of this filter" : ""}`;
  }

  /** @param {string} id */
  #openRow(id) {
    for (const row of this.#rows.querySelectorAll("tr.opened")) {
      if (/** @type {HTMLElement} */ (row).dataset.id === id) return;
      row.classList.remove("opened");
      const disclose = row.querySelector("button");
      const below = row.nextElementSibling;
      if (below?.contains(document.activeElement)) (disclose ?? byId("letters-region")).focus();
      below?.remove();
      if (disclose) disclose.setAttribute("aria-expanded", "false");
      else row.remove();
    }
    if (!id) return;
    const row = this.#rows.querySelector(`tr[data-id="${CSS.escape(id)}"]`);
    const place = h("td", { colspan: "8" }, "Fetching…");
    const below = h("tr", { class: "below" }, place);
    if (row) {
      row.classList.add("opened");
      row.querySelector(".disclose")?.setAttribute("aria-expanded", "true");
      row.after(below);
    } else {
      // A link to a letter that is not on this page of the list.
      const first = h("tr", { class: "opened", "data-id": id }, h("td", { colspan: "8" }, id));
      this.#rows.prepend(first, below);
      byId("letters-table").hidden = false;
    }
    void this.#show(id, place);
  }

  /**
   * @param {string} id
   * @param {HTMLElement} place
   */
  async #show(id, place) {
    try {
      /** @type {WholeLetter} */
      const letter = await get(`/v1/dead-letters/${encodeURIComponent(id)}`);
      place.replaceChildren(letterDetails(letter));
    } catch (error) {
      place.replaceChildren(problemText(Problem.of(error)));
    }
  }
}

/**
 * Shows a choice, also one that only an address makes.
 *
 * @param {HTMLSelectElement} select
 * @param {string} value
 * @param {string} text
 */
function choose(select, value, text) {
  if (!Array.from(select.options).some((option) => option.value === value)) {
    select.append(h("option", { value }, text));
  }
  select.value = value;
}

/** @param {WholeLetter} letter */
function letterDetails(letter) {
  const { zone } = preferences;
  const { text, base64, cut } = letter;
  const content = text ?? base64 ?? "";
  const facts = {
    detail: letter.detail,
    reason: letter.reason,
    died: full(letter.last_at, zone),
    "first seen": full(letter.first_at, zone),
    attempts: number(letter.attempts),
    "given up by": letter.queue,
    exchange: letter.exchange,
    "routing key": letter.routing_key,
    format: letter.message_type,
    encoding: letter.content_encoding,
    size: `${number(letter.bytes)} bytes`,
    id: letter.id,
  };
  return h(
    "div",
    { class: "details" },
    h(
      "div",
      { class: "actions", role: "group", "aria-label": "Dead letter" },
      button({ class: "small", onclick: () => void copy(location.href, "the link") }, "Copy link"),
      button({ class: "small", onclick: () => void copy(content, "the bytes") }, "Copy bytes"),
      text === null && h("span", { class: "quiet" }, "These bytes are no text; they are shown in base64."),
      cut && h("span", { class: "quiet" }, "Only the first 8 MiB are here."),
    ),
    wholeText(content, []),
    h(
      "dl",
      { class: "fields" },
      ...Object.entries(facts).flatMap(([name, value]) => (value ? field(name, value) : [])),
    ),
  );
}
