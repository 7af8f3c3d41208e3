// @ts-check
// Who has said something in this range of time, and how much of it.

/** @import { Counts } from "./types.js" */
/** @import { State, Store } from "./store.js" */
import { get, isAbort, poll } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { SEVERITIES, listed } from "./store.js";
import { number, short } from "./time.js";

const EVERY = 15_000;

/** How many are listed. */
const MOST = 40;

export class Sources {
  #store;
  #place = byId("sources");
  #names = byId("source-names");
  #note = byId("sources-note");
  #asked = "";
  #poll = poll((signal) => this.#ask(signal), EVERY);

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
    for (const button of this.#place.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.source === state.source));
    }
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    const { state } = this.#store;
    try {
      const answer = await get("/v1/sources", { severity: state.severity, ...listed(state) }, signal);
      this.#draw(answer.sources, answer.more);
    } catch (error) {
      if (!isAbort(error)) setText(this.#note, "The sources are not known now.");
      throw error;
    }
  }

  /**
   * @param {{ source: string, counts: Counts }[]} sources
   * @param {boolean} more
   */
  #draw(sources, more) {
    const counted = sources.map(({ source, counts }) => ({
      source,
      counts,
      count: SEVERITIES.reduce((sum, severity) => sum + counts[severity], 0),
    }));
    counted.sort((a, b) => b.count - a.count);
    const shown = counted.slice(0, MOST);
    this.#names.replaceChildren(...counted.map(({ source }) => h("option", { value: source })));
    const hidden = counted.length - shown.length;
    const rest = more ? "There are more; type one." : hidden > 0 ? `${number(hidden)} more; type one.` : "";
    setText(this.#note, counted.length === 0 ? "None in this range." : rest);
    this.#place.replaceChildren(
      ...shown.map(({ source, counts, count }) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              "data-source": source,
              "aria-pressed": String(source === this.#store.state.source),
              onclick: () => {
                const again = this.#store.state.source === source;
                this.#store.set({ source: again ? "" : source, open: "" });
              },
            },
            h("span", { class: "source" }, source),
            counts.error + counts.critical > 0 &&
              h("span", { class: "count error" }, short(counts.error + counts.critical)),
            h("span", { class: "count" }, short(count)),
          ),
        ),
      ),
    );
  }
}
