import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { EventParser, Tail } from "../../tail.js";

const STREAM =
  ': keep-alive\r\n\r\nid: 7\r\nevent: message\r\ndata: {"a":1}\r\n\r\ndata:one\rdata: two\r\rid: 8\nevent: gap\ndata: é😀\n\nevent: nothing\n\ndata\n\n';

const EVENTS = [
  { event: "message", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "gap", data: "é😀" },
  { event: "message", data: "" },
];

test("events are the same wherever the stream is cut", () => {
  for (let first = 0; first <= STREAM.length; first++) {
    for (const second of [first, first + 1, first + 3]) {
      const parser = new EventParser();
      const pieces = [STREAM.slice(0, first), STREAM.slice(first, second), STREAM.slice(second)];
      const events = pieces.flatMap((piece) => parser.push(piece));
      assert.deepEqual(events, EVENTS, `cut at ${first} and ${second}`);
      assert.equal(parser.id, "8");
    }
  }
});

test("the place in the stream is known as soon as it is told, and not before it is told to its end", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push("id: 5\n\n"), []);
  assert.equal(parser.id, "5");
  parser.push("id: 6\ndata: half\n");
  assert.equal(parser.id, "5");
  parser.push("\n");
  assert.equal(parser.id, "6");
});

test("an event that is not complete is not told", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push("data: half"), []);
  assert.deepEqual(parser.push("\n"), []);
  assert.deepEqual(parser.push("\n"), [{ event: "message", data: "half" }]);
});

test("an event without an end is refused before it fills the memory", () => {
  const oneLine = new EventParser(1000);
  assert.throws(() => oneLine.push(`data: ${"x".repeat(2000)}`), RangeError);
  const manyLines = new EventParser(1000);
  assert.throws(() => {
    for (let n = 0; n < 2000; n++) manyLines.push("data: x\n");
  }, RangeError);
  const many = new EventParser(1000);
  for (let n = 0; n < 2000; n++) assert.equal(many.push("data: x\n\n").length, 1);
});

test("a page that another server answers with is no tail", { timeout: 5_000 }, async () => {
  Object.assign(globalThis, { document: { addEventListener: () => {}, hidden: false } });
  const html = { headers: { "content-type": "text/html" } };
  mock.method(globalThis, "fetch", async () => new Response("<p>Log in</p>", html));
  /** @type {string[]} */
  const states = [];
  const tail = new Tail({ onmessage: () => {}, ongap: () => {}, onstate: (state) => states.push(state) });
  try {
    tail.start({});
    while (!states.includes("waiting")) await new Promise(setImmediate);
  } finally {
    tail.stop();
    mock.restoreAll();
  }
  assert.deepEqual(states, ["connecting", "waiting", "off"]);
});
