// The messages behind the list: what is stored, and what comes now.

import { Problem, backoff, get, isAbort } from "./api.js";
import { Rows, Waiting, beside, gapRow, highest, lowest, messageRow } from "./rows.js";
import { isLive, listed } from "./store.js";
import { Tail } from "./tail.js";
import { instant, timeOfId } from "./time.js";

/** How many rows there are at most, and how many messages wait. */
const MOST_ROWS = 5_000;

/** How many messages one request asks for; enough for two screens. */
const PAGE = 200;

const MOST_PAGE = 1_000;

/** How many answers in a row may hold nothing before somebody has to ask for more. */
const MOST_EMPTY = 10;

/**
 * When the store is first asked again after the tail has begun, milliseconds: what was on its way to it has arrived by then, as
 * a rule. And how often, longer apart each time, before that is a gap.
 */
const SETTLED = 1_500;
const MOST_LOOKS = 7;

/** The first pause before another try, milliseconds. */
const FIRST_PAUSE = 1_000;

/** @returns {Direction} */
const direction = (after = "", done = false) => ({ after, done, busy: false, empty: 0, reached: "" });

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
  /** The message that the tail told last. */
  #told = "";
  /** The newest message of the first page, and the first one that the tail has brought. */
  #edge = "";
  #brought = "";
  /** Which of the looks behind the tail's beginning is the last one. */
  #looking = 0;

  /** @param {FeedHooks} hooks */
  constructor(hooks) {
    this.#hooks = hooks;
    this.#tail = new Tail({
      onmessage: (message) => {
        this.#brought ||= message.id;
        this.#told = message.id;
        this.#heard(messageRow(message), 1);
      },
      ongap: (gap) => {
        const until = Date.parse(gap.until);
        const here = this.rows.items.filter(({ key }) => key > this.#told && timeOfId(key) <= until);
        // They have come from the store meanwhile.
        if (gap.missed !== null) gap.missed = Math.max(0, gap.missed - here.length);
        if (gap.missed !== 0) this.#heard(gapRow(gap), gap.missed ?? 0);
      },
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
    this.#brought = "";
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
      // Until somebody asks for it.
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
      const { from, until } = row.gap;
      // A range does not hold its own end.
      const end = new Date(Date.parse(until) + 1).toISOString();
      const page = await this.#page("older", row.after, signal, { from, until: end, limit: MOST_PAGE });
      this.#gone(this.rows.merge(page.messages));
      row.after = page.next ?? "";
      // What was found stands behind it: what is left is older, or not stored yet.
      if (page.next === null && !row.gap.missed) this.rows.remove(row);
      this.#hooks.onproblem(null);
    } catch (error) {
      if (isAbort(error)) return;
      this.#hooks.onproblem(Problem.of(error));
    }
    row.busy = false;
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
      this.#edge = highest(this.rows.items);
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
      const { message } = await get(`/v1/messages/${encodeURIComponent(id)}`, {}, signal);
      const { from = "", until = "" } = this.#filter;
      const taken = timeOfId(id);
      // What is listed would not be beside it.
      if (taken < instant(from) || (until && taken >= instant(until))) this.#hooks.onoutside(message);
      const [before, after] = await Promise.all([
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
   * @param {Record<string, string | number>} [others]
   * @returns {Promise<Page>}
   */
  #page(way, after, signal, others) {
    const order = way === "older" ? "newest" : "oldest";
    return get("/v1/messages", { ...this.#filter, order, limit: PAGE, after, ...others }, signal);
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
   * @param {Row[]} rows
   * @param {string} [until] the highest id of others that have gone
   */
  #gone(rows, until = "") {
    const most = highest(rows, until);
    // Not from the lowest that is here: the two may overlap a little.
    if (most) this.older = direction(beside(most, 1n));
  }

  /**
   * @param {Row} row
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
    this.#looking += 1;
    this.#look(this.#looking, 1, signal);
  }

  /**
   * Looks later what was taken before the tail listened, and stored after the first page was read; again and again until the
   * store has what the tail brought first.
   *
   * @param {number} turn
   * @param {number} count
   * @param {AbortSignal} signal
   */
  #look(turn, count, signal) {
    const again = async () => {
      if (signal.aborted || turn !== this.#looking) return;
      if (await this.#settle(signal)) return;
      if (count < MOST_LOOKS) this.#look(turn, count + 1, signal);
      else if (!signal.aborted) this.#leaveGap();
    };
    setTimeout(again, SETTLED * 2 ** (count - 1));
  }

  /**
   * Reads back from the newest message to where the first page began.
   *
   * @param {AbortSignal} signal
   * @returns whether everything is here that was taken before the tail listened
   */
  async #settle(signal) {
    // Without the end of the list there is no place for them.
    if (!this.attached) return false;
    let [latest, after] = ["", ""];
    try {
      do {
        const { messages, next } = await this.#page("older", after, signal, { limit: MOST_PAGE });
        if (signal.aborted || !this.attached) return false;
        latest ||= messages[0]?.id ?? "";
        // What is older than the oldest row is for those who scroll there.
        const first = (!this.older.done && this.rows.first?.key) || "";
        this.#gone(this.rows.merge(messages.filter(({ id }) => id > first)));
        this.#hooks.onrows();
        const last = messages.at(-1)?.id ?? "";
        after = last > this.#edge && last > first ? (next ?? "") : "";
      } while (after);
    } catch {
      // It is tried again.
      return false;
    }
    return this.#brought !== "" && latest >= this.#brought;
  }

  /** Marks the place before what the tail brought first: the store did not come as far in time. */
  #leaveGap() {
    const { items } = this.rows;
    const place = items.findIndex(({ key }) => key === this.#brought);
    if (place < 0) return;
    const from = new Date(timeOfId(this.#edge || this.#brought) - 5_000).toISOString();
    const until = new Date(timeOfId(this.#brought)).toISOString();
    items.splice(place, 0, gapRow({ from, until, missed: null, reason: "store_behind" }));
    this.#hooks.onrows();
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
