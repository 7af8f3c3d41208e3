// @ts-check
// What stands beside the list: the consumer groups, a card each, and who has said something in this range of time.

/** @import { State, Store } from "./store.js" */
/** @import { Counts, Group, Groups as Answer } from "./types.js" */
import { get, poll } from "./api.js";
import { Sparkline } from "./chart.js";
import { button, byId, h, refill, setText } from "./dom.js";
import { SEVERITIES, listed, total } from "./store.js";
import { duration, number, rate, short } from "./time.js";

const GROUPS_EVERY = 2_000;

export class Groups {
  #place = byId("groups");
  #note = byId("groups-note");
  #shown = false;
  /** @type {Map<string, Sparkline>} */
  #lines = new Map();
  #poll = poll(
    async (signal) => this.#draw(await get("/v1/groups", {}, signal)),
    GROUPS_EVERY,
    (problem) => {
      this.#place.classList.toggle("stale", problem !== null);
      if (problem?.status === 404) {
        this.#poll.stop();
        this.#say("This server does not know the groups.");
      } else if (problem) {
        this.#say(`${problem.title}.`);
      }
    },
  );

  /** @param {boolean} shown */
  show(shown) {
    if (shown === this.#shown) return;
    this.#shown = shown;
    if (shown) this.#poll.start();
    else this.#poll.stop();
  }

  /** @param {string} text */
  #say(text) {
    this.#note.hidden = text === "";
    setText(this.#note, text);
  }

  /** @param {Answer} answer */
  #draw({ groups, missing = [] }) {
    this.#say(groups.length > 0 ? missing.join(". ") : "No consumer group runs.");
    this.#place.replaceChildren(...groups.map((group) => this.#card(group)));
  }

  /** @param {Group} group */
  #card({ group, state, received, total: all, per_second, lag }) {
    const speed = per_second && total(per_second);
    const line = this.#lines.get(group) ?? new Sparkline();
    this.#lines.set(group, line);
    line.push(speed);
    // Of the shipped groups it is known what they count; of others, what they have counted tells it.
    const counted = SEVERITIES.filter(
      (severity) => received?.[severity] || group === "all" || group.split("-").includes(severity),
    );
    return h(
      "li",
      { class: lag && lag.packets > 0 ? "card behind" : "card" },
      h(
        "div",
        { class: "head" },
        h("h3", {}, group),
        state !== "consuming" && h("span", { class: "state" }, state),
        h("span", { class: "total" }, all === null ? "—" : number(all)),
      ),
      h(
        "dl",
        { class: "counts" },
        ...counted.map((severity) =>
          h(
            "div",
            { class: severity },
            h("dt", {}, severity),
            h("dd", {}, received ? short(received[severity]) : "—"),
          ),
        ),
      ),
      h(
        "div",
        { class: "foot" },
        h("span", { class: "lag" }, lagText(lag)),
        line.element,
        h("span", { class: "rate" }, speed === null ? "" : `${rate(speed)} /s`),
      ),
    );
  }
}

/** @param {Group["lag"]} lag */
function lagText(lag) {
  if (!lag) return "its lag is not known";
  const { packets, messages, oldest_seconds: oldest } = lag;
  if (packets === 0) return "nothing waits";
  const what = messages === null ? `${number(packets)} packets wait` : `${number(messages)} messages wait`;
  return oldest ? `${what}, ${duration(oldest)}` : what;
}

const SOURCES_EVERY = 15_000;

const MOST = 40;

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
    const hidden = sources.length - MOST;
    const rest = answer.more
      ? "There are more; type one."
      : hidden > 0
        ? `${number(hidden)} more; type one.`
        : "";
    setText(this.#note, sources.length === 0 ? "None in this range." : rest);
    refill(
      this.#place,
      sources.slice(0, MOST).map(({ source, counts }) => this.#item(source, counts)),
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
    return h(
      "li",
      {},
      button(
        {
          "data-key": source,
          "aria-pressed": String(chosen()),
          onclick: () => this.#store.set({ source: chosen() ? "" : source, open: "" }),
        },
        h("span", { class: "source" }, source),
        grave > 0 && h("span", { class: "count error" }, short(grave)),
        grave < all && h("span", { class: "count" }, short(all)),
      ),
    );
  }
}
