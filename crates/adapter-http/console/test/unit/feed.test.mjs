import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { setImmediate } from "node:timers/promises";

import { Feed } from "../../feed.js";
import { gapRow, messageRow } from "../../rows.js";
import { DEFAULTS } from "../../store.js";

// What of a browser a feed uses.
Object.assign(globalThis, {
  requestAnimationFrame: globalThis.setImmediate,
  document: { addEventListener: () => {}, hidden: false },
});

const BEGIN = Date.parse("2026-11-29T12:00:00Z");
const PAGE = 1_000;

/** @param {number} n how many seconds after the beginning it was taken */
const idOf = (n) => {
  const time = (BEGIN + n * 1_000).toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-000000000000`;
};

/** @param {number} n */
const timeOf = (n) => new Date(BEGIN + n * 1_000).toISOString();

/**
 * @param {number} n
 * @returns {Message}
 */
const message = (n) => ({
  id: idOf(n),
  severity: "info",
  source: "a",
  body: String(n),
  attributes: {},
  occurred_at: timeOf(n),
  received_at: timeOf(n),
});

/** @param {number} first @param {number} last */
const numbers = (first, last) => Array.from({ length: last - first + 1 }, (_, n) => first + n);

/** Waits until all that needs no time has happened. */
const calm = async () => {
  for (let n = 0; n < 100; n++) await setImmediate();
};

/** A server that holds so many messages, whose tail says what a test says, and that answers otherwise where a test wants it. */
const server = {
  stored: 0,
  /** @type {URLSearchParams[]} */
  asked: [],
  /** @type {(asked: URLSearchParams) => object | undefined} */
  answer: () => undefined,
  /** @type {ReadableStreamDefaultController<Uint8Array> | undefined} */
  tail: undefined,

  /** @param {number[]} taken */
  async tell(...taken) {
    const events = taken.map((n) => `id: ${n}\nevent: message\ndata: ${JSON.stringify(message(n))}\n\n`);
    this.tail?.enqueue(new TextEncoder().encode(events.join("")));
    await calm();
  },

  /** @param {URLSearchParams} asked */
  page(asked) {
    const [limit, after] = [Number(asked.get("limit") ?? 100), asked.get("after") ?? ""];
    const newest = asked.get("order") !== "oldest";
    const all = numbers(1, this.stored).map(message);
    const found = (newest ? all.toReversed() : all).filter(
      ({ id }) => !after || (newest ? id < after : id > after),
    );
    const messages = found.slice(0, limit);
    return { messages, next: found.length > limit ? messages.at(-1)?.id : null, reached: null };
  },
};

/** @type {Feed} */
let feed;
/** @type {string[]} */
let problems;
/** @type {Message[]} */
let outside;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout"] });
  server.asked = [];
  server.answer = () => undefined;
  mock.method(globalThis, "fetch", async (/** @type {string} */ text) => {
    const url = new URL(text, "http://localhost");
    if (url.pathname === "/v1/tail") {
      const body = new ReadableStream({
        start: (controller) => {
          server.tail = controller;
        },
      });
      return new Response(body, { headers: { "content-type": "text/event-stream" } });
    }
    server.asked.push(url.searchParams);
    const id = /^\/v1\/messages\/(.+)$/.exec(url.pathname)?.[1];
    const answer = server.answer(url.searchParams) ?? (id ? {} : server.page(url.searchParams));
    if (answer instanceof Response) return answer;
    const whole = id
      ? {
          message: numbers(1, server.stored)
            .map(message)
            .find((one) => one.id === id),
        }
      : answer;
    return Response.json(whole);
  });
  problems = [];
  outside = [];
  feed = new Feed({
    onrows: () => {},
    onwaiting: () => {},
    onproblem: (problem) => problem && problems.push(problem.title),
    onmissing: () => assert.fail("it is there"),
    onoutside: (one) => outside.push(one),
    ontail: () => {},
  });
});

afterEach(() => {
  feed.stop();
  mock.timers.reset();
  mock.restoreAll();
});

const shown = () => feed.rows.items.map((row) => (row.kind === "gap" ? "gap" : Number(row.message.body)));

/** Lets the time pass until the feed has looked so many times for what was stored late. */
const look = async (times = 1) => {
  const looks = () => server.asked.filter((asked) => asked.get("limit") === String(PAGE)).length;
  const wanted = looks() + times;
  for (let tick = 0; looks() < wanted; tick++) {
    assert.ok(tick < 500, "it looks no more");
    mock.timers.tick(500);
    await calm();
  }
};

/** Opens a list of 100 stored messages, while others are on their way to the store. */
const open = async () => {
  server.stored = 100;
  feed.load({ ...DEFAULTS, from: "" });
  await calm();
  assert.deepEqual(shown(), numbers(1, 100));
};

test("what was on its way when the page came is found, also behind more than a page of what came since", async () => {
  await open();
  await server.tell(...numbers(401, 2_500));
  server.stored = 2_500;
  await look(3);
  assert.deepEqual(shown(), numbers(1, 2_500));
});

test("a store that is behind is asked again until it has come as far as the tail", async () => {
  await open();
  await server.tell(...numbers(401, 420));
  server.stored = 120;
  await look();
  assert.deepEqual(shown(), [...numbers(1, 120), ...numbers(401, 420)]);
  server.answer = () => new Response("", { status: 503 });
  await look();
  server.answer = () => undefined;
  server.stored = 420;
  await look();
  assert.deepEqual(shown(), numbers(1, 420));
  const { length } = server.asked;
  mock.timers.tick(600_000);
  await calm();
  assert.equal(server.asked.length, length, "it is asked no more");
  assert.deepEqual(problems, [], "nothing is wrong with what is listed");
});

test("a store that stays behind leaves a gap, from which the rest is fetched when it is there", async () => {
  await open();
  await server.tell(...numbers(401, 420));
  await look(7);
  assert.deepEqual(shown(), [...numbers(1, 100), "gap", ...numbers(401, 420)]);
  server.stored = 420;
  const gap = feed.rows.items.find((row) => row.kind === "gap");
  assert.ok(gap?.kind === "gap");
  await feed.fill(gap);
  assert.deepEqual(shown(), numbers(1, 420));
});

test("a gap stays until its search has come to the end, and goes on where it was", async () => {
  const gap = gapRow({ missed: null, from: timeOf(2), until: timeOf(9), reason: "late_reader" });
  feed.rows.append([messageRow(message(1)), gap, messageRow(message(10))]);
  const pages = [
    { messages: [], next: idOf(8), reached: timeOf(8) },
    { messages: [message(7)], next: idOf(5), reached: timeOf(5) },
    { messages: [message(3)], next: null, reached: null },
  ];
  server.answer = () => pages.shift();
  await feed.fill(gap);
  assert.deepEqual(shown(), [1, "gap", 10]);
  await feed.fill(gap);
  assert.deepEqual(shown(), [1, "gap", 7, 10]);
  await feed.fill(gap);
  assert.deepEqual(shown(), [1, 3, 7, 10]);
  assert.deepEqual(
    server.asked.map((asked) => asked.get("after") ?? ""),
    ["", idOf(8), idOf(5)],
  );
});

test("a gap of a known number stays while some of it is not stored", async () => {
  const gap = gapRow({ missed: 2, from: timeOf(2), until: timeOf(4), reason: "slow_reader" });
  feed.rows.append([messageRow(message(1)), gap, messageRow(message(4))]);
  server.answer = () => ({ messages: [message(3)], next: null, reached: null });
  await feed.fill(gap);
  assert.deepEqual(shown(), [1, "gap", 3, 4]);
  assert.equal(gap.gap.missed, 1);
  server.answer = () => ({ messages: [message(3), message(2)], next: null, reached: null });
  await feed.fill(gap);
  assert.deepEqual(shown(), [1, 2, 3, 4]);
});

test("a gap goes when all of it has come in another way", () => {
  const gap = gapRow({ missed: 2, from: timeOf(2), until: timeOf(4), reason: "other_process" });
  feed.rows.append([messageRow(message(1)), gap, messageRow(message(6))]);
  feed.rows.merge([message(5), message(3)]);
  assert.deepEqual(shown(), [1, "gap", 3, 5, 6]);
  feed.rows.merge([message(3), message(4)]);
  assert.deepEqual(shown(), [1, 3, 4, 5, 6]);
});

test("a message that is not of the range is not shown between those of another time", async () => {
  server.stored = 5;
  for (const [from, until, expected] of /** @type {const} */ ([
    [timeOf(3), "", [idOf(2)]],
    [timeOf(1), timeOf(2), [idOf(2)]],
    [timeOf(2), timeOf(3), []],
  ])) {
    outside = [];
    feed.load({ ...DEFAULTS, from, until, open: idOf(2) });
    await calm();
    assert.deepEqual(
      outside.map(({ id }) => id),
      expected,
    );
  }
});

test("a page that cannot be had is asked for again when somebody wants it, and what is here stays", async () => {
  server.stored = 300;
  feed.load({ ...DEFAULTS, from: "" });
  await calm();
  assert.deepEqual(shown(), numbers(101, 300));
  server.answer = () => new Response("", { status: 503 });
  await feed.more("older");
  assert.equal(problems.length, 1);
  assert.ok(feed.isTired("older"));
  server.answer = () => undefined;
  await feed.more("older");
  assert.deepEqual(shown(), numbers(101, 300), "not by scrolling alone");
  await feed.further("older");
  assert.deepEqual(shown(), numbers(1, 300));
});
