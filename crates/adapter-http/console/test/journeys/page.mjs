// A page of its own for each journey, and the server that it looks at.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, test } from "node:test";

import { launch } from "../browser.mjs";
import { serve } from "../server.mjs";

/** How long anything on the page, or behind it, may take, milliseconds; no verdict depends on it. */
const PATIENCE = 40_000;

/** @type {Promise<import("playwright-core").Browser> | undefined} */
let browser;

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
 * Starts a server, and returns what journeys to its console need.
 *
 * @param {"warren" | "services"} kind `warren` alone, or all the programs beside RabbitMQ and PostgreSQL
 */
export async function begin(kind) {
  const server = await serve(kind);
  after(async () => {
    await (await browser)?.close();
    await server.stop();
  });
  return {
    base: server.url,
    intake: server.intake,
    journey: /** @type {Begin} */ ((name, body, options) => journey(server, name, body, options)),
    send: (/** @type {object[]} */ ...messages) => send(server, messages),
    store: (/** @type {string} */ source, /** @type {object[]} */ ...messages) =>
      store(server, source, messages),
  };
}

/**
 * @callback Begin
 * @param {string} name
 * @param {(journey: Journey) => Promise<void>} body
 * @param {import("playwright-core").BrowserContextOptions & Needs} [options]
 * @returns {void}
 */

/**
 * Runs a test in a browser of its own; whatever the page complains about fails it.
 *
 * @param {import("../server.mjs").Server} server
 * @param {string} name
 * @param {(journey: Journey) => Promise<void>} body
 * @param {import("playwright-core").BrowserContextOptions & Needs} [options]
 */
function journey({ url: base, tell }, name, body, { mayFail, tells, ...options } = {}) {
  const skip = base ? false : "there is no server for it: WARREN_TEST_CONSOLE_SERVER is not set";
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
      const text = message.text();
      if (message.type() === "error" && !mayFail?.test(text))
        complaints.push(`${text} ${message.location().url}`);
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
 * @param {import("../server.mjs").Server} server
 * @param {object[]} messages
 */
async function send({ intake }, messages) {
  const response = await fetch(`${intake}/v1/messages?ids=true`, {
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
 * @param {import("../server.mjs").Server} server
 * @param {string} source
 * @param {object[]} messages
 */
async function store(server, source, messages) {
  const ids = await send(
    server,
    messages.map((message) => ({ source, ...message })),
  );
  await until("the messages are stored", async () => {
    const found = await fetch(`${server.url}/v1/messages?source=${source}&limit=1000`).then((answer) =>
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
 * Waits until a number is known, and returns it.
 *
 * @param {() => Promise<number>} ask
 */
export async function known(ask) {
  await until("it is told", async () => Number.isFinite(await ask()));
  return ask();
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

/**
 * Returns what a stage of the strip says.
 *
 * @param {import("playwright-core").Page} page
 * @param {string} name
 */
export function strip(page, name) {
  const stage = page
    .getByRole("region", { name: "Pipeline" })
    .getByRole("listitem")
    .filter({ hasText: name });
  return {
    /** How many there were since the programs were started; NaN where it is not told. */
    all: async () => counted(/([\d,]+) in all/.exec((await stage.textContent()) ?? "")?.[1]),
    figure: async () => (await stage.locator(".figure").textContent()) ?? "",
    note: async () => (await stage.locator(".note").textContent()) ?? "",
    /** The heights of the line's points, pixels from above; one for each reading. */
    line: async () => heights((await stage.locator(".sparkline .line").getAttribute("d")) ?? ""),
  };
}

/**
 * Returns what the card of a consumer group says.
 *
 * @param {import("playwright-core").Page} page
 * @param {string} name
 */
export function card(page, name) {
  const heading = page.getByRole("heading", { name, exact: true, level: 3 });
  const found = page.locator("#groups .card").filter({ has: heading });
  const text = async (/** @type {string} */ part) => (await found.locator(part).allTextContents()).join();
  return {
    /** How many messages it has counted; NaN where that is not known. */
    total: async () => counted(await text(".total")),
    counted: (/** @type {string} */ severity) => text(`.counts .${severity} dd`),
    lag: () => text(".lag"),
    held: () => text(".held"),
    state: () => text(".state"),
    line: async () => heights((await found.locator(".sparkline .line").getAttribute("d")) ?? ""),
  };
}

/** @param {string | undefined} text */
const counted = (text) => (/^[\d,]+$/.test(text ?? "") ? Number(text?.replaceAll(",", "")) : NaN);

/** @param {string} path */
const heights = (path) => Array.from(path.matchAll(/[ML]\S+ (\S+?)(?=[ML]|$)/g), ([, y]) => Number(y));

/**
 * Counts the dead letters of a source.
 *
 * @param {string} base
 * @param {string} source
 */
export async function letterCount(base, source) {
  const answer = await fetch(`${base}/v1/dead-letters/redrive`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ dry_run: true, filter: { source } }),
  });
  return /** @type {number} */ ((await answer.json()).letters);
}
