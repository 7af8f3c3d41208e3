import assert from "node:assert/strict";
import { test } from "node:test";

import { Rows, Waiting, beside, gapRow, highest, lowest, messageRow } from "../../rows.js";

/**
 * @param {number} n
 * @returns {Message}
 */
const message = (n) => ({
  id: `019aa0c0-0000-7000-8000-${String(n).padStart(12, "0")}`,
  severity: "info",
  source: "a",
  body: String(n),
  attributes: {},
  occurred_at: new Date(n * 1000).toISOString(),
  received_at: new Date(n * 1000).toISOString(),
});

/** @param {number[]} numbers */
const rowsOf = (...numbers) => numbers.map((n) => messageRow(message(n)));

/** @param {Row[]} rows */
const numbers = (rows) => rows.map((row) => (row.kind === "message" ? Number(row.message.body) : "gap"));

test("of one message there is one row, from wherever it comes", () => {
  const rows = new Rows(100);
  rows.append(rowsOf(3, 4));
  rows.prepend(rowsOf(1, 2, 3));
  rows.append(rowsOf(4, 5));
  rows.merge([message(5), message(2)]);
  assert.deepEqual(numbers(rows.items), [1, 2, 3, 4, 5]);
});

test("rows are bounded at the end that is not looked at", () => {
  const rows = new Rows(3);
  assert.deepEqual(numbers(rows.append(rowsOf(1, 2, 3, 4))), [1]);
  assert.deepEqual(numbers(rows.items), [2, 3, 4]);
  assert.deepEqual(numbers(rows.prepend(rowsOf(0, 1))), [3, 4]);
  assert.deepEqual(numbers(rows.items), [0, 1, 2]);
  // What has gone may come again.
  assert.deepEqual(numbers(rows.append(rowsOf(3))), [0]);
  assert.deepEqual(numbers(rows.items), [1, 2, 3]);
});

test("what comes late goes where it belongs, and gaps stay where they are", () => {
  const rows = new Rows(100);
  const gap = gapRow({ missed: 2, from: "", until: "", reason: "slow_reader" });
  rows.append([...rowsOf(2, 4), gap, ...rowsOf(8)]);
  rows.merge([message(9), message(6), message(1), message(3)]);
  assert.deepEqual(numbers(rows.items), [1, 2, 3, 4, "gap", 6, 8, 9]);
  rows.remove(gap);
  assert.deepEqual(numbers(rows.items), [1, 2, 3, 4, 6, 8, 9]);
});

test("what waits is bounded, and every message is there or counted", () => {
  const waiting = new Waiting(10);
  for (let n = 1; n <= 57; n++) waiting.push(messageRow(message(n)));
  assert.equal(waiting.count, 57);
  const { rows, missed, until } = waiting.drain();
  assert.deepEqual(numbers(rows), [48, 49, 50, 51, 52, 53, 54, 55, 56, 57]);
  assert.equal(missed, 47);
  assert.equal(until, message(47).id);
  assert.equal(waiting.count, 0);
  assert.deepEqual(waiting.drain(), { rows: [], missed: 0, until: "" });
});

test("what rows hold is bounded, too, and the last one stays whatever it holds", () => {
  const heavy = (/** @type {number[]} */ ...all) =>
    all.map((n) =>
      messageRow({ ...message(n), body: String(n), attributes: { long: "x".repeat(20 << 20) } }),
    );
  const rows = new Rows(100);
  assert.deepEqual(numbers(rows.append([...heavy(1), ...rowsOf(2), ...heavy(3)])), [1]);
  assert.deepEqual(numbers(rows.prepend(heavy(0))), [3]);
  assert.deepEqual(numbers(rows.items), [0, 2]);
  const waiting = new Waiting(100);
  for (const row of [...heavy(4), ...rowsOf(5), ...heavy(6)]) waiting.push(row);
  assert.equal(waiting.count, 3);
  const { rows: left, missed } = waiting.drain();
  assert.deepEqual([numbers(left), missed], [[5, 6], 1]);
});

test("where the list goes on is known however the messages came", () => {
  const rows = rowsOf(5, 3, 9, 4);
  assert.equal(highest(rows), message(9).id);
  assert.equal(lowest(rows), message(3).id);
  assert.equal(highest([]), "");
  assert.equal(lowest([]), "");
  assert.equal(beside("019aa0c0-0000-7000-8000-00000000ffff", 1n), "019aa0c0-0000-7000-8000-000000010000");
  assert.equal(beside("019aa0c0-0000-7000-8000-000000000000", -1n), "019aa0c0-0000-7000-7fff-ffffffffffff");
});
