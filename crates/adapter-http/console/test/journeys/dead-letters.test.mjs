import assert from "node:assert/strict";

import { accessible } from "./axe.mjs";
import { begin, letterCount, until } from "./page.mjs";

const { base, journey, send } = await begin("warren");

/** How many letters one batch of a job has. */
const BATCH = 1_000;

/** How many letters there are. */
async function letters() {
  const page = await fetch(`${base}/v1/dead-letters?limit=999`).then((answer) => answer.json());
  return /** @type {{ id: string, reason: string, detail: string }[]} */ (page.letters);
}

/**
 * Sends messages that the store refuses, and waits until each is a dead letter.
 *
 * @param {string} source
 * @param {number} count
 */
async function refused(source, count) {
  const messages = Array.from({ length: count }, (_, n) => ({
    source,
    severity: "error",
    body: `refund ${n}.`,
    attributes: { order: n, amount: -n - 1 },
  }));
  await send(...messages);
  await until("every message is a dead letter", async () => (await counted(source)) === count);
}

/** @param {string} source */
const counted = (source) => letterCount(base, source);

/** @param {string} source */
async function stored(source) {
  const answer = await fetch(`${base}/v1/messages?source=${source}&limit=1000`).then((found) => found.json());
  return /** @type {{ body: string }[]} */ (answer.messages);
}

journey(
  "a dead letter is found, shown, redriven, and is a message again",
  async ({ page, open, source, tell }) => {
    await tell("refuse");
    await refused(source, 3);
    await tell("accept");
    // It counts them when it starts, and then every half minute.
    await tell("restart");
    await open();
    const stage = page.getByRole("region", { name: "Pipeline" }).getByRole("listitem");
    await stage.filter({ hasText: /^Dead letters3/ }).waitFor();
    assert.equal(await page.locator("#dead-badge").textContent(), "3");
    await page.getByRole("link", { name: /^Dead letters/ }).click();
    await page.getByRole("textbox", { name: "Source" }).fill(source);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "3 dead letters" }).waitFor();
    const first = page.locator("tr.letter").first();
    const id = (await first.getAttribute("data-id")) ?? "";
    assert.match((await first.textContent()) ?? "", /refused_by_store.*amount must not be negative/);
    await first.getByRole("button", { name: /^Details/ }).click();
    const below = page.locator("tr.below");
    await below.locator(".fields").waitFor();
    assert.match((await below.textContent()) ?? "", new RegExp(`"body":"refund \\d\\."(.|\\n)*${id}`));
    assert.equal(new URL(page.url()).searchParams.get("open"), id);
    await page.keyboard.press("Escape");
    await below.waitFor({ state: "detached" });

    await first.getByRole("checkbox").check();
    await page.getByRole("button", { name: "Redrive 1 chosen…" }).click();
    const dialog = page.getByRole("dialog", { name: "Redrive" });
    await dialog.getByText("1 refused_by_store").waitFor();
    assert.deepEqual(await stored(source), [], "a dry run redrives nothing");
    await dialog.getByRole("button", { name: "Redrive 1 letter" }).click();
    await page.locator("#job-title", { hasText: "Redriven 1 of 1" }).waitFor();
    await page.locator(`tr[data-id="${id}"]`).waitFor({ state: "detached" });
    await page.getByRole("heading", { name: "2 dead letters" }).waitFor();
    await until("it is stored", async () => (await stored(source)).length === 1);
    await page.getByRole("link", { name: "Messages" }).click();
    await page.locator("article.row", { hasText: source }).waitFor();
  },
  { tells: true },
);

journey(
  "a reason chooses letters, and the address keeps it",
  async ({ page, open, source, tell }) => {
    await tell("refuse");
    await refused(source, 2);
    await tell("accept");
    await open(`?view=dead-letters&source=${source}`);
    const chip = page
      .getByRole("group", { name: "Reasons" })
      .getByRole("button", { name: "refused_by_store" });
    await chip.click();
    await until(
      "the address says it",
      () => new URL(page.url()).searchParams.get("reason") === "refused_by_store",
    );
    await page.reload();
    await page.locator("tr.letter").first().waitFor();
    assert.equal(await chip.getAttribute("aria-pressed"), "true");
    assert.equal(await page.locator("tr.letter").count(), 2);
    await page.getByRole("button", { name: "Drop the filters" }).click();
    await until("no condition is left", () => new URL(page.url()).search === "?view=dead-letters");
  },
  { tells: true },
);

journey(
  "letters are purged only by whoever types it",
  async ({ page, open, source, tell }) => {
    await tell("refuse");
    await refused(source, 3);
    await tell("accept");
    const before = await letters();
    await open(`?view=dead-letters&source=${source}`);
    await page.locator("tr.letter").last().getByRole("checkbox").check();
    await page.getByRole("button", { name: "Purge 1 chosen…" }).click();
    const go = page.getByRole("button", { name: "Purge 1 letter" });
    await go.waitFor();
    assert.equal(await go.isDisabled(), true);
    await page.getByLabel("Type purge 1 to go on").fill("purge 2");
    assert.equal(await go.isDisabled(), true);
    await page.getByLabel("Type purge 1 to go on").fill("purge 1");
    await go.click();
    await page.locator("#job-title", { hasText: "Purged 1 of 1" }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement?.id), "letters-region");
    assert.equal((await letters()).length, before.length - 1);
    assert.equal(await counted(source), 2);
  },
  { tells: true },
);

journey(
  "a job shows how far it is and what it waits for, is found again, and stops when it is told to",
  async ({ page, open, source, tell }) => {
    const count = BATCH + 200;
    await tell("refuse");
    await refused(source, count);
    await tell("accept");
    const others = (await countedAll()) - count;
    // The second batch cannot go.
    await tell(`hold ${others + 200}`);
    await open(`?view=dead-letters&source=${source}`);
    await page.getByRole("button", { name: "Redrive all 1,200 of this filter…" }).click();
    await page.getByRole("button", { name: "Redrive 1,200 letters" }).click();
    const title = page.locator("#job-title");
    await page.locator("#job-facts", { hasText: "waits:" }).waitFor();
    assert.equal(await title.textContent(), "Redriving 1,000 of 1,200");
    assert.match((await page.locator("#job-facts").textContent()) ?? "", /200 left · waits: .*/);
    await accessible(page, "a job that waits");

    await page.reload();
    await title.filter({ hasText: "Redriving 1,000 of 1,200" }).waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    await title.filter({ hasText: "Cancelled; redriven 1,000 of 1,200" }).waitFor();
    await page.getByRole("button", { name: "Dismiss" }).click();
    await page.locator("#job").waitFor({ state: "hidden" });
    assert.equal(await counted(source), 200, "what was left stays");

    // It goes on while nobody looks, and is told of to whoever comes back.
    await page.getByRole("button", { name: "Redrive all 200 of this filter…" }).click();
    await page.getByRole("button", { name: "Redrive 200 letters" }).click();
    await title.filter({ hasText: "Redriving 0 of 200" }).waitFor();
    await page.getByRole("link", { name: "Messages" }).click();
    await tell("release");
    await until("all have gone", async () => (await counted(source)) === 0);
    await page.goBack();
    await title.filter({ hasText: "Redriven 200 of 200" }).waitFor();
    await page.getByText("No dead letter").waitFor();
    await until("each is stored", async () => (await total(source)) === count);
  },
  { tells: true },
);

async function countedAll() {
  const answer = await fetch(`${base}/v1/dead-letters/redrive`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ dry_run: true }),
  });
  return /** @type {number} */ ((await answer.json()).letters);
}

/** @param {string} source */
async function total(source) {
  const answer = await fetch(`${base}/v1/counts?source=${source}&from=-1h`).then((counts) => counts.json());
  return answer.buckets.reduce(
    (/** @type {number} */ sum, /** @type {any} */ { counts }) => sum + counts.error,
    0,
  );
}

for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  journey(
    `axe finds nothing wrong with dead letters in ${colorScheme}`,
    async ({ page, open, source, tell }) => {
      await tell("refuse");
      await refused(source, 3);
      await tell("accept");
      await open(`?view=dead-letters&source=${source}`);
      const first = page.locator("tr.letter").first();
      await first.waitFor();
      await accessible(page, "the table");
      await first.getByRole("button", { name: /^Details/ }).click();
      await page.locator("tr.below .fields").waitFor();
      await accessible(page, "an open letter");
      await page.keyboard.press("Escape");
      await page.getByRole("button", { name: /^Purge all/ }).click();
      await page.getByLabel("Type purge 3 to go on").waitFor();
      await accessible(page, "the question");
    },
    { colorScheme, tells: true },
  );
}

journey(
  "on a narrow screen no dead letter sticks out",
  async ({ page, open, source, tell }) => {
    await tell("refuse");
    await refused(source, 1);
    await tell("accept");
    await open(`?view=dead-letters&source=${source}`);
    await page
      .locator("tr.letter")
      .first()
      .getByRole("button", { name: /^Details/ })
      .click();
    await page.locator("tr.below .fields").waitFor();
    for (const place of ["html", "tr.below .details"]) {
      const wide = await page.locator(place).evaluate((element) => {
        const { left, width } = element.getBoundingClientRect();
        return Math.max(element.scrollWidth - element.clientWidth, left + width - innerWidth);
      });
      assert.ok(wide <= 0, `${place}: ${wide} pixels`);
    }
  },
  { viewport: { width: 400, height: 800 }, tells: true },
);
