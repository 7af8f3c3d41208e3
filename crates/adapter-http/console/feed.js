// @ts-check
// The messages behind the list: pages of what is stored, in both directions, and at the end what comes now.

/** @import { GapRow } from "./rows.js" */
/** @import { State } from "./store.js" */
/** @import { Message, Page } from "./types.js" */
import { Problem, backoff, get, isAbort } from "./api.js";
import { Rows, Waiting, beside, gapRow, highest, lowest, messageRow } from "./rows.js";
import { isLive, listed } from "./store.js";
import { Tail } from "./tail.js";
import { timeOfId } from "./time.js";

/** How many rows there are at most, and how many messages wait to become some. */
const MOST_ROWS = 5_000;

/** How many messages one request asks for; enough for two screens. */
const PAGE = 200;

const MOST_PAGE = 1_000;

/** How many answers in a row may hold nothing, the time of each search being bounded, before somebody has to ask for more. */
const MOST_EMPTY = 10;

/**
 * When the store is asked again after the tail has begun, or begun again, milliseconds: what was on its way to it before the tail
 * listened has arrived by then.
 */
const SETTLED = 1_500;

/** The first pause before another try, milliseconds. */
const FIRST_PAUSE = 1_000;

/** @typedef {{ after: string, done: boolean, busy: boolean, empty: number, reached: string }} Direction */

/**
 * One direction of the list: where to go on, whether there is nothing more, how many answers in a row held nothing, and how
 * far was looked.
 *
 * @returns {Direction}
 */
const direction = (after = "", done = false) => ({ after, done, busy: false, empty: 0, reached: "" });

/**
 * @typedef {object} Hooks
 * @property {() => void} onrows rows have come or gone
 * @property {() => void} onwaiting messages wait
 * @property {(problem: Problem | null) => void} onproblem what is the matter, or no more
 * @property {(problem: Problem) => void} onmissing the message that should be open is not there
 * @property {(state: string, problem?: Problem) => void} ontail how the tail does
 */

export class Feed {
  rows = new Rows(MOST_ROWS);
  waiting = new Waiting(MOST_ROWS);
  older = direction();
  newer = direction();
  ready = false;
  /** Whether what comes now belongs to the list. */
  live = false;
  paused = false;
  /** How many messages the tail has brought. */
  heard = 0;
  #hooks;
  #tail;
  #abort = new AbortController();
  /** @type {Record<string, string>} */
  #filter = {};
  #failures = 0;
  #frame = 0;

  /** @param {Hooks} hooks */
  constructor(hooks) {
    this.#hooks = hooks;
    this.#tail = new Tail({
      onmessage: (message) => this.#heard(messageRow(message), 1),
      ongap: (gap) => this.#heard(gapRow(gap), gap.missed ?? 0),
      onstate: (state, problem) => this.#tailIs(state, problem),
    });
  }

  /** Whether the last row is followed by what comes now, and by nothing else. */
  get attached() {
    return this.live && this.ready && this.newer.done;
  }

  /**
   * Shows what the state asks for, from the beginning.
   *
   * @param {State} state
   */
  load(state) {
    const { severity, source, q } = state;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#filter = { severity, source, q, ...listed(state) };
    this.rows.clear();
    this.waiting.drain();
    this.ready = false;
    this.live = isLive(state);
    this.#failures = 0;
    if (this.live) this.#tail.start({ severity, source, q });
    else this.#tail.stop();
    void this.#first(state.open, this.#abort.signal);
  }

  stop() {
    this.#abort.abort();
    this.#tail.stop();
  }

  /** Lets in what has waited, and what comes from now on. */
  resume() {
    this.paused = false;
    this.#soon();
  }

  /** @param {"older" | "newer"} way */
  async more(way) {
    const { signal } = this.#abort;
    const at = this[way];
    if (!this.ready || at.busy || at.done || at.empty >= MOST_EMPTY) return;
    at.busy = true;
    try {
      do {
        this.#hooks.onrows();
        const page = await this.#page(way, at.after, signal);
        // Rows have gone at this end meanwhile: what follows them is something else.
        if (this[way] !== at) return;
        this.#take(way, page);
      } while (!at.done && at.empty > 0 && at.empty < MOST_EMPTY);
      this.#hooks.onproblem(null);
    } catch (error) {
      if (isAbort(error)) return;
      at.empty = MOST_EMPTY;
      this.#hooks.onproblem(Problem.of(error));
    } finally {
      at.busy = false;
    }
    if (!signal.aborted) this.#hooks.onrows();
  }

  /**
   * Looks on where much was looked at for nothing.
   *
   * @param {"older" | "newer"} way
   */
  further(way) {
    this[way].empty = 0;
    return this.more(way);
  }

  /**
   * Tells whether much was looked at for nothing.
   *
   * @param {"older" | "newer"} way
   */
  isTired(way) {
    return this[way].empty >= MOST_EMPTY && !this[way].busy;
  }

  /**
   * Fetches what a gap left out, as far as it is stored.
   *
   * @param {GapRow} row
   */
  async fill(row) {
    row.busy = true;
    this.#hooks.onrows();
    const { signal } = this.#abort;
    try {
      // A range does not hold its own end.
      const until = new Date(Date.parse(row.gap.until) + 1).toISOString();
      const wanted = { ...this.#filter, from: row.gap.from, until, order: "newest", limit: MOST_PAGE };
      /** @type {Page} */
      const page = await get("/v1/messages", wanted, signal);
      this.rows.remove(row);
      this.#gone(this.rows.merge(page.messages).gone);
      const last = page.messages.at(-1);
      if (page.next && last) {
        const rest = { ...row.gap, missed: null, until: new Date(timeOfId(last.id)).toISOString() };
        const place = this.rows.items.findIndex((other) => other.key === last.id);
        this.rows.items.splice(Math.max(0, place), 0, gapRow(rest));
      }
    } catch (error) {
      if (isAbort(error)) return;
      row.busy = false;
      this.#hooks.onproblem(Problem.of(error));
    }
    this.#hooks.onrows();
  }

  /**
   * Fetches the first page, again and again where that helps.
   *
   * @param {string} open the message that has to be among them
   * @param {AbortSignal} signal
   */
  async #first(open, signal) {
    this.older = direction();
    this.newer = direction("", true);
    this.older.busy = true;
    this.#hooks.onrows();
    try {
      if (!open || !(await this.#around(open, signal))) {
        const page = await this.#page("older", "", signal);
        this.#take("older", page);
      }
      this.ready = true;
      this.older.busy = false;
      this.#failures = 0;
      this.#hooks.onproblem(null);
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      const problem = Problem.of(error);
      this.older.busy = false;
      this.#hooks.onproblem(problem);
      if (problem.status === 0 || problem.status >= 500) {
        this.#failures += 1;
        setTimeout(() => !signal.aborted && this.#first(open, signal), backoff(this.#failures, FIRST_PAUSE));
      }
    }
    this.#hooks.onrows();
    this.#soon();
  }

  /**
   * Fetches a message, with what was before it and after it.
   *
   * @param {string} id
   * @param {AbortSignal} signal
   * @returns whether it is there
   */
  async #around(id, signal) {
    try {
      const [{ message }, before, after] = await Promise.all([
        get(`/v1/messages/${encodeURIComponent(id)}`, {}, signal),
        this.#page("older", id, signal),
        this.#page("newer", id, signal),
      ]);
      this.#take("older", before);
      this.rows.append([messageRow(message)]);
      this.newer = direction(id);
      this.#take("newer", after);
      return true;
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      this.#hooks.onmissing(error);
      return false;
    }
  }

  /**
   * @param {"older" | "newer"} way
   * @param {string} after
   * @param {AbortSignal} signal
   * @returns {Promise<Page>}
   */
  #page(way, after, signal) {
    const order = way === "older" ? "newest" : "oldest";
    return get("/v1/messages", { ...this.#filter, order, limit: PAGE, after }, signal);
  }

  /**
   * @param {"older" | "newer"} way
   * @param {Page} page
   */
  #take(way, page) {
    const found = page.messages.map(messageRow).filter(({ key }) => !this.rows.get(key));
    const at = this[way];
    at.after = page.next ?? "";
    at.done = page.next === null;
    at.empty = found.length > 0 ? 0 : at.empty + 1;
    at.reached = page.reached ?? "";
    if (way === "newer") {
      this.#gone(this.rows.append(found));
      return;
    }
    const least = lowest(this.rows.prepend(found.reverse()));
    if (least) this.newer = direction(beside(least, -1n));
  }

  /**
   * Has the older direction begin anew, because rows have gone at the beginning.
   *
   * @param {import("./rows.js").Row[]} rows
   * @param {string} [until] the highest id of others that have gone
   */
  #gone(rows, until = "") {
    const most = highest(rows, until);
    // From the highest that has gone, and not from the lowest that is here: the two may overlap a little.
    if (most) this.older = direction(beside(most, 1n));
  }

  /**
   * @param {import("./rows.js").Row} row
   * @param {number} count
   */
  #heard(row, count) {
    this.heard += count;
    this.waiting.push(row);
    this.#soon();
  }

  /** Lets in what waits with the next picture, however much comes until then. */
  #soon() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.paused || !this.attached) {
        this.#hooks.onwaiting();
        return;
      }
      if (this.waiting.count === 0) return;
      const { rows, missed, until } = this.waiting.drain();
      // What there was no room for is stored: who scrolls up from here meets it.
      if (missed > 0) this.rows.clear();
      this.#gone(this.rows.append(rows), until);
      this.#hooks.onrows();
    });
  }

  /**
   * @param {string} state
   * @param {Problem} [problem]
   */
  #tailIs(state, problem) {
    this.#hooks.ontail(state, problem);
    if (state !== "live") return;
    const { signal } = this.#abort;
    setTimeout(() => void this.#settle(signal), SETTLED);
  }

  /**
   * Finds what was taken before the tail listened, and stored after the first page was read.
   *
   * @param {AbortSignal} signal
   */
  async #settle(signal) {
    if (signal.aborted || !this.attached) return;
    try {
      /** @type {Page} */
      const page = await get("/v1/messages", { ...this.#filter, order: "newest", limit: MOST_PAGE }, signal);
      // What is older than the oldest row is for those who scroll there.
      const first = this.rows.first?.key ?? "";
      const late = page.messages.filter((message) => message.id > first);
      if (signal.aborted || !this.attached) return;
      this.#gone(this.rows.merge(late).gone);
      this.#hooks.onrows();
    } catch (error) {
      if (!isAbort(error)) this.#hooks.onproblem(Problem.of(error));
    }
  }
}

/**
 * Tells whether anything is stored at all, and of when the newest message is.
 *
 * @returns {Promise<Message | undefined>}
 */
export async function newest() {
  /** @type {Page} */
  const page = await get("/v1/messages", { limit: 1 });
  return page.messages[0];
}
