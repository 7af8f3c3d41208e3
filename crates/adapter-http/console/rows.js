// The rows of the list, oldest first; bounded.

import { timeOfId } from "./time.js";

/** How many characters rows may hold together. */
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
  #weight = 0;
  #most;

  /** @param {number} most how many there may be */
  constructor(most) {
    this.#most = most;
  }

  clear() {
    this.items = [];
    this.#known.clear();
    this.#weight = 0;
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
    return this.#bound(() => this.items.shift());
  }

  /**
   * Adds rows at the beginning; what is too much goes at the end.
   *
   * @param {Row[]} rows
   * @returns {Row[]} what went
   */
  prepend(rows) {
    this.items = [...this.#new(rows), ...this.items];
    return this.#bound(() => this.items.pop()).reverse();
  }

  /**
   * Adds stored messages where their ids, which sort by time, belong. A gap that they fill goes.
   *
   * @param {Message[]} messages
   * @returns {Row[]} those that there was no room for
   */
  merge(messages) {
    const fresh = this.#new(messages.map(messageRow)).sort((a, b) => (a.key < b.key ? -1 : 1));
    /** @type {Row[]} */
    const merged = [];
    let next = 0;
    for (const row of this.items) {
      if (row.kind === "message") {
        const before = next;
        while ((fresh[next]?.key ?? row.key) < row.key) next += 1;
        merged.push(...fresh.slice(before, next));
      } else if (row.gap.missed) {
        const [from, until] = [Date.parse(row.gap.from), Date.parse(row.gap.until)];
        row.gap.missed -= fresh.filter(({ key }) => timeOfId(key) >= from && timeOfId(key) <= until).length;
        if (row.gap.missed <= 0) continue;
      }
      merged.push(row);
    }
    merged.push(...fresh.slice(next));
    this.items = merged;
    return this.#bound(() => this.items.shift());
  }

  /** @param {Row} row */
  remove(row) {
    this.items = this.items.filter((other) => other !== row);
    this.#known.delete(row.key);
    this.#weight -= row.weight;
  }

  /**
   * @param {Row[]} rows
   * @returns {Row[]} those that are not there yet, which are there from now on
   */
  #new(rows) {
    return rows.filter((row) => {
      if (this.#known.has(row.key)) return false;
      this.#known.set(row.key, row);
      this.#weight += row.weight;
      return true;
    });
  }

  /**
   * Takes away what is too much; the last row never is.
   *
   * @param {() => Row | undefined} take takes the row at one end
   * @returns {Row[]} what went
   */
  #bound(take) {
    /** @type {Row[]} */
    const gone = [];
    while (this.items.length > this.#most || (this.#weight > MOST_WEIGHT && this.items.length > 1)) {
      const row = /** @type {Row} */ (take());
      this.#known.delete(row.key);
      this.#weight -= row.weight;
      gone.push(row);
    }
    return gone;
  }
}

/** What has come and is not shown yet: the newest of it. */
export class Waiting {
  #rows;
  #missed = 0;
  /** The highest id of what there was no room for. */
  #until = "";

  /** @param {number} most how many rows are kept */
  constructor(most) {
    this.#rows = new Rows(most);
  }

  /** How many have come, with those there was no room for. */
  get count() {
    return this.#rows.items.length + this.#missed;
  }

  /** @param {Row} row */
  push(row) {
    const gone = this.#rows.append([row]);
    this.#until = highest(gone, this.#until);
    this.#missed += gone.length;
  }

  /** Takes what is there, and tells of what came before it and is not: how many, and the highest id. */
  drain() {
    const taken = { rows: this.#rows.items, missed: this.#missed, until: this.#until };
    this.#rows.clear();
    this.#missed = 0;
    this.#until = "";
    return taken;
  }
}
