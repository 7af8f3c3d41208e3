// Redriving and purging.

import { Problem, get, poll, send } from "./api.js";
import { button, byId, h, onClick, problemText, setText, toast } from "./dom.js";
import { many, number } from "./time.js";

const EVERY = 700;

const WORDS = /** @type {const} */ ({
  redrive: {
    title: "Redrive",
    doing: "Redriving",
    did: "Redriven",
    what: "Their messages are sent on their way again under their ids; a letter goes once its messages are durable. Redriven twice, a message is stored once.",
  },
  purge: {
    title: "Purge",
    doing: "Purging",
    did: "Purged",
    what: "They are removed for good. What they hold is nowhere else.",
  },
});

export class Jobs {
  #ondone;
  #dialog = byId("confirm", HTMLDialogElement);
  #panel = byId("job");
  /** @type {Job | null} */
  #job = null;
  #dismissed = "";
  #shown = false;
  #poll = poll((signal) => this.#watch(signal), EVERY);

  /** @param {() => void} ondone letters have gone */
  constructor(ondone) {
    this.#ondone = ondone;
    onClick("job-cancel", () => void this.#cancel(), "letters-region");
    onClick(
      "job-dismiss",
      () => {
        this.#dismissed = this.#job?.id ?? "";
        this.#draw();
      },
      "letters-region",
    );
  }

  /** @param {boolean} shown */
  show(shown) {
    if (shown === this.#shown) return;
    this.#shown = shown;
    if (!shown) this.#poll.stop();
    else if (this.#job?.state === "running") this.#poll.start();
    else void this.#find();
  }

  /**
   * Counts what is meant, and asks whether to do it.
   *
   * @param {"redrive" | "purge"} action
   * @param {Wish} wish
   * @param {string} meant the same in words
   */
  async ask(action, wish, meant) {
    const { title, what } = WORDS[action];
    const words = h("div", {}, "Counting…");
    const problem = h("div", { class: "problem", role: "alert", hidden: true });
    const go = h(
      "button",
      { type: "submit", class: action === "purge" ? "danger" : "primary", disabled: true },
      title,
    );
    const leave = button({ onclick: () => this.#dialog.close() }, "Leave them");
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "confirm-title" }, `${title} ${meant}`),
      words,
      problem,
      h("div", { class: "actions end" }, leave, go),
    );
    this.#dialog.replaceChildren(form);
    this.#dialog.showModal();
    leave.focus();
    const fail = (/** @type {unknown} */ error) => {
      problem.hidden = false;
      problem.replaceChildren(problemText(Problem.of(error)));
    };
    /** @type {DryRun} */
    let dry;
    try {
      dry = await send("POST", `/v1/dead-letters/${action}`, { ...wish, dry_run: true });
    } catch (error) {
      words.replaceChildren();
      fail(error);
      return;
    }
    const letters = many(dry.letters, "letter");
    setText(go, `${title} ${letters}`);
    const reasons = Object.entries(dry.by_reason).map(([reason, count]) =>
      h("li", {}, `${number(count)} ${reason}`),
    );
    words.replaceChildren(
      h("p", {}, dry.letters === 0 ? "No letter is meant." : `${letters}:`),
      h("ul", {}, ...reasons),
      h("p", {}, what),
    );
    if (dry.letters === 0) return;
    if (action === "purge") words.append(typed(`purge ${dry.letters}`, go));
    else go.disabled = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      try {
        // What has died since it was counted stays.
        const began = await send("POST", `/v1/dead-letters/${action}`, { ...wish, as_of: dry.as_of });
        this.#dialog.close();
        // What has asked may have nothing more to ask for.
        byId("letters-region").focus({ preventScroll: true });
        this.#follow(began);
      } catch (error) {
        fail(error);
        // It may have begun all the same, and may have ended since.
        void this.#find(dry.as_of);
      }
    });
  }

  /**
   * Finds a job that is under way, whoever began it.
   *
   * @param {string} [since] one that began later is found although it has ended
   */
  async #find(since) {
    try {
      const { jobs } = await get("/v1/dead-letters/jobs");
      const found = jobs.find(
        (/** @type {Job} */ { state, began_at }) =>
          state === "running" || (since && Date.parse(began_at) >= Date.parse(since)),
      );
      if (found) this.#follow(found);
    } catch (error) {
      toast(`The jobs are not known: ${Problem.of(error).title}`);
    }
  }

  /** @param {Job} job */
  #follow(job) {
    this.#job = job;
    this.#draw();
    this.#poll.start();
  }

  /** @param {AbortSignal} signal */
  async #watch(signal) {
    if (!this.#job) return;
    try {
      this.#job = /** @type {Job} */ (await get(`/v1/dead-letters/jobs/${this.#job.id}`, {}, signal));
    } catch (error) {
      const problem = Problem.of(error);
      if (problem.status === 404) {
        // The process that ran it has ended, and the job with it.
        this.#poll.stop();
        this.#job = null;
        toast("The job has gone: the server was started again");
        this.#draw();
        this.#ondone();
        return;
      }
      throw error;
    }
    this.#draw();
    if (this.#job.state !== "running") {
      this.#poll.stop();
      toast(byId("job-title").textContent ?? "");
      this.#ondone();
    }
  }

  async #cancel() {
    if (!this.#job) return;
    try {
      await send("DELETE", `/v1/dead-letters/jobs/${this.#job.id}`);
      toast("It stops after the batch that is under way");
    } catch (error) {
      toast(Problem.of(error).title);
    }
  }

  #draw() {
    const job = this.#job;
    this.#panel.hidden = job === null || job.id === this.#dismissed;
    if (!job) return;
    const { action, state, total, done, unreadable, failed, changed, left, waiting, reasons } = job;
    const running = state === "running";
    const { doing, did } = WORDS[action];
    const heads = { running: doing, done: did, cancelled: `Cancelled; ${did.toLowerCase()}` };
    setText(byId("job-title"), `${heads[state]} ${number(done)} of ${number(total)}`);
    const progress = byId("job-progress", HTMLProgressElement);
    progress.max = Math.max(1, total);
    progress.value = Math.min(progress.max, total - left);
    const facts = [
      unreadable > 0 && `${number(unreadable)} stay: they cannot be read`,
      failed > 0 && `${number(failed)} stay: the broker does not take them`,
      changed > 0 && `${number(changed)} had died again or were gone`,
      left > 0 && `${number(left)} left`,
      waiting && `waits: ${waiting}`,
    ];
    setText(byId("job-facts"), facts.filter(Boolean).join(" · "));
    byId("job-reasons").replaceChildren(...reasons.map((reason) => h("li", {}, reason)));
    byId("job-cancel").hidden = !running;
    byId("job-dismiss").hidden = running;
  }
}

/**
 * Makes a field that has to be filled first.
 *
 * @param {string} wanted
 * @param {HTMLButtonElement} go
 */
function typed(wanted, go) {
  const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false", id: "typed" });
  input.addEventListener("input", () => {
    go.disabled = input.value.trim() !== wanted;
  });
  return h("p", {}, h("label", { for: "typed" }, "Type ", h("code", {}, wanted), " to go on: "), input);
}
