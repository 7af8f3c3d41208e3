// Takes the pictures of the docs: node take.mjs FOLDER, with WARREN_TEST_CONSOLE_SERVER as the journeys have it.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { launch } from "../browser.mjs";
import { serve } from "../server.mjs";
import { refunds, story, troubled, usual } from "./scene.mjs";

/** How many messages one request has. */
const BATCH = 1_000;

/** How often something is said while pictures are taken, milliseconds. */
const EVERY = 250;

/** How long the rates of the groups, a mean over five seconds, remember what was sent at once, milliseconds. */
const FORGET = 8_000;

/** For how long the page draws its lines, milliseconds. */
const SETTLE = 50_000;

const [, , folder = ""] = process.argv;
assert.ok(folder, "usage: node take.mjs FOLDER");
await mkdir(folder, { recursive: true });
const server = await serve("warren");
assert.ok(server.url && server.tell, "WARREN_TEST_CONSOLE_SERVER is not set");
const browser = await launch();

/** @param {object[]} messages */
async function send(messages) {
  const response = await fetch(`${server.url}/v1/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(messages),
  });
  assert.equal(response.status, 202, await response.text());
}

const past = story(Date.now());
for (let n = 0; n < past.length; n += BATCH) await send(past.slice(n, n + BATCH));
await server.tell("refuse");
await send(refunds());
const going = setInterval(() => void send(Math.random() < 0.06 ? [troubled()] : [usual()]), EVERY);
await new Promise((resolve) => {
  setTimeout(resolve, FORGET);
});

/**
 * @param {string} name
 * @param {string} search
 * @param {"light" | "dark"} colorScheme
 * @param {(page: import("playwright-core").Page) => Promise<void>} prepare
 */
async function take(name, search, colorScheme, prepare) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    deviceScaleFactor: 1.5,
    colorScheme,
    timezoneId: "Europe/Vienna",
  });
  const page = await context.newPage();
  await page.goto(`${server.url}/${search}`);
  await prepare(page);
  await page.mouse.move(0, 0);
  await page.screenshot({ path: join(folder, `${name}.png`) });
  await context.close();
  console.error(`${name}.png`);
}

const row = "article.row";

await Promise.all([
  take("console", "", "light", async (page) => {
    await page.locator("#tail.live").waitFor();
    await page.waitForTimeout(SETTLE);
  }),
  take(
    "console-search",
    `?${new URLSearchParams({ q: "declined -reason=expired_card", source: "billing.#" })}`,
    "dark",
    async (page) => {
      await page.locator("#tail.live").waitFor();
      await page.waitForTimeout(SETTLE);
      await send([
        {
          severity: "error",
          source: "billing.api",
          body: "card declined",
          attributes: {
            order: 48_213,
            customer: "c-4417",
            reason: "insufficient_funds",
            http: { status: 402 },
            trace_id: "5f0c1d7a92b3e846",
          },
        },
      ]);
      const last = page.locator(row, { hasText: "48213" });
      await last.getByRole("button", { name: "Details" }).click();
      await last.locator(".fields", { hasText: /stored\d/ }).waitFor();
    },
  ),
  take("console-dead-letters", "?view=dead-letters", "light", async (page) => {
    await page.locator("tr.letter").first().waitFor();
    await page.waitForTimeout(SETTLE);
    await page
      .locator("tr.letter")
      .nth(3)
      .getByRole("button", { name: /^Details/ })
      .click();
    await page.locator("tr.below .fields").waitFor();
  }),
]);

clearInterval(going);
await browser.close();
await server.stop();
