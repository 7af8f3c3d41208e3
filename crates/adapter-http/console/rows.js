// The rows of the list, oldest first, and what waits to become some; both are bounded.

/** @typedef {{ kind: "message", key: string, weight: number, message: Message }} MessageRow */
/** @typedef {{ kind: "gap", key: string, weight: number, gap: Gap, busy: boolean, after: string }} GapRow `after`: where to go on */
/** @typedef {MessageRow | GapRow} Row */

/** How much the rows of a list may hold, characters of their bodies and attributes. */
const MOST_WEIGHT = 32 << 20;

let gaps = 0;

/**
 * @param {Message} message
 * @returns {MessageRow}
 */
export const messageRow = (message) => {
  const weight = message.body.length + JSON.stringify(message.attributes).length;
  return { kind: "message", key: message.id, weight, message };
};

/**
 * @param {Gap} gap
 * @returns {GapRow}
 */
export const gapRow = (gap) => ({
  kind: "gap",
  key: `gap-${++gaps}`,
  weight: 0,
  gap,
  busy: false,
  after: "",
});

/**
 * Returns the highest id among messages; they come in the order of their ids only as a rule.
 *
 * @param {Row[]} rows
 * @param {string} [least]
 */
export const highest = (rows, least = "") =>
  rows.reduce((most, { kind, key }) => (kind === "message" && key > most ? key : most), least);

/**
 * Returns the lowest id among messages.
 *
 * @param {Row[]} rows
 */
export const lowest = (rows) =>
  rows.reduce((least, { kind, key }) => (kind === "message" && (!least || key < least) ? key : least), "");

/**
 * Returns the id that is so many further.
 *
 * @param {string} id
 * @param {1n | -1n} step
 */
export function beside(id, step) {
  const next = BigInt(`0x${id.replaceAll("-", "")}`) + step;
  return next
    .toString(16)
    .padStart(32, "0")
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Rows in order; of one message there is one. */
export class Rows {
  /** @type {Row[]} */
  items = [];
  /** @type {Map<string, Row>} */
  #known = new Map();
  #most;

  /** @param {number} most how many there may be */
  constructor(most) {
    this.#most = most;
  }

  clear() {
    this.items = [];
    this.#known.clear();
  }

  /** @param {string} key */
  get(key) {
    return this.#known.get(key);
  }

  get first() {
    return this.items.find((row) => row.kind === "message");
  }

  /**
   * Adds rows at the end; what is too much goes at the beginning.
   *
   * @param {Row[]} rows
   * @returns {Row[]} what went
   */
  append(rows) {
    for (const row of this.#new(rows)) this.items.push(row);
    return this.#forget(this.items.splice(0, this.#excess(this.items)));
  }

  /**
   * Adds rows at the beginning; what is too much goes at the end.
   *
   * @param {Row[]} rows
   * @returns {Row[]} what went
   */
  prepend(rows) {
    this.items = [...this.#new(rows), ...this.items];
    return this.#forget(this.items.splice(this.items.length - this.#excess(this.items.toReversed())));
  }

  /**
   * Adds messages where their ids, which sort by time, belong.
   *
   * @param {Message[]} messages
   * @returns {{ added: number, gone: Row[] }}
   */
  merge(messages) {
    const fresh = this.#new(messages.map(messageRow)).sort((a, b) => (a.key < b.key ? -1 : 1));
    /** @type {Row[]} */
    const merged = [];
    let next = 0;
    for (const row of this.items) {
      if (row.kind === "message") {
        for (; next < fresh.length && /** @type {Row} */ (fresh[next]).key < row.key; next++) {
          merged.push(/** @type {Row} */ (fresh[next]));
        }
      }
      merged.push(row);
    }
    merged.push(...fresh.slice(next));
    const gone = this.#forget(merged.splice(0, this.#excess(merged)));
    this.items = merged;
    return { added: fresh.length, gone };
  }

  /** @param {Row} row */
  remove(row) {
    this.items = this.items.filter((other) => other !== row);
    this.#known.delete(row.key);
  }

  /**
   * @param {Row[]} rows
   * @returns {Row[]} those that are not there yet, which are there from now on
   */
  #new(rows) {
    return rows.filter((row) => {
      if (this.#known.has(row.key)) return false;
      this.#known.set(row.key, row);
      return true;
    });
  }

  /**
   * Tells how many of the first rows are too much; the last one never is.
   *
   * @param {Row[]} rows
   */
  #excess(rows) {
    let weight = rows.reduce((sum, row) => sum + row.weight, 0);
    const end = rows.findIndex((row, n) => {
      const fits = rows.length - n <= this.#most && weight <= MOST_WEIGHT;
      weight -= row.weight;
      return fits || n === rows.length - 1;
    });
    return Math.max(0, end);
  }

  /** @param {Row[]} rows */
  #forget(rows) {
    for (const row of rows) this.#known.delete(row.key);
    return rows;
  }
}

/** What has come and is not shown yet: the newest of it, and the number of what there was no room for. */
export class Waiting {
  /** @type {Row[]} */
  #rows = [];
  #start = 0;
  #weight = 0;
  #most;
  #missed = 0;
  /** The highest id of what there was no room for. */
  #until = "";

  /** @param {number} most how many rows are kept */
  constructor(most) {
    this.#most = most;
  }

  /** How many have come, with those there was no room for. */
  get count() {
    return this.#rows.length - this.#start + this.#missed;
  }

  /** @param {Row} row */
  push(row) {
    this.#rows.push(row);
    this.#weight += row.weight;
    for (;;) {
      const [count, first] = [this.#rows.length - this.#start, this.#rows[this.#start]];
      if (!first || count === 1 || (count <= this.#most && this.#weight <= MOST_WEIGHT)) break;
      this.#until = highest([first], this.#until);
      this.#weight -= first.weight;
      this.#start += 1;
      this.#missed += 1;
    }
    // Moved in one go now and then, so that a push costs the same however many wait.
    if (this.#start > this.#most) {
      this.#rows = this.#rows.slice(this.#start);
      this.#start = 0;
    }
  }

  /** Takes what is there, and tells of what came before it and is not: how many, and the highest id. */
  drain() {
    const taken = { rows: this.#rows.slice(this.#start), missed: this.#missed, until: this.#until };
    this.#rows = [];
    this.#start = 0;
    this.#weight = 0;
    this.#missed = 0;
    this.#until = "";
    return taken;
  }
}
