import assert from "node:assert/strict";
import { test } from "node:test";

import { Exact } from "../../api.js";
import { attributeTerm, flattened, parts, terms, withTerm, words } from "../../store.js";

test("only what a body has to hold is marked in it", () => {
  for (const [query, expected] of /** @type {const} */ ([
    ["", []],
    ["card declined", ["card", "declined"]],
    ['"card declined"', ["card declined"]],
    ['"a \\"b\\" c"', ['a "b" c']],
    ["-refund declined", ["declined"]],
    ['-"no refund" -', ["-"]],
    ['order=42 k="a b" severity>=error source:billing.# id:7 http.status!=200', []],
    ["12:30:05 https://a.example/?b 100% é(x)=1", ["12:30:05", "https://a.example/?b", "100%", "é(x)=1"]],
    ['"my key"=1 "OR"', ["OR"]],
  ])) {
    assert.deepEqual(words(query), expected, query);
  }
});

test("marking cuts a text and loses nothing of it", () => {
  const text = "Card DECLINED: (é) card. a.b";
  const cut = parts(text, ["card", "é", "(", "a.b"]);
  assert.equal(cut.map((part) => part.text).join(""), text);
  assert.deepEqual(
    cut.filter((part) => part.hit).map((part) => part.text),
    ["Card", "(", "é", "card", "a.b"],
  );
  // Other letters are not folded: the store does not find them either.
  assert.deepEqual(parts("É k", ["é", "\u212a"]), [{ text: "É k", hit: false }]);
  assert.deepEqual(parts("", ["a"]), []);
});

test("a term for a value finds that value and is one term", () => {
  for (const [key, value, expected] of /** @type {[string, any, string][]} */ ([
    ["order", 42, "order=42"],
    ["order", new Exact("9007199254740993"), "order=9007199254740993"],
    ["order", "42", 'order="42"'],
    ["paid", false, "paid=false"],
    ["paid", "false", 'paid="false"'],
    ["a", null, "a=null"],
    ["a", "", 'a=""'],
    ["a", "two words", 'a="two words"'],
    ["a", 'say "hi" \\', 'a="say \\"hi\\" \\\\"'],
    ["a", 'x"y', 'a=x"y'],
    ["http.route", "/pay?x=1", "http.route=/pay?x=1"],
    ["my key", 1, '"my key"=1'],
    ["severity", "x", '"severity"=x'],
    ["-a", 1, '"-a"=1'],
  ])) {
    const term = attributeTerm(key, value);
    assert.equal(term, expected);
    assert.deepEqual(terms(term), [term]);
    assert.deepEqual(words(term), []);
  }
});

test("a term takes the place of its opposite", () => {
  assert.equal(withTerm("", "a=1"), "a=1");
  assert.equal(withTerm("declined  a=1", "a=1"), "declined a=1");
  assert.equal(withTerm("a=1 declined", "-a=1"), "declined -a=1");
  assert.equal(withTerm('-a="x y" "b c"', 'a="x y"'), '"b c" a="x y"');
});

test("attributes are listed by the keys that find them", () => {
  const found = flattened({
    a: 1,
    http: { status: 402, "x.y": 1 },
    "b.c": { d: 1 },
    list: [1],
    none: {},
    "": 1,
  });
  assert.deepEqual(
    found.map(({ key, findable }) => [key, findable]),
    [
      ["a", true],
      ["http.status", true],
      ["http.x.y", false],
      ["b.c.d", false],
      ["list", false],
      ["none", false],
      ["", false],
    ],
  );
});
