import assert from "node:assert/strict";

import { journey, row, send, until } from "./page.mjs";

/** 50,000 messages a minute, for a while. */
const BATCH = 84;
const EVERY = 100;
const BATCHES = 100;

/**
 * Sends that many.
 *
 * @param {string} source
 * @param {string} name
 */
async function flood(source, name) {
  const began = Date.now();
  for (let batch = 0; batch < BATCHES; batch++) {
    const wait = began + batch * EVERY - Date.now();
    await new Promise((resolve) => {
      setTimeout(resolve, Math.max(0, wait));
    });
    const severity = ["debug", "info", "warning", "error"][batch % 4];
    await send(
      ...Array.from({ length: BATCH }, (_, n) => ({ source, severity, body: `${name} ${batch}.${n}.` })),
    );
  }
}

journey(
  "50,000 messages a minute do not freeze the page, and none is lost from sight unsaid",
  async ({ page, open, source }) => {
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    await page.evaluate(() => {
      const frames = /** @type {number[]} */ ([]);
      Object.assign(window, { frames });
      let last = performance.now();
      const frame = () => {
        const now = performance.now();
        frames.push(now - last);
        last = now;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    const last = `${BATCHES - 1}.${BATCH - 1}.`;
    await flood(source, "first");
    await row(page, `first ${last}`).waitFor();
    const frames = await page.evaluate(() =>
      /** @type {any} */ (window).frames.sort((/** @type {number} */ a, /** @type {number} */ b) => a - b),
    );
    const most = frames.at(Math.floor(frames.length * 0.95));
    assert.ok(most < 200, `one frame in twenty took ${most} ms or more`);
    const elements = await page.evaluate(() => document.querySelectorAll("*").length);
    assert.ok(elements < 5_000, `${elements} elements`);

    // While it waits, everything is counted; and what there was no room for is met by whoever scrolls up.
    await page.keyboard.press("Space");
    await page.locator("#tail.paused").waitFor();
    await flood(source, "second");
    const pill = page.locator("#pill");
    await until("all of it is counted", async () => /8,400 new/.test((await pill.textContent()) ?? ""));
    await pill.click();
    await row(page, `second ${last}`).waitFor();
    await until(
      "the first of them is here",
      async () => {
        await page.locator("#list").evaluate((list) => list.scrollTo(0, 0));
        return row(page, "second 0.0.").isVisible();
      },
      60_000,
    );
  },
);
