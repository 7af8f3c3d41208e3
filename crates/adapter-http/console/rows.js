// @ts-check
// The rows of the list, oldest first, and what waits to become some; both are bounded.

/** @import { Gap, Message } from "./types.js" */

/** @typedef {{ kind: "message", key: string, message: Message }} MessageRow */
/** @typedef {{ kind: "gap", key: string, gap: Gap, busy: boolean }} GapRow */
/** @typedef {MessageRow | GapRow} Row */

let gaps = 0;

/**
 * @param {Message} message
 * @returns {MessageRow}
 */
export const messageRow = (message) => ({ kind: "message", key: message.id, message });

/**
 * @param {Gap} gap
 * @returns {GapRow}
 */
export const gapRow = (gap) => ({ kind: "gap", key: `gap-${++gaps}`, gap, busy: false });

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
    return this.#forget(this.items.splice(0, Math.max(0, this.items.length - this.#most)));
  }

  /**
   * Adds rows at the beginning; what is too much goes at the end.
   *
   * @param {Row[]} rows
   * @returns {Row[]} what went
   */
  prepend(rows) {
    this.items = [...this.#new(rows), ...this.items];
    return this.#forget(this.items.splice(this.#most));
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
    const gone = this.#forget(merged.splice(0, Math.max(0, merged.length - this.#most)));
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
    if (this.#rows.length - this.#start > this.#most) {
      this.#until = highest([/** @type {Row} */ (this.#rows[this.#start])], this.#until);
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
    this.#missed = 0;
    this.#until = "";
    return taken;
  }
}
