import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";

import { begin, card, clipboard, known, letterCount, row, strip, until } from "./page.mjs";

const { base, intake, journey, send, store } = await begin("services");

/** @param {string} command */
const run = (command) => execFileSync("sh", ["-c", command], { encoding: "utf8", stdio: "pipe" });

// The first: it wants a store that is empty.
journey(
  "the console says where messages are sent to, and says so where it does not know",
  async ({ page, open, tell }) => {
    /** @param {import("playwright-core").Locator} pressed */
    const copied = async (pressed) => {
      await page.evaluate(() => navigator.clipboard.writeText(""));
      await pressed.click();
      return until("it is copied", () => clipboard(page));
    };
    const welcome = page.locator("#empty");
    const curl = page.getByRole("button", { name: "curl", exact: true });
    await open();
    const command = await copied(welcome.getByRole("button", { name: "Copy" }));
    assert.ok(command.endsWith(` ${intake}/v1/messages`), command);
    const more = welcome.getByRole("link", { name: "What else can be sent, and how" });
    assert.equal(await more.getAttribute("href"), `${intake}/docs/`);

    await tell("hide intake");
    await open();
    await welcome.getByText("Messages are sent to an ingest-api, not here.").waitFor();
    assert.match(
      await copied(welcome.getByRole("button", { name: "Copy" })),
      /http:\/\/ADDRESS-OF-INGEST-API\//,
    );
    await page.locator("#tail.live").waitFor();
    run(command);
    const line = row(page, "Hello, Warren!");
    await line.waitFor();
    await line.getByRole("button", { name: "Details" }).click();
    assert.match(await copied(curl), / http:\/\/ADDRESS-OF-INGEST-API\/v1\/messages$/);

    await tell("tell intake");
    await page.reload();
    await line.locator(".details").waitFor();
    run(await copied(curl));
    await page.keyboard.press("g");
    await until("there are two of them", async () => (await line.count()) === 2);
  },
  { tells: true, mayFail: /ERR_|50\d/ },
);

journey(
  "what is sent to the intake with curl appears by itself, and is found again",
  async ({ page, open, source }) => {
    await open();
    await page.locator("#tail.live").waitFor();
    const record = JSON.stringify({
      severity: "error",
      source,
      body: "card declined",
      attributes: { order: 42 },
    });
    run(`curl -sS -d '${record}' ${intake}/v1/messages`);
    await row(page, source).waitFor();
    await store(source, { body: "card accepted" });
    await page.getByRole("searchbox", { name: "Search" }).fill(`declined order=42 source:${source}`);
    await page.keyboard.press("Enter");
    const line = row(page, source);
    await line.locator("mark", { hasText: "declined" }).waitFor();
    await until("the other one is not here", async () => (await line.count()) === 1);
    await page.reload();
    await line.waitFor();
    assert.equal(await line.count(), 1);
  },
);

journey("the strip says what the programs beside this one have counted", async ({ page, open, source }) => {
  await open();
  const [accepted, stored] = [strip(page, "Accepted"), strip(page, "Stored")];
  const before = await known(accepted.all);
  await store(source, ...Array.from({ length: 30 }, (_, n) => ({ body: `line ${n}` })));
  await until("they are accepted", async () => (await accepted.all()) >= before + 30);
  await until("all of them are stored", async () => (await stored.all()) === (await accepted.all()));
  const between = strip(page, "In RabbitMQ");
  await until("nothing is in flight", async () => (await between.note()) === "0 in flight");
  assert.equal(await between.figure(), "0 packets");
});

journey(
  "a card says what its group has counted, what waits while nobody counts, and that it has caught up",
  async ({ page, open, source, tell }) => {
    await open();
    const [errors, all] = [card(page, "error"), card(page, "all")];
    const before = { errors: await known(errors.total), all: await known(all.total) };
    await store(
      source,
      { body: "one", severity: "error" },
      { body: "two", severity: "error" },
      { body: "three" },
    );
    await until("it has counted", async () => (await errors.total()) === before.errors + 2);
    await until("so have others", async () => (await all.total()) === before.all + 3);
    assert.equal(await errors.counted("error"), String(before.errors + 2));
    assert.equal(await errors.lag(), "nothing waits");

    await tell("leave error");
    await until("nobody counts", async () => (await errors.state()) === "unattended");
    await send({ source, body: "four", severity: "error" });
    await until("one packet waits", async () => (await errors.lag()) === "1 packet waiting");
    await send({ source, body: "five", severity: "error" });
    await until("two packets wait", async () => (await errors.lag()) === "2 packets waiting");
    assert.equal(Number.isNaN(await errors.total()), true, "what nobody tells is not known");
    await until("the others count on", async () => (await all.total()) === before.all + 5);

    await tell("join error");
    await until("it has caught up", async () => (await errors.total()) === before.errors + 4);
    await until("nothing waits", async () => (await errors.lag()) === "nothing waits");
    assert.equal(await errors.state(), "");

    await tell("close book error");
    await send({ source, body: "six", severity: "error" });
    await until("it is held", async () => (await errors.held()) === "1 packet unacknowledged");
    assert.equal(await errors.lag(), "nothing waits");
    assert.equal(await errors.total(), before.errors + 4, "it is not counted yet");
    await tell("halt error");
    await until("nobody tells", async () => (await errors.held()) === "not known what is unacknowledged");
    await tell("go on error");
    await tell("open book error");
    await until("it is counted", async () => (await errors.total()) === before.errors + 5);
    await until("nothing is held", async () => (await errors.held()) === "none unacknowledged");
  },
  { tells: true },
);

journey(
  "a dead letter is found, and is a message again after it was redriven",
  async ({ page, open, source, tell }) => {
    await tell("refuse");
    await send({ source, severity: "critical", body: "refund booked", attributes: { amount: -1 } });
    await until("it is a dead letter", async () => (await letterCount(base, source)) === 1);
    await tell("accept");
    await open(`?view=dead-letters&source=${source}`);
    await page.getByRole("heading", { name: "1 dead letter", exact: true }).waitFor();
    const letter = page.locator("tr.letter");
    await letter.getByRole("button", { name: /^Details/ }).click();
    const below = page.locator("tr.below .details");
    await below.waitFor();
    assert.match((await below.textContent()) ?? "", /refund booked(.|\n)*amount_must_not_be_negative/);
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Redrive all 1 of this filter…" }).click();
    await page.getByRole("button", { name: "Redrive 1 letter" }).click();
    await page.locator("#job-title", { hasText: "Redriven 1 of 1" }).waitFor();
    await page.getByText("No dead letter").waitFor();
    await page.getByRole("link", { name: "Messages" }).click();
    await row(page, source).waitFor();
  },
  { tells: true },
);

// The last: the worker counts from 0 again.
journey(
  "what was sent before the page was there, and is stored late, comes into the list by itself",
  async ({ page, open, source, tell }) => {
    const count = 1_300;
    await tell("leave worker");
    await send(...Array.from({ length: 500 }, (_, n) => ({ source, body: `early ${n}.` })));
    await send(...Array.from({ length: count - 500 }, (_, n) => ({ source, body: `late ${n}.` })));
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    await page.getByText("No message is like this").waitFor();
    await send({ source, body: "came now" });
    await row(page, "came now").waitFor();
    await tell("join worker");
    const loaded = page.locator("#shown");
    await until("all of it is here", async () => (await loaded.textContent()) === "1,301 loaded");
    assert.equal(await page.getByRole("article", { name: "A gap" }).count(), 0);
  },
  { tells: true },
);
