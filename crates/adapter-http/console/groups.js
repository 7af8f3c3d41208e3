// @ts-check
// The consumer groups, a card each: what they have counted, how fast, and what waits for them.

/** @import { Group } from "./types.js" */
import { Problem, get, poll } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { Sparkline } from "./chart.js";
import { SEVERITIES } from "./store.js";
import { duration, number, rate, short } from "./time.js";

const EVERY = 2_000;

export class Groups {
  #place = byId("groups");
  #note = byId("groups-note");
  /** @type {Map<string, { card: HTMLElement, line: Sparkline, parts: Record<string, HTMLElement> }>} */
  #cards = new Map();
  #poll = poll((signal) => this.#ask(signal), EVERY);

  /** @param {boolean} shown */
  show(shown) {
    if (shown) this.#poll.start();
    else this.#poll.stop();
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    try {
      const { groups } = await get("/v1/groups", {}, signal);
      this.#draw(groups);
      this.#place.classList.remove("stale");
      this.#note.hidden = groups.length > 0;
      setText(this.#note, "No consumer group runs.");
    } catch (error) {
      const problem = Problem.of(error);
      if (!signal.aborted) {
        this.#place.classList.add("stale");
        this.#note.hidden = false;
        setText(
          this.#note,
          problem.status === 404 ? "This server does not know the groups." : `${problem.title}.`,
        );
      }
      throw error;
    }
  }

  /** @param {Group[]} groups */
  #draw(groups) {
    if (groups.map(({ group }) => group).join() !== Array.from(this.#cards.keys()).join())
      this.#build(groups);
    for (const group of groups) {
      const found = this.#cards.get(group.group);
      if (!found) continue;
      const { parts, line, card } = found;
      const speed = SEVERITIES.reduce((sum, severity) => sum + group.per_second[severity], 0);
      setText(/** @type {HTMLElement} */ (parts.total), number(group.total));
      setText(/** @type {HTMLElement} */ (parts.rate), `${rate(speed)} /s`);
      setText(/** @type {HTMLElement} */ (parts.lag), lagText(group));
      setText(/** @type {HTMLElement} */ (parts.state), group.state === "consuming" ? "" : group.state);
      card.classList.toggle("behind", (group.lag?.packets ?? 0) > 0);
      card.classList.toggle("away", group.state !== "consuming");
      for (const severity of SEVERITIES) {
        const part = parts[severity];
        if (part) setText(part, short(group.received[severity]));
      }
      line.push(speed);
    }
  }

  /** @param {Group[]} groups */
  #build(groups) {
    this.#cards.clear();
    for (const { group, received } of groups) {
      const line = new Sparkline();
      /** @type {Record<string, HTMLElement>} */
      const parts = {
        total: h("span", { class: "total" }),
        rate: h("span", { class: "rate" }),
        lag: h("div", { class: "lag" }),
        state: h("span", { class: "state" }),
      };
      const counted = SEVERITIES.filter((severity) => selects(group, severity) || received[severity] > 0);
      const counts = counted.map((severity) => {
        const count = h("dd");
        parts[severity] = count;
        return h("div", { class: severity }, h("dt", {}, severity), count);
      });
      const card = h(
        "li",
        { class: "card" },
        h("div", { class: "head" }, h("h3", {}, group), parts.state ?? "", parts.total ?? ""),
        h("dl", { class: "counts" }, ...counts),
        h("div", { class: "foot" }, parts.lag ?? "", line.element, parts.rate ?? ""),
      );
      this.#cards.set(group, { card, line, parts });
    }
    this.#place.replaceChildren(...Array.from(this.#cards.values(), ({ card }) => card));
  }
}

/**
 * Tells whether a shipped group is known to count a severity; of others what they have counted tells it.
 *
 * @param {string} group
 * @param {string} severity
 */
const selects = (group, severity) => group === "all" || group.split("-").includes(severity);

/** @param {Group} group */
function lagText({ lag }) {
  if (!lag) return "its lag is not known";
  const { packets, messages, oldest_seconds: oldest } = lag;
  if (packets === 0) return "nothing waits";
  const what = messages === null ? `${number(packets)} packets wait` : `${number(messages)} messages wait`;
  return oldest ? `${what}, ${duration(oldest)}` : what;
}
