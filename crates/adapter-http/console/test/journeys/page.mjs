// A page of its own for each journey, and the server that it looks at.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, test } from "node:test";

import { launch } from "../browser.mjs";
import { serve } from "../server.mjs";

const server = await serve();

export const base = server.url;

const skip = base ? false : "neither WARREN_TEST_CONSOLE_SERVER nor WARREN_TEST_CONSOLE_URL is set";

/** How long anything on the page may take, milliseconds. */
const PATIENCE = 15_000;

/** @type {Promise<import("playwright-core").Browser> | undefined} */
let browser;

after(async () => {
  await (await browser)?.close();
  await server.stop();
});

/**
 * A page, and what is needed to have it to oneself.
 *
 * @typedef {object} Journey
 * @property {import("playwright-core").Page} page
 * @property {string} source a source that nobody else uses
 * @property {(search?: string) => Promise<void>} open opens the console
 * @property {(command: string) => Promise<void>} tell has the server do something
 */

/**
 * What is asked of a journey beside its context: complaints of the page that belong to it, and whether it tells the server what
 * to do.
 *
 * @typedef {{ mayFail?: RegExp, tells?: boolean }} Needs
 */

/**
 * Runs a test in a browser of its own; whatever the page complains about fails it.
 *
 * @param {string} name
 * @param {(journey: Journey) => Promise<void>} body
 * @param {import("playwright-core").BrowserContextOptions & Needs} [options]
 */
export function journey(name, body, { mayFail, tells, ...options } = {}) {
  const { tell } = server;
  const without = tells && !tell ? "the server of WARREN_TEST_CONSOLE_URL cannot be told what to do" : false;
  test(name, { skip: skip || without, timeout: 120_000 }, async () => {
    browser ??= launch();
    const context = await (
      await browser
    ).newContext({
      viewport: { width: 1280, height: 800 },
      permissions: ["clipboard-read", "clipboard-write"],
      baseURL: base,
      ...options,
    });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    /** @type {string[]} */
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error.stack)));
    page.on("dialog", (dialog) => {
      complaints.push(`a dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("console", (message) => {
      const text = `${message.text()} ${message.location().url}`;
      if (message.type() === "error" && !mayFail?.test(text)) complaints.push(text);
    });
    try {
      await body({
        page,
        source: `journey.${randomBytes(5).toString("hex")}`,
        open: async (search = "") => {
          await page.goto(`${base}/${search}`);
          await page.locator("#list:not(.loading)").waitFor({ state: "attached" });
        },
        tell: async (command) => tell?.(command),
      });
      assert.deepEqual(complaints, []);
    } finally {
      await context.close();
    }
  });
}

/**
 * Sends messages as a program does.
 *
 * @param {object[]} messages
 */
export async function send(...messages) {
  const response = await fetch(`${base}/v1/messages?ids=true`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(messages),
  });
  assert.equal(response.status, 202, await response.clone().text());
  return /** @type {{ ids: string[] }} */ (await response.json()).ids;
}

/**
 * Sends messages, and waits until they are stored.
 *
 * @param {string} source
 * @param {object[]} messages
 */
export async function store(source, ...messages) {
  const ids = await send(...messages.map((message) => ({ source, ...message })));
  await until("the messages are stored", async () => {
    const found = await fetch(`${base}/v1/messages?source=${source}&limit=1000`).then((answer) =>
      answer.json(),
    );
    const stored = new Set(found.messages.map((/** @type {{ id: string }} */ { id }) => id));
    return ids.every((id) => stored.has(id));
  });
  return ids;
}

/**
 * Waits for something that no event tells.
 *
 * @template T
 * @param {string} what
 * @param {() => T | Promise<T>} ask
 * @param {number} [patience] milliseconds
 * @returns {Promise<T>}
 */
export async function until(what, ask, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert.ok(Date.now() < end, `waited in vain: ${what}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  }
}

/**
 * Returns the row of a message.
 *
 * @param {import("playwright-core").Page} page
 * @param {string} text
 */
export const row = (page, text) => page.locator("article.row", { hasText: text });

/**
 * Returns what is on the clipboard.
 *
 * @param {import("playwright-core").Page} page
 */
export const clipboard = (page) => page.evaluate(() => navigator.clipboard.readText());
