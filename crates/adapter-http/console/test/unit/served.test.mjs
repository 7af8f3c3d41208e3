import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const folder = new URL("../../", import.meta.url);
const names = readdirSync(folder).filter((name) => /\.(js|css|html)$/.test(name));
const files = names.map((name) => ({ name, text: readFileSync(new URL(name, folder), "utf8") }));
const page = files.find(({ name }) => name === "index.html")?.text ?? "";

test("everything that is served is small", () => {
  const bytes = files.reduce((sum, { text }) => sum + gzipSync(text, { level: 9 }).length, 0);
  assert.ok(bytes <= 60_000, `${bytes} bytes with gzip`);
});

test("nothing comes from elsewhere", () => {
  for (const { name, text } of files) {
    const addresses = text.match(/(?:https?:)?\/\/[\w-]+\.[\w.-]+/g) ?? [];
    assert.deepEqual(
      addresses.filter((address) => address !== "http://www.w3.org"),
      [],
      name,
    );
  }
});

test("the page has no script and no style within it", () => {
  assert.doesNotMatch(page, /\s(?:style|on\w+)=/);
  assert.doesNotMatch(page, /<style|<script(?![^>]* src=)/);
});

test("every module that is named is there, and every one that is there is named", () => {
  const named = new Set(["app.js"]);
  for (const { name, text } of files.filter((file) => file.name.endsWith(".js"))) {
    for (const [, file = ""] of text.matchAll(/^(?:import|\}) .*from "\.\/(.*?)";$/gm)) {
      assert.ok(names.includes(file), `${name} imports ${file}`);
      named.add(file);
    }
  }
  assert.deepEqual(
    names.filter((name) => name.endsWith(".js") && !named.has(name)),
    [],
  );
});

test("every element that a module looks for is on the page", () => {
  const ids = new Set(Array.from(page.matchAll(/\sid="(.*?)"/g), ([, id]) => id));
  for (const { name, text } of files) {
    for (const [, id] of text.matchAll(/(?:byId|onClick)\("(.*?)"[,)]/g))
      assert.ok(ids.has(id), `${name}: #${id}`);
  }
});
