import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { around, asCurl, asJson, asText, gapText } from "../../row.js";
import { Exact, parse, print } from "../../api.js";

/** @param {Partial<Message>} [more] */
const message = (more) => ({
  id: "019aa0c0-0000-7000-8000-000000000001",
  severity: /** @type {const} */ ("error"),
  source: "billing.api",
  body: "card declined",
  attributes: {},
  occurred_at: "2026-11-22T13:00:00.123456Z",
  received_at: "2026-11-22T13:00:00.200Z",
  ...more,
});

/**
 * Runs a command with a curl that tells its arguments and what it is sent.
 *
 * @param {string} command
 */
function sent(command) {
  const script = `curl() { printf '%s\\0' "$@"; for a; do [ "$a" = @- ] && cat; done; true; }\n${command}`;
  const output = execFileSync("sh", { input: script, encoding: "utf8", maxBuffer: 1 << 24 });
  return output.split("\0");
}

test("numbers keep every digit on the way in and out", () => {
  const text =
    '{"id":9007199254740993,"least":-18446744073709551615,"float":0.30000000000000004,"text":"9007199254740993, \\"1234567890123456789\\"","list":[12345678901234567890]}';
  const value = parse(text);
  assert.ok(value.id instanceof Exact);
  assert.equal(value.float, 0.30000000000000004);
  assert.equal(value.text, '9007199254740993, "1234567890123456789"');
  assert.equal(print(value), text);
  assert.equal(parse("1234567890123456"), 1234567890123456);
  // What marks such a number cannot be sent by anybody.
  const literal = { body: "\\u0000n:5", other: '"\\u0000n:5"' };
  assert.deepEqual(JSON.parse(print(literal)), literal);
});

test("a text of millions of characters is read, and one in which everything is escaped", () => {
  for (const text of ["x".repeat(8 << 20), '\\"'.repeat(4 << 20)]) {
    const { body, big } = parse(JSON.stringify({ body: text }).replace("}", ',"big":9007199254740993}'));
    assert.ok(body === text);
    assert.equal(String(big), "9007199254740993");
  }
});

test("characters that cannot be seen are escaped and come back", () => {
  const value = { body: "a\u202eb\u200b\u0085\u007f\u001b[31m\ufeff" };
  const text = print(value);
  assert.match(text, /^[\x20-\x7e]*$/);
  assert.deepEqual(JSON.parse(text), value);
});

test("the curl of a message sends what the message says, whatever it says", () => {
  for (const body of [
    "card declined",
    'it\'s $HOME `id` $(id) \\ "quoted" !! %s\nnext\tline',
    "'; rm -rf / #",
    "<script>alert(1)</script>",
    "'".repeat(50),
    "END",
  ]) {
    const record = message({ body, attributes: { "o'clock": "it's", big: new Exact("9007199254740993") } });
    const [header, json, option, data, address] = sent(asCurl(record, "http://127.0.0.1:8080/v1/messages"));
    assert.deepEqual([header, option], ["-H", "-d"]);
    assert.equal(json, "content-type: application/json");
    assert.equal(address, "http://127.0.0.1:8080/v1/messages");
    const read = parse(data ?? "");
    assert.equal(read.body, body);
    assert.equal(read.attributes["o'clock"], "it's");
    assert.equal(String(read.attributes.big), "9007199254740993");
    assert.equal(read.occurred_at, record.occurred_at);
    assert.equal("id" in read, false);
  }
});

test("a very long message is sent through a document instead of an argument", () => {
  const body = "it's\nEND\n".repeat(20_000);
  const output = sent(asCurl(message({ body }), "http://127.0.0.1:8080/v1/messages"));
  assert.equal(parse(output.at(-1) ?? "").body, body);
});

test("as text a message is a line and its attributes beneath", () => {
  const text = asText(message({ attributes: { order: 42, http: { route: "/pay" } } }));
  assert.equal(
    text,
    "2026-11-22T13:00:00.123456Z error billing.api card declined\n    order=42\n    http.route=/pay",
  );
  assert.equal(parse(asJson(message())).source, "billing.api");
});

test("a link to a message shows the time in its id, which is what the store sorts by", () => {
  const { from, until, open } = around(message());
  assert.equal(open, message().id);
  assert.equal((Date.parse(from) + Date.parse(until)) / 2, 0x019aa0c00000);
});

test("every reason of a gap that the server knows is said in words", () => {
  const source = readFileSync(new URL("../../../../pipeline/src/tail/kept.rs", import.meta.url), "utf8");
  const names = Array.from(source.matchAll(/Self::\w+ => "(\w+)"/g), ([, name = ""]) => name);
  assert.ok(names.includes("slow_reader") && names.length >= 6, String(names));
  for (const reason of names) {
    assert.doesNotMatch(gapText({ missed: null, from: "", until: "", reason }), new RegExp(reason));
  }
  assert.equal(
    gapText({ missed: 1200, from: "", until: "", reason: "overrun" }),
    "1,200 messages are missing here: more came than the server reads for live tails",
  );
  assert.match(
    gapText({ missed: 1, from: "", until: "", reason: "new" }),
    /^1 message is missing here: new$/,
  );
});
