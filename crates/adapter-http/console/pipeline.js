// @ts-check
// The way of a message, as a strip: accepted, in the queue, stored, or dead.

/** @import { Pipeline as Answer, Stage } from "./types.js" */
import { get, poll } from "./api.js";
import { Sparkline } from "./chart.js";
import { byId, h, setText } from "./dom.js";
import { total } from "./store.js";
import { duration, number, rate, short } from "./time.js";

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
  /** @type {Map<string, Sparkline>} */
  #lines = new Map();

  /** @param {(letters: number | null) => void} ondead */
  constructor(ondead) {
    const ask = async (/** @type {AbortSignal} */ signal) => {
      /** @type {Answer} */
      const { stages, missing } = await get("/v1/pipeline", {}, signal);
      this.#place.replaceChildren(...stages.map((stage) => this.#stage(stage, missing)));
      ondead(stages.find(({ stage }) => stage === "dead")?.letters ?? null);
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
   * @param {Answer["missing"]} missing
   */
  #stage(stage, missing) {
    const { figure, unit, note, reading } = figures(stage);
    const unknown = missing.find((other) => other.stage === stage.stage);
    const line = this.#lines.get(stage.stage) ?? new Sparkline();
    this.#lines.set(stage.stage, line);
    line.push(reading);
    const state = figure === null ? "unknown" : stage.letters ? "alarm" : "";
    return h(
      "li",
      {
        class: `stage ${stage.stage} ${state}`,
        title: unknown ? `${unknown.reason}; ${unknown.hint}` : note,
      },
      h(
        "div",
        { class: "words" },
        h("div", { class: "name" }, NAMES[stage.stage] ?? stage.stage),
        h("div", { class: "figure" }, figure ?? "—", h("small", {}, figure === null ? "" : unit)),
        h("div", { class: "note" }, unknown?.reason ?? note),
      ),
      line.element,
    );
  }
}

/**
 * @param {Stage} stage
 * @returns {{ figure: string | null, unit: string, note: string, reading: number | null }}
 */
function figures({
  stage,
  letters,
  in_spools,
  messages,
  packets,
  oldest_seconds: oldest,
  total: counts,
  per_second,
  duplicates,
  spooled,
}) {
  if (stage === "dead") {
    const reading = letters ?? null;
    const more = in_spools ? `${short(in_spools)} more in spools` : "";
    const note = more || (letters ? "look at them" : letters === 0 ? "none" : "");
    return { figure: reading === null ? null : short(reading), unit: "", note, reading };
  }
  if (stage === "in_rabbitmq" || stage === "queued") {
    const reading = messages ?? packets ?? null;
    const unit = `${messages === null || messages === undefined ? " packet" : " message"}${reading === 1 ? "" : "s"}`;
    const note = reading === 0 ? "nothing waits" : oldest ? `the oldest for ${duration(oldest)}` : "";
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
