import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULTS, fromAddress, isLive, listed, severities, severityText, toAddress } from "../../store.js";

test("an address comes back as it was, and says no more than it has to", () => {
  assert.equal(toAddress(fromAddress("")), "/");
  const state = {
    ...DEFAULTS,
    q: 'a "b c" d=e&f <g> #é😀 100%',
    severity: "error,critical",
    source: "billing.#",
    from: "2026-11-29T12:00:00Z",
    until: "2026-11-29T13:00:00Z",
    part: "2026-11-29T12:10:00Z/2026-11-29T12:20:00Z",
    open: "019aa0c0-0000-7000-8000-000000000001",
    paused: "1",
  };
  const address = toAddress(state);
  assert.deepEqual(fromAddress(address.slice(1)), state);
  assert.match(address, /from=2026-11-29T12:00:00Z&/);
  assert.equal(fromAddress("?q=a&unknown=1&q=b").q, "a");
});

test("a picked part is what is listed, and nothing that has ended is live", () => {
  const state = { ...DEFAULTS, from: "-6h" };
  assert.deepEqual(listed(state), { from: "-6h", until: "" });
  assert.equal(isLive(state), true);
  const picked = { ...state, part: "a/b" };
  assert.deepEqual(listed(picked), { from: "a", until: "b" });
  assert.equal(isLive(picked), false);
  for (const part of ["a", "/b", "a/b/c"]) assert.deepEqual(listed({ ...state, part }), listed(state), part);
  assert.equal(isLive({ ...state, view: "dead-letters" }), false);
});

test("severities are read as the server reads them", () => {
  for (const [text, names] of /** @type {const} */ ([
    ["", []],
    ["error", ["error"]],
    ["error+", ["error", "critical"]],
    ["debug, critical", ["debug", "critical"]],
    ["loud", []],
  ])) {
    assert.deepEqual(Array.from(severities(text)), names, text);
  }
  assert.equal(severityText(severities("critical,error")), "error,critical");
  assert.equal(severityText(severities("debug+")), "");
});
