import assert from "node:assert/strict";
import { test } from "node:test";

import { clock, duration, fromInput, full, instant, rate, short, timeOfId, toInput } from "../../time.js";

const AT = "2026-11-29T20:03:04.123456Z";

test("times are written in the zone that is asked for, with every digit where there is room", () => {
  assert.deepEqual(clock(AT, "utc"), { year: "2026", date: "11-29", time: "20:03:04.123" });
  assert.equal(full(AT, "utc"), "2026-11-29 20:03:04.123456 UTC");
  assert.match(full(AT, "local"), /^2026-11-(29|30) \d\d:\d\d:04\.123456 [+−]\d\d:\d\d$/);
  assert.equal(clock("not a time", "utc").time, "not a time");
});

test("what is written into a field comes back from it", () => {
  for (const zone of /** @type {const} */ (["utc", "local"])) {
    const time = Date.parse("2026-11-29T20:03:04Z");
    assert.equal(fromInput(toInput(time, zone), zone), "2026-11-29T20:03:04.000Z");
  }
  assert.equal(fromInput("", "utc"), "");
});

test("relative times count back from now", () => {
  assert.equal(instant("-15m", 1_000_000_000), 1_000_000_000 - 900_000);
  assert.equal(instant("-7d", 1e12), 1e12 - 7 * 86_400_000);
  assert.equal(instant("now", 5), 5);
  assert.equal(instant("", 5), 5);
  assert.equal(instant(AT), Date.parse(AT));
  for (const wrong of ["yesterday", "-5", "7", "-1y"]) assert.ok(Number.isNaN(instant(wrong)), wrong);
});

test("numbers are short and say enough", () => {
  assert.deepEqual([0, 0.4, 9.96, 12, 9_999, 12_345, 2_500_000, 3e9].map(rate), [
    "0",
    "0.4",
    "10",
    "12",
    "9,999",
    "12.3K",
    "2.5M",
    "3B",
  ]);
  assert.equal(short(123_456), "123K");
  assert.deepEqual([0.42, 4.2, 42, 420, 42_000, 420_000].map(duration), [
    "420 ms",
    "4.2 s",
    "42 s",
    "7 min",
    "12 h",
    "5 d",
  ]);
});

test("the time in an id is when the message was taken", () => {
  assert.equal(timeOfId("019aa0c0-0000-7000-8000-000000000001"), 0x019aa0c00000);
  assert.ok(Number.isNaN(timeOfId("019aa0c0-0000-4000-8000-000000000001")));
});
