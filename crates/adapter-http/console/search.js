// @ts-check
// What is looked for: the search box, the severities, the source, the range of time.

/** @import { Problem } from "./api.js" */
/** @import { State, Store } from "./store.js" */
/** @import { Counts, Severity } from "./types.js" */
import { button, byId, h, problemText, setText } from "./dom.js";
import { SEVERITIES, preferences, severities, severityText } from "./store.js";
import { RANGES, clock, fromInput, instant, short, toInput } from "./time.js";

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
  /** @type {HTMLInputElement} */
  #query = byId("q");
  /** @type {HTMLInputElement} */
  #source = byId("source");
  /** @type {HTMLSelectElement} */
  #range = byId("range");
  /** @type {HTMLInputElement} */
  #from = byId("from");
  /** @type {HTMLInputElement} */
  #until = byId("until");
  #custom = byId("custom");
  #error = byId("search-error");
  #help = byId("syntax");
  #helpButton = byId("syntax-toggle");
  /** @type {(State & { zone: string }) | undefined} */
  #shown;
  /** @type {Map<Severity, { chip: HTMLButtonElement, count: HTMLElement }>} */
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
    for (const input of [this.#from, this.#until])
      input.addEventListener("change", () => this.#timesChosen());
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
    // What somebody is typing stays, whatever else changes meanwhile.
    const before = this.#shown;
    this.#shown = { ...state, zone };
    if (before?.q !== state.q) this.#query.value = state.q;
    if (before?.source !== state.source) this.#source.value = state.source;
    if (before?.from !== state.from || before.until !== state.until || before.zone !== zone)
      this.#drawTimes(state);
    const chosen = severities(state.severity);
    for (const [severity, { chip }] of this.#chips) {
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
    this.#from.value = Number.isNaN(from) ? "" : toInput(from, zone);
    this.#until.value = Number.isNaN(until) || state.until === "" ? "" : toInput(until, zone);
    setText(byId("zone-of-range"), zone === "utc" ? "UTC" : "local time");
  }

  /** @param {Counts | null} counts */
  showCounts(counts) {
    for (const [severity, { count }] of this.#chips) setText(count, counts ? short(counts[severity]) : "");
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
    if (ofQuery && problem.column > 0) this.#point(problem);
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
    this.#store.set({ q: this.#query.value.trim(), source: this.#source.value.trim(), open: "" });
  }

  #rangeChosen() {
    if (this.#range.value !== "custom") {
      this.#store.set({ from: this.#range.value, until: "", part: "", open: "" });
      return;
    }
    this.#custom.hidden = false;
    this.#from.focus();
  }

  #timesChosen() {
    const { zone } = preferences;
    const from = fromInput(this.#from.value, zone);
    const until = fromInput(this.#until.value, zone);
    if (from) this.#store.set({ from, until, part: "", open: "" });
  }

  #drawChips() {
    for (const severity of SEVERITIES) {
      const count = h("span", { class: "count" });
      const onclick = () => {
        const chosen = severities(this.#store.state.severity);
        if (!chosen.delete(severity)) chosen.add(severity);
        this.#store.set({ severity: severityText(chosen), open: "" });
      };
      const chip = button({ class: `chip ${severity}`, onclick }, severity, count);
      this.#chips.set(severity, { chip, count });
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
    this.#help.hidden = !shown;
    this.#helpButton.setAttribute("aria-expanded", String(shown));
  }
}
