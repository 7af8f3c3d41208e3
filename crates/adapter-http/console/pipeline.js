// The strip, and the cards of the consumer groups.

import { get, poll } from "./api.js";
import { byId, h, refill, setText, svg } from "./dom.js";
import { niceTop } from "./histogram.js";
import { SEVERITIES, total } from "./store.js";
import { duration, many, number, rate, short } from "./time.js";

const EVERY = 2_000;

const NAMES = /** @type {Record<string, string>} */ ({
  accepted: "Accepted",
  in_rabbitmq: "In RabbitMQ",
  queued: "Queued",
  stored: "Stored",
  dead: "Dead letters",
});

export class Pipeline {
  #place = byId("pipeline");
  #problem = byId("pipeline-problem");
  #lines = new Sparklines();

  /** @param {(letters: number | null) => void} ondead */
  constructor(ondead) {
    const ask = async (/** @type {AbortSignal} */ signal) => {
      /** @type {PipelineAnswer} */
      const answer = await get("/v1/pipeline", {}, signal);
      refill(
        this.#place,
        answer.stages.map((stage) => this.#stage(stage, answer)),
      );
      ondead(answer.stages.find(({ stage }) => stage === "dead")?.letters ?? null);
    };
    const polled = poll(ask, EVERY, (problem) => {
      // A server that does not know the pipeline will not learn of it.
      const unknown = problem?.status === 404;
      if (unknown) polled.stop();
      this.#place.hidden = unknown;
      this.#place.classList.toggle("stale", problem !== null);
      this.#problem.hidden = problem === null || unknown;
      if (problem) setText(this.#problem, `${problem.title}. What is shown is old.`);
    });
    polled.start();
  }

  /**
   * @param {Stage} stage
   * @param {PipelineAnswer} answer
   */
  #stage(stage, { missing, in_flight }) {
    const { figure, unit, note, reading } = figures(stage, in_flight);
    const unknown = missing.find((other) => other.stage === stage.stage);
    const words = unknown ? `${unknown.reason}; ${unknown.hint}` : note;
    const state = figure === null ? "unknown" : stage.letters ? "alarm" : "";
    return h(
      "li",
      {
        class: `stage ${stage.stage} ${state}`,
        "data-key": stage.stage,
        title: words,
      },
      h(
        "div",
        { class: "words" },
        h("div", { class: "name" }, NAMES[stage.stage] ?? stage.stage),
        h("div", { class: "figure" }, figure ?? "—", h("small", {}, figure === null ? "" : unit)),
        h("div", { class: "note" }, words),
      ),
      this.#lines.draw(stage.stage, reading),
    );
  }
}

/**
 * @param {Stage} stage
 * @param {PipelineAnswer["in_flight"]} inFlight
 * @returns {{ figure: string | null, unit: string, note: string, reading: number | null }}
 */
function figures(
  { stage, letters, in_spools, messages, packets, total: counts, per_second, duplicates, spooled },
  { at_least: least, at_most: most },
) {
  if (stage === "dead") {
    const reading = letters ?? null;
    const more = in_spools ? `${short(in_spools)} more in spools` : "";
    const note = more || (letters ? "look at them" : letters === 0 ? "none" : "");
    return { figure: reading === null ? null : short(reading), unit: "", note, reading };
  }
  if (stage === "in_rabbitmq" || stage === "queued") {
    const reading = messages ?? packets ?? null;
    const unit = `${typeof messages === "number" ? " message" : " packet"}${reading === 1 ? "" : "s"}`;
    const note = least === null ? "" : `${least === most ? "" : "at least "}${number(least)} in flight`;
    return { figure: reading === null ? null : short(reading), unit, note, reading };
  }
  const all = counts ? number(total(counts)) : null;
  const waiting = spooled ? `, ${short(spooled)} spooled` : "";
  const note =
    all === null ? "" : `${all} in all${duplicates ? `, ${short(duplicates)} duplicates` : ""}${waiting}`;
  if (typeof per_second === "number")
    return { figure: rate(per_second), unit: " /s", note, reading: per_second };
  return { figure: all, unit: "", note, reading: null };
}

export class Groups {
  #place = byId("groups");
  #note = byId("groups-note");
  #shown = false;
  #lines = new Sparklines();
  #poll = poll(
    async (signal) => this.#draw(await get("/v1/groups", {}, signal)),
    EVERY,
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

  /** @param {GroupsAnswer} answer */
  #draw({ groups, missing = [] }) {
    this.#say(groups.length > 0 ? missing.join(". ") : "No consumer group runs.");
    refill(
      this.#place,
      groups.map((group) => this.#card(group)),
    );
  }

  /** @param {Group} group */
  #card({ group, state, received, total: all, per_second, lag, unacknowledged: held }) {
    const speed = per_second && total(per_second);
    // What the shipped groups count is known; what others have counted tells it.
    const counted = SEVERITIES.filter(
      (severity) => received?.[severity] || group === "all" || group.split("-").includes(severity),
    );
    return h(
      "li",
      { class: lag && lag.packets > 0 ? "card behind" : "card", "data-key": group },
      h(
        "div",
        { class: "head" },
        h("h3", {}, group),
        h("span", { class: "state" }, state === "consuming" ? "" : state),
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
        this.#lines.draw(group, speed),
        h("span", { class: "rate" }, speed === null ? "" : `${rate(speed)} /s`),
      ),
      h(
        "div",
        { class: "foot held" },
        !held ? "not known what is unacknowledged" : `${held.packets ? amount(held) : "none"} unacknowledged`,
      ),
    );
  }
}

/** @param {Group["lag"]} lag */
function lagText(lag) {
  if (!lag) return "its lag is not known";
  if (lag.packets === 0) return "nothing waits";
  const { oldest_seconds: oldest } = lag;
  return `${amount(lag)} waiting${oldest ? `, ${duration(oldest)}` : ""}`;
}

/** @param {{ packets: number, messages: number | null }} what */
function amount({ packets, messages }) {
  return messages === null ? many(packets, "packet") : many(messages, "message");
}

/** How many readings a line has: two minutes. */
const MOST = 60;

const WIDTH = 96;
const HEIGHT = 24;

class Sparklines {
  /** @type {Map<string, (number | null)[]>} */
  #readings = new Map();

  /**
   * Draws the line of something, with a reading more.
   *
   * @param {string} name
   * @param {number | null} reading
   */
  draw(name, reading) {
    const readings = [...(this.#readings.get(name) ?? []), reading].slice(-MOST);
    this.#readings.set(name, readings);
    const { line, area } = sparkPaths(readings, MOST, WIDTH, HEIGHT);
    return svg(
      "svg",
      {
        class: "sparkline",
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      svg("path", { class: "area", d: area }),
      svg("path", { class: "line", d: line }),
    );
  }
}

/**
 * Draws readings back from the right edge; what is not known breaks the line.
 *
 * @param {(number | null)[]} readings
 * @param {number} most
 * @param {number} width
 * @param {number} height
 */
export function sparkPaths(readings, most, width, height) {
  const top = niceTop(Math.max(0, ...readings.map((reading) => reading ?? 0)));
  const step = width / (most - 1);
  const start = width - (readings.length - 1) * step;
  let [line, area] = ["", ""];
  for (const [n, reading] of readings.entries()) {
    if (reading === null) continue;
    const x = (start + n * step).toFixed(1);
    const y = (height - 1 - (reading / top) * (height - 3)).toFixed(1);
    const [first, last] = [n - 1, n + 1].map((beside) => typeof readings[beside] !== "number");
    line += `${first ? "M" : "L"}${x} ${y}`;
    area += `${first ? `M${x} ${height}` : ""}L${x} ${y}${last ? `L${x} ${height}Z` : ""}`;
  }
  return { line, area };
}
