import assert from "node:assert/strict";
import { test } from "node:test";

import { bucketMinutes, bucketText, niceTop, snapped, ticks } from "../../histogram.js";
import { sparkPaths } from "../../pipeline.js";

const HOUR = 3_600_000;

test("there are never more buckets than there is room for", () => {
  for (const [span, most, minutes] of /** @type {const} */ ([
    [HOUR, 120, 1],
    [HOUR, 40, 2],
    [6 * HOUR, 120, 5],
    [24 * HOUR, 120, 15],
    [7 * 24 * HOUR, 120, 120],
    [30 * 24 * HOUR, 120, 360],
    [60_000, 120, 1],
  ])) {
    assert.equal(bucketMinutes(span, most), minutes, `${span}`);
  }
  for (let span = 1000; span < 300 * 365 * 24 * HOUR; span = Math.ceil(span * 1.7)) {
    const minutes = bucketMinutes(span, 100);
    assert.ok(Number.isInteger(minutes) && span / 60_000 / minutes <= 100, `${span}: ${minutes}`);
  }
  assert.deepEqual([1, 90, 60, 1440, 10_080].map(bucketText), ["1m", "90m", "1h", "1d", "7d"]);
});

test("a click is one bucket, and a drag whole ones in either direction", () => {
  const at = (/** @type {number} */ minutes) => minutes * 60_000;
  assert.deepEqual(snapped(at(7), at(7), at(5)), { from: at(5), until: at(10) });
  assert.deepEqual(snapped(at(5), at(5), at(5)), { from: at(5), until: at(10) });
  assert.deepEqual(snapped(at(12), at(3), at(5)), { from: at(0), until: at(15) });
});

test("the labels of an axis are at whole hours of the zone that is shown", () => {
  const from = Date.parse("2026-11-29T00:10:00Z");
  const utc = ticks(from, from + 24 * HOUR, 8, () => 0);
  assert.equal(new Date(utc[0] ?? 0).toISOString(), "2026-11-29T03:00:00.000Z");
  assert.ok(utc.length <= 9);
  const india = ticks(from, from + 24 * HOUR, 8, () => 330);
  assert.equal(new Date(india[0] ?? 0).toISOString(), "2026-11-29T00:30:00.000Z");
  // The clocks were put back in between: midnight is another time before.
  const changed = Date.parse("2026-10-25T01:00:00Z");
  const days = ticks(changed - 48 * HOUR, changed + 72 * HOUR, 5, (time) => (time < changed ? 120 : 60));
  assert.deepEqual(
    days.map((time) => new Date(time).toISOString().slice(8, 16)),
    ["23T22:00", "24T22:00", "25T23:00", "26T23:00", "27T23:00"],
  );
});

test("an axis of numbers ends at a round one, not far above", () => {
  for (const most of [0, 1, 3, 5, 9, 11, 99, 101, 250, 12_345, 999_999]) {
    const top = niceTop(most);
    assert.ok(top >= most && top <= Math.max(1, most * 1.7), `${most}: ${top}`);
  }
});

test("a line is broken where nothing is known", () => {
  const { line } = sparkPaths([1, 2, null, 3], 4, 90, 20);
  assert.equal(line.match(/M/g)?.length, 2);
  assert.deepEqual(sparkPaths([], 4, 90, 20), { line: "", area: "" });
  assert.doesNotMatch(sparkPaths([0, 0], 4, 90, 20).line, /NaN/);
});
