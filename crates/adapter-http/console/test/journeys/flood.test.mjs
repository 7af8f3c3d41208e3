import assert from "node:assert/strict";

import { begin, row, until } from "./page.mjs";

const { journey, send } = await begin("warren");

/** 50,000 messages a minute, until there are more than the page keeps. */
const BATCH = 84;
const EVERY = 100;
const BATCHES = 65;

/** How many elements a page may have, whatever comes. */
const MOST_ELEMENTS = 3_000;

/** How often a page is asked to do a little, milliseconds; and how many times more seldom than an idle one it may come to that. */
const BEAT = 50;
const MOST_HELD_UP = 3;

/**
 * Sends that many.
 *
 * @param {string} source
 * @param {string} name
 * @param {number} every milliseconds from one request to the next
 */
async function flood(source, name, every) {
  const began = Date.now();
  for (let batch = 0; batch < BATCHES; batch++) {
    const wait = began + batch * every - Date.now();
    await new Promise((resolve) => {
      setTimeout(resolve, Math.max(0, wait));
    });
    const severity = ["debug", "info", "warning", "error"][batch % 4];
    await send(
      ...Array.from({ length: BATCH }, (_, n) => ({ source, severity, body: `${name} ${batch}.${n}.` })),
    );
  }
}

/**
 * Has a page count how often it comes to what it is asked to do.
 *
 * @param {import("playwright-core").Page} page
 * @returns {Promise<() => Promise<number>>} what tells how often it did
 */
async function beating(page) {
  const beats = await page.evaluateHandle((every) => {
    const counted = { beats: 0 };
    setInterval(() => {
      counted.beats += 1;
    }, every);
    return counted;
  }, BEAT);
  return () => beats.evaluate((counted) => counted.beats);
}

journey(
  "50,000 messages a minute do not freeze the page, and none is lost from sight unsaid",
  async ({ page, open, source }) => {
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    // Of a process of its own, on the same machine at the same time: however slow that is, the two can be compared.
    const idle = await (await page.context().browser()?.newContext())?.newPage();
    assert.ok(idle);
    const [flooded, undisturbed] = [await beating(page), await beating(idle)];
    const last = `${BATCHES - 1}.${BATCH - 1}.`;
    let flooding = true;
    const sent = flood(source, "first", EVERY).finally(() => {
      flooding = false;
    });
    const syntax = page.getByRole("button", { name: "Syntax" });
    while (flooding) {
      const before = await syntax.getAttribute("aria-expanded");
      await syntax.click();
      assert.notEqual(await syntax.getAttribute("aria-expanded"), before);
      const elements = await page.evaluate(() => document.querySelectorAll("*").length);
      assert.ok(elements < MOST_ELEMENTS, `${elements} elements`);
    }
    await sent;
    const [most, beats] = [await undisturbed(), await flooded()];
    assert.ok(beats * MOST_HELD_UP > most, `the page was held up: ${beats} beats, of ${most} of an idle one`);
    await row(page, `first ${last}`).waitFor();
    assert.doesNotMatch(page.url(), /paused/);
    assert.match((await page.locator("#shown").textContent()) ?? "", /^5,000 /);

    // While it waits, everything is counted; and what there was no room for is met by whoever scrolls up.
    await page.keyboard.press("Escape");
    await page.locator("#list").focus();
    await page.keyboard.press("Space");
    await page.locator("#tail.paused").waitFor();
    await flood(source, "second", 0);
    const pill = page.locator("#pill");
    await until("all of it is counted", async () => /5,460 new/.test((await pill.textContent()) ?? ""));
    await pill.click();
    await row(page, `second ${last}`).waitFor();
    const list = page.locator("#list");
    await page.setViewportSize({ width: 1280, height: 3_000 });
    await until("what came before them is here", async () => {
      await list.evaluate((element) => element.scrollTo(0, 0));
      return (await row(page, "first ").count()) > 0;
    });
    const met = new Set();
    await until(
      "each of them was met",
      async () => {
        const shown = await list.evaluate(scrolled);
        for (const body of shown) if (body.startsWith("second ")) met.add(body);
        return met.size === BATCHES * BATCH;
      },
      60_000,
    );
  },
);

journey(
  "under a finger rows stay where they are, and one that goes down pauses",
  async ({ page, open, source }) => {
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    let flooding = true;
    const sent = (async () => {
      while (flooding) await send(...Array.from({ length: 20 }, (_, n) => ({ source, body: `line ${n}` })));
    })();
    try {
      const device = await page.context().newCDPSession(page);
      /** @param {{ x: number, y: number }[]} touchPoints */
      const touch = (type = "touchStart", ...touchPoints) =>
        device.send("Input.dispatchTouchEvent", /** @type {any} */ ({ type, touchPoints }));
      const seen = await page.evaluateHandle(() => {
        const noted = { row: "", clicks: 0, menus: 0 };
        addEventListener("touchstart", ({ target }) => {
          noted.row = /** @type {Element} */ (target).closest("article")?.dataset.key ?? "";
        });
        addEventListener("click", () => (noted.clicks += 1));
        addEventListener("contextmenu", () => (noted.menus += 1));
        return noted;
      });
      const loaded = () => page.locator("#shown").textContent();
      const box = await page.locator("#list").boundingBox();
      assert.ok(box);
      const [x, y] = [box.x + box.width / 2, box.y + 100];
      await until("the list is full", async () => (await page.locator("article.row").count()) > 15);

      await until("it was no long press", async () => {
        const { clicks, menus } = await seen.jsonValue();
        await touch("touchStart", { x, y });
        const before = await loaded();
        await until("others have come", async () => (await loaded()) !== before);
        await touch("touchEnd");
        await until("it was something", async () => {
          const now = await seen.jsonValue();
          return now.clicks > clicks || now.menus > menus;
        });
        return (await seen.jsonValue()).clicks > clicks;
      });
      const { row: touched } = await seen.jsonValue();
      assert.notEqual(touched, "");
      assert.equal(new URL(page.url()).searchParams.get("open"), touched);

      await page.keyboard.press("g");
      await page.locator("#tail.live").waitFor();
      await touch("touchStart", { x, y });
      for (let down = 4; down < 120; down += 4) {
        await touch("touchMove", { x, y: y + down });
        await page.evaluate(() => new Promise(requestAnimationFrame));
      }
      await touch("touchEnd");
      await page.locator("#tail.paused").waitFor();
    } finally {
      flooding = false;
      await sent;
    }
  },
  { hasTouch: true, viewport: { width: 400, height: 800 } },
);

/**
 * Scrolls down by a bit less than is shown, and returns what is shown then.
 *
 * @param {Element} list
 */
async function scrolled(list) {
  list.scrollBy(0, list.clientHeight - 60);
  await new Promise((resolve) => {
    requestAnimationFrame(() => requestAnimationFrame(resolve));
  });
  return Array.from(list.querySelectorAll(".body"), (body) => body.textContent ?? "");
}
