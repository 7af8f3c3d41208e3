// What is looked for, and which sources there are.

import { get, poll } from "./api.js";
import { button, byId, h, problemText, refill, setText } from "./dom.js";
import { SEVERITIES, listed, preferences, severities, severityText, total } from "./store.js";
import { RANGES, clock, fromInput, instant, number, short, toInput } from "./time.js";

/** What can be typed, in the words of the help. */
const SYNTAX = /** @type {const} */ ([
  ["declined", "the body has this word in it, in whatever case"],
  ['"card declined"', "the body has these words in it, one after the other"],
  ["order=42", "an attribute has this value"],
  ["http.status!=200", "an attribute has another value, or is not there"],
  ["severity>=error", "this severity or a graver one"],
  ["source:billing.#", "this source and all beneath it; * stands for one segment"],
  ["-refund", "a minus asks for the opposite of any term"],
]);

export class Search {
  #store;
  #query = byId("q", HTMLInputElement);
  #source = byId("source", HTMLInputElement);
  #range = byId("range", HTMLSelectElement);
  #from = byId("from", HTMLInputElement);
  #until = byId("until", HTMLInputElement);
  #custom = byId("custom");
  #error = byId("search-error");
  #help = byId("syntax");
  #helpButton = byId("syntax-toggle");
  /** @type {(State & { zone: string }) | undefined} */
  #shown;
  /** @type {Map<Severity, HTMLElement>} */
  #chips = new Map();

  /** @param {Store} store */
  constructor(store) {
    this.#store = store;
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#apply();
    });
    this.#source.addEventListener("change", () => this.#apply());
    // The cross in a field of type search.
    this.#query.addEventListener("search", () => {
      if (this.#query.value === "") this.#apply();
    });
    this.#helpButton.addEventListener("click", () => this.#toggleHelp(this.#help.hasAttribute("hidden")));
    this.#range.addEventListener("change", () => this.#rangeChosen());
    // Not at every digit of a year.
    for (const input of [this.#from, this.#until]) {
      input.addEventListener("blur", () => this.#timesChosen());
      input.addEventListener("keydown", ({ key }) => key === "Enter" && this.#timesChosen());
    }
    this.#drawChips();
    this.#drawHelp();
    this.update(store.state);
  }

  focus() {
    this.#query.focus();
    this.#query.select();
  }

  /** Puts the help away; tells whether it was there. */
  closeHelp() {
    const shown = !this.#help.hasAttribute("hidden");
    this.#toggleHelp(false);
    return shown;
  }

  /** @param {State} state */
  update(state) {
    const { zone } = preferences;
    // What somebody is typing stays.
    const before = this.#shown;
    this.#shown = { ...state, zone };
    if (before?.q !== state.q) this.#query.value = state.q;
    if (before?.source !== state.source) this.#source.value = state.source;
    if (before?.from !== state.from || before.until !== state.until || before.zone !== zone)
      this.#drawTimes(state);
    const chosen = severities(state.severity);
    for (const [severity, chip] of this.#chips) {
      chip.setAttribute("aria-pressed", String(chosen.has(severity)));
      chip.classList.toggle("dimmed", chosen.size > 0 && !chosen.has(severity));
    }
    this.#drawPart(state);
  }

  /** @param {State} state */
  #drawTimes(state) {
    const { zone } = preferences;
    const preset = state.until === "" && RANGES.includes(state.from);
    this.#range.value = preset ? state.from : "custom";
    this.#custom.hidden = preset;
    const [from, until] = [instant(state.from), instant(state.until)];
    this.#from.value = this.#from.defaultValue = Number.isNaN(from) ? "" : toInput(from, zone);
    this.#until.value = this.#until.defaultValue =
      Number.isNaN(until) || state.until === "" ? "" : toInput(until, zone);
    setText(byId("zone-of-range"), zone === "utc" ? "UTC" : "local time");
  }

  /** @param {Counts | null} counts */
  showCounts(counts) {
    for (const [severity, { lastElementChild: count }] of this.#chips) {
      if (count) setText(count, counts ? short(counts[severity]) : "");
    }
  }

  /**
   * Points at what is wrong, if it is in here.
   *
   * @param {Problem | null} problem
   * @returns {boolean} whether it is
   */
  showProblem(problem) {
    const ours = problem !== null && problem.status === 400 && problem.parameter !== "after";
    const ofQuery = ours && problem.parameter === "q";
    this.#query.setAttribute("aria-invalid", String(ofQuery));
    this.#source.setAttribute("aria-invalid", String(ours && problem.parameter === "source"));
    this.#error.hidden = !ours;
    if (!ours) return false;
    this.#error.replaceChildren(problemText(problem));
    // Not into what somebody has typed since.
    if (ofQuery && problem.column > 0 && this.#query.value.trim() === this.#store.state.q)
      this.#point(problem);
    return true;
  }

  /** @param {Problem} problem */
  #point({ column, length }) {
    const characters = Array.from(this.#query.value);
    const start = Math.min(column - 1, characters.length);
    const end = Math.min(start + Math.max(1, length), characters.length);
    const faulty = characters.slice(start, end).join("") || " ";
    const [before, after] = [characters.slice(0, start).join(""), characters.slice(end).join("")];
    this.#error.prepend(
      h(
        "code",
        { class: "pointed" },
        before,
        h("em", { class: "fault" }, faulty),
        after,
        ` column ${column}`,
      ),
    );
    if (document.activeElement === this.#query) {
      this.#query.setSelectionRange(before.length, before.length + (end > start ? faulty.length : 0));
    }
  }

  #apply() {
    this.#store.set({ q: this.#query.value.trim(), source: this.#source.value.trim() });
  }

  #rangeChosen() {
    if (this.#range.value !== "custom") {
      this.#custom.hidden = true;
      this.#store.set({ from: this.#range.value, until: "", part: "" });
      return;
    }
    this.#custom.hidden = false;
    this.#from.focus();
  }

  #timesChosen() {
    const { zone } = preferences;
    const from = fromInput(this.#from.value, zone);
    const until = fromInput(this.#until.value, zone);
    const untouched = [this.#from, this.#until].every(({ value, defaultValue }) => value === defaultValue);
    if (from && !untouched) this.#store.set({ from, until, part: "" });
  }

  #drawChips() {
    for (const severity of SEVERITIES) {
      const onclick = () => {
        const chosen = severities(this.#store.state.severity);
        if (!chosen.delete(severity)) chosen.add(severity);
        this.#store.set({ severity: severityText(chosen) });
      };
      const chip = button({ class: `chip ${severity}`, onclick }, severity, h("span", { class: "count" }));
      this.#chips.set(severity, chip);
      byId("severities").append(chip);
    }
  }

  /** @param {State} state */
  #drawPart({ part }) {
    const [from, until] = part.split("/");
    const place = byId("part");
    place.hidden = !from || !until;
    if (!from || !until) return;
    const [first, last] = [clock(from, preferences.zone), clock(until, preferences.zone)];
    const day = first.date === last.date ? "" : `${last.date} `;
    setText(byId("part-text"), `${first.date} ${first.time.slice(0, 5)} – ${day}${last.time.slice(0, 5)}`);
  }

  #drawHelp() {
    const rows = SYNTAX.flatMap(([example, meaning]) => [
      h(
        "dt",
        {},
        button(
          {
            class: "example",
            title: "Put this into the search box",
            onclick: () => {
              this.#query.value = `${this.#query.value} ${example}`.trim();
              this.#query.focus();
            },
          },
          example,
        ),
      ),
      h("dd", {}, meaning),
    ]);
    byId("syntax-list").append(...rows);
  }

  /** @param {boolean} shown */
  #toggleHelp(shown) {
    if (this.#help.contains(document.activeElement)) this.#helpButton.focus();
    this.#help.hidden = !shown;
    this.#helpButton.setAttribute("aria-expanded", String(shown));
  }
}

/** How often the sources are asked for, milliseconds. */
const SOURCES_EVERY = 15_000;

/** How many sources are shown. */
const MOST_SOURCES = 40;

export class Sources {
  #store;
  #place = byId("sources");
  #note = byId("sources-note");
  #asked = "";
  #poll = poll(
    (signal) => this.#ask(signal),
    SOURCES_EVERY,
    (problem) => problem && setText(this.#note, "The sources are not known now."),
  );

  /** @param {Store} store */
  constructor(store) {
    this.#store = store;
  }

  /** @param {State} state */
  update(state) {
    const { from, until } = listed(state);
    const asked = [state.view, state.severity, from, until].join("\n");
    if (state.view !== "messages") this.#poll.stop();
    else if (asked !== this.#asked) this.#poll.start();
    this.#asked = asked;
    for (const choice of this.#place.querySelectorAll("button")) {
      choice.setAttribute("aria-pressed", String(choice.dataset.key === state.source));
    }
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    const { state } = this.#store;
    /** @type {{ sources: { source: string, counts: Counts }[], more: boolean }} */
    const answer = await get("/v1/sources", { severity: state.severity, ...listed(state) }, signal);
    const sources = answer.sources.sort((a, b) => total(b.counts) - total(a.counts));
    byId("source-names").replaceChildren(...sources.map(({ source }) => h("option", { value: source })));
    const hidden = sources.length - MOST_SOURCES;
    const rest = answer.more
      ? "There are more; type one."
      : hidden > 0
        ? `${number(hidden)} more; type one.`
        : "";
    setText(this.#note, sources.length === 0 ? "None in this range." : rest);
    refill(
      this.#place,
      sources.slice(0, MOST_SOURCES).map(({ source, counts }) => this.#item(source, counts)),
    );
  }

  /**
   * @param {string} source
   * @param {Counts} counts
   */
  #item(source, counts) {
    const all = total(counts);
    const grave = counts.error + counts.critical;
    const chosen = () => this.#store.state.source === source;
    return button(
      {
        "data-key": source,
        "aria-pressed": String(chosen()),
        onclick: () => this.#store.set({ source: chosen() ? "" : source }),
      },
      h("span", { class: "source" }, source),
      grave > 0 && h("span", { class: "count error" }, short(grave)),
      grave < all && h("span", { class: "count" }, short(all)),
    );
  }
}
