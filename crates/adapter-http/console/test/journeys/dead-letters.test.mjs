// WARREN_CONSOLE_LETTERS says that the server has dead letters that can be redriven: at least four, with their messages
// in them. These journeys use them up.

import assert from "node:assert/strict";

import { base, journey, until } from "./page.mjs";

const prepared = Boolean(process.env.WARREN_CONSOLE_LETTERS);

/** How many letters there are. */
async function letters() {
  const page = await fetch(`${base}/v1/dead-letters?limit=999`).then((answer) => answer.json());
  return /** @type {{ id: string, reason: string, detail: string }[]} */ (page.letters);
}

journey("a dead letter is found, shown and redriven", async ({ page, open, skip }) => {
  if (!prepared) return skip("WARREN_CONSOLE_LETTERS is not set");
  const before = await letters();
  await open();
  await page.getByRole("link", { name: /^Dead letters/ }).click();
  await page.getByRole("heading", { name: /\d+ dead letters?/ }).waitFor();
  const first = page.locator("tr.letter").first();
  await first.getByRole("button", { name: /^Details/ }).click();
  await page.locator("tr.below .fields").waitFor();
  assert.match((await page.locator("tr.below").textContent()) ?? "", new RegExp(before[0]?.id ?? ""));
  await page.keyboard.press("Escape");
  await page.locator("tr.below").waitFor({ state: "detached" });

  await first.getByRole("checkbox").check();
  await page.getByRole("button", { name: "Redrive 1 chosen…" }).click();
  const dialog = page.getByRole("dialog", { name: "Redrive" });
  await dialog.getByText(`1 ${before[0]?.reason}`).waitFor();
  await dialog.getByRole("button", { name: "Redrive 1 letter" }).click();
  await page.locator("#job-title", { hasText: "Redriven 1 of 1" }).waitFor();
  await until("the letter has gone", async () => (await letters()).every(({ id }) => id !== before[0]?.id));
  await page.locator(`tr[data-id="${before[0]?.id}"]`).waitFor({ state: "detached" });
});

journey("a reason chooses letters, and the address keeps it", async ({ page, open, skip }) => {
  if (!prepared) return skip("WARREN_CONSOLE_LETTERS is not set");
  await open("?view=dead-letters");
  const chip = page.getByRole("group", { name: "Reasons" }).getByRole("button").first();
  const reason = ((await chip.textContent()) ?? "").replace(/\d.*$/, "");
  await chip.click();
  await until("the address says it", () => new URL(page.url()).searchParams.get("reason") === reason);
  await page.reload();
  await page.locator("tr.letter").first().waitFor();
  const shown = await page.locator("tr.letter td.reason").allTextContents();
  assert.deepEqual(new Set(shown), new Set([reason]));
});

journey("letters are purged only by whoever types it", async ({ page, open, skip }) => {
  if (!prepared) return skip("WARREN_CONSOLE_LETTERS is not set");
  const before = await letters();
  await open("?view=dead-letters");
  await page.locator("tr.letter").last().getByRole("checkbox").check();
  await page.getByRole("button", { name: "Purge 1 chosen…" }).click();
  const go = page.getByRole("button", { name: "Purge 1 letter" });
  await go.waitFor();
  assert.equal(await go.isDisabled(), true);
  await page.getByLabel("Type purge 1 to go on").fill("purge 1");
  await go.click();
  await page.locator("#job-title", { hasText: "Purged 1 of 1" }).waitFor();
  assert.equal((await letters()).length, before.length - 1);
});

journey("a job shows how far it is, and can be told to stop", async ({ page, open, skip }) => {
  if (!prepared) return skip("WARREN_CONSOLE_LETTERS is not set");
  await open("?view=dead-letters");
  await page.getByRole("button", { name: /^Redrive all/ }).click();
  await page.getByRole("button", { name: /^Redrive \d/ }).click();
  const title = page.locator("#job-title");
  const ended = async () => /^(Redriven|Cancelled)/.test((await title.textContent()) ?? "");
  await title.waitFor();
  const cancel = page.getByRole("button", { name: "Cancel" });
  // A small job is over before anybody can press it.
  if (!(await ended())) await cancel.click({ timeout: 1_000 }).catch(() => undefined);
  await until("it has ended", ended);
  await page.getByRole("button", { name: "Dismiss" }).click();
  await page.locator("#job").waitFor({ state: "hidden" });
});
