// @ts-check
// The way of a message, as a strip: accepted, in the queue, stored, or dead.

/** @import { Counts, Pipeline as Answer, Stage } from "./types.js" */
import { Problem, get, poll } from "./api.js";
import { byId, h, present, setText } from "./dom.js";
import { Sparkline } from "./chart.js";
import { SEVERITIES } from "./store.js";
import { duration, number, rate, short } from "./time.js";

const EVERY = 2_000;

const NAMES = /** @type {Record<string, string>} */ ({
  accepted: "Accepted",
  in_rabbitmq: "In RabbitMQ",
  queued: "Queued",
  stored: "Stored",
  dead: "Dead letters",
});

/** @param {Counts | null | undefined} counts */
const sum = (counts) => (counts ? SEVERITIES.reduce((all, severity) => all + counts[severity], 0) : null);

/**
 * One stage on the page.
 *
 * @typedef {object} Box
 * @property {HTMLElement} element
 * @property {HTMLElement} figure
 * @property {HTMLElement} note
 * @property {Sparkline} line
 */

export class Pipeline {
  #place = byId("pipeline");
  /** @type {Map<string, Box>} */
  #boxes = new Map();
  #ondead;

  /** @param {(letters: number | null) => void} ondead */
  constructor(ondead) {
    this.#ondead = ondead;
    poll((signal) => this.#ask(signal), EVERY).start();
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    try {
      this.#show(await get("/v1/pipeline", {}, signal));
      this.#place.classList.remove("stale");
      byId("pipeline-problem").hidden = true;
    } catch (error) {
      const problem = Problem.of(error);
      if (!signal.aborted) {
        this.#place.classList.add("stale");
        byId("pipeline-problem").hidden = false;
        setText(byId("pipeline-problem"), `${problem.title}. What is shown is old.`);
      }
      throw error;
    }
  }

  /** @param {Answer} answer */
  #show({ stages, missing }) {
    const names = stages.map(({ stage }) => stage);
    if (names.join() !== Array.from(this.#boxes.keys()).join()) this.#build(names);
    for (const stage of stages) {
      const box = this.#boxes.get(stage.stage);
      if (!box) continue;
      const unknown = missing.find((other) => other.stage === stage.stage);
      const { figure, unit, note, reading } = figures(stage);
      box.figure.replaceChildren(figure ?? "—", h("small", {}, figure === null ? "" : unit));
      setText(box.note, unknown ? unknown.reason : note);
      box.element.title = unknown ? `${unknown.reason}; ${unknown.hint}` : note;
      box.element.classList.toggle("unknown", figure === null);
      box.element.classList.toggle("alarm", stage.stage === "dead" && (stage.letters ?? 0) > 0);
      box.line.push(reading);
      if (stage.stage === "dead") this.#ondead(stage.letters ?? null);
    }
  }

  /** @param {string[]} names */
  #build(names) {
    this.#boxes.clear();
    for (const name of names) {
      const line = new Sparkline();
      const figure = h("div", { class: "figure" });
      const note = h("div", { class: "note" });
      const element = h(
        "li",
        { class: `stage ${name}` },
        h("div", { class: "words" }, h("div", { class: "name" }, NAMES[name] ?? name), figure, note),
        line.element,
      );
      this.#boxes.set(name, { element, figure, note, line });
    }
    this.#place.replaceChildren(...present(Array.from(this.#boxes.values(), ({ element }) => element)));
  }
}

/**
 * Says what is to be read at a stage.
 *
 * @param {Stage} stage
 * @returns {{ figure: string | null, unit: string, note: string, reading: number | null }}
 */
function figures(stage) {
  if (stage.stage === "dead") {
    const letters = stage.letters ?? null;
    const note = letters ? "look at them" : letters === 0 ? "none" : "";
    return { figure: letters === null ? null : short(letters), unit: "", note, reading: letters };
  }
  if (stage.stage === "in_rabbitmq" || stage.stage === "queued") {
    const messages = stage.messages ?? null;
    const waiting = messages ?? stage.packets ?? null;
    const age = stage.oldest_seconds ? `the oldest for ${duration(stage.oldest_seconds)}` : "";
    return {
      figure: waiting === null ? null : short(waiting),
      unit: messages === null ? " packets" : " messages",
      note: waiting === 0 ? "nothing waits" : age,
      reading: waiting,
    };
  }
  const all = sum(stage.total);
  const speed = stage.per_second ?? null;
  const twice = stage.duplicates ? `, ${short(stage.duplicates)} duplicates` : "";
  return {
    figure: speed !== null ? rate(speed) : all === null ? null : number(all),
    unit: speed === null ? "" : " /s",
    note: all === null ? "" : `${number(all)} in all${twice}`,
    reading: speed,
  };
}
