import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";

import { accessible } from "./axe.mjs";
import { begin, card, clipboard, known, row, strip, until } from "./page.mjs";

const { base, journey, send, store } = await begin("warren");

/** How many messages a tail is told at most that comes back to a server that was started again. */
const MOST_RESUMED = 20;

/** @param {string} command */
const run = (command) => execFileSync("sh", ["-c", command], { encoding: "utf8", stdio: "pipe" });

journey(
  "the command that an empty console shows works, and its message appears",
  async ({ page, open }) => {
    await open();
    const welcome = page.locator("#empty .command");
    await welcome.waitFor();
    await welcome.getByRole("button", { name: "Copy" }).click();
    run(await until("the command is copied", () => clipboard(page)));
    await row(page, "Hello, Warren!").waitFor();
    assert.equal(await welcome.isVisible(), false);
    assert.match((await page.locator("#version").textContent()) ?? "", /^[a-z-]+ \d+\.\d+\.\d+/);
  },
  // Only a server of one's own is surely empty.
  { tells: true },
);

journey("a message sent with curl appears by itself", async ({ page, open, source }) => {
  await open();
  await page.locator("#tail.live").waitFor();
  const body = `hello from ${source}`;
  const record = JSON.stringify({ severity: "error", source, body, attributes: { order: 42 } });
  run(`curl -sS -d '${record}' ${base}/v1/messages`);
  const line = row(page, body);
  await line.waitFor();
  assert.match((await line.textContent()) ?? "", new RegExp(`error${source}${body}order=42`));
  await line.getByRole("button", { name: "Details" }).click();
  await until("it is told when it was stored", async () =>
    /stored\d{4}-/.test((await line.locator(".fields").textContent()) ?? ""),
  );
});

journey("the strip says how many messages were accepted and stored", async ({ page, open, source }) => {
  await open();
  const [accepted, stored] = [strip(page, "Accepted"), strip(page, "Stored")];
  const before = await known(accepted.all);
  await store(source, { body: "one" }, { body: "two" }, { body: "three" });
  // Others may send to this server, too.
  await until("they are accepted", async () => (await accepted.all()) >= before + 3);
  await until("all of them are stored", async () => (await stored.all()) === (await accepted.all()));
  for (const stage of [accepted, stored]) {
    await until("its line has moved", async () => new Set(await stage.line()).size > 1);
    assert.match(await stage.figure(), /^[\d.,K]+ \/s$/);
  }
  const queued = strip(page, "Queued");
  await until("nothing waits", async () => (await queued.figure()) === "0 messages");
  const points = (await queued.line()).length;
  const element = await page.locator("#pipeline .stage").first().elementHandle();
  await until("its line has a point more", async () => (await queued.line()).length > points);
  assert.ok(await element?.evaluate((stage) => stage.isConnected), "a title stays where it is read");
});

journey("each card counts what its group is for, and its line moves", async ({ page, open, source }) => {
  await open();
  const cards = ["all", "debug-info", "error", "critical"].map((name) => card(page, name));
  const totals = () => Promise.all(cards.map(({ total }) => total()));
  const [all, everyday, errors, critical] = /** @type {[number, number, number, number]} */ (
    await Promise.all(cards.map(({ total }) => known(total)))
  );
  await store(
    source,
    { body: "one", severity: "info" },
    { body: "two", severity: "debug" },
    { body: "three", severity: "info" },
    { body: "four", severity: "error" },
    { body: "five", severity: "critical" },
    { body: "six", severity: "warning" },
  );
  const expected = [all + 6, everyday + 3, errors + 1, critical + 1].join();
  await until(`they have counted ${expected}`, async () => (await totals()).join() === expected);
  for (const each of cards) {
    await until("nothing waits", async () => (await each.lag()) === "nothing waits");
    await until("its line has moved", async () => new Set(await each.line()).size > 1);
  }
});

journey(
  "while the server is away the page says so, and then what it has missed",
  async ({ page, open, source, tell }) => {
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    await send({ source, body: "before" });
    await row(page, "before").waitFor();
    // Away for longer than it takes to start again, and for more than is told of afterwards.
    await page.setViewportSize({ width: 1280, height: 3_000 });
    await page.route("**/v1/tail*", (route) => route.abort());
    await tell("restart");
    await page.locator("#tail:not(.live)").waitFor();
    const between = Array.from({ length: MOST_RESUMED + 5 }, (_, n) => `between ${n}`);
    await store(source, ...between.map((body) => ({ body })));
    // What is stored is looked for meanwhile, and would be here before the gap is told of.
    await page.route("**/v1/messages*", (route) => route.abort());
    await page.unroute("**/v1/tail*");
    await page.locator("#tail.live").waitFor();
    const gap = page.getByRole("article", { name: "A gap" });
    await gap.first().waitFor();
    assert.match(
      (await gap.first().textContent()) ?? "",
      /(5 messages are|Messages may be) missing here: the server was started again/,
    );
    // What can be told is told without being asked for.
    await row(page, "between 0").waitFor();
    await accessible(page, "a gap");
    await page.unroute("**/v1/messages*");
    await send({ source, body: "after" });
    await row(page, "after").waitFor();
    await page.evaluate(() => {
      // Unless it has gone by itself.
      /** @type {HTMLElement | null} */ (document.querySelector("article.gap button"))?.click();
    });
    await gap.first().waitFor({ state: "detached" });
    await until("each is here once", async () => {
      const bodies = await page.locator("article.row .body").allTextContents();
      return bodies.join() === ["before", ...between, "after"].join();
    });
  },
  { tells: true, mayFail: /ERR_|50\d/ },
);

journey(
  "a paused list waits, says how much waits, and goes on with all of it",
  async ({ page, open, source }) => {
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    await page.keyboard.press("Space");
    await page.locator("#tail.paused").waitFor();
    assert.match(page.url(), /paused=1/);
    await send(...[1, 2, 3].map((n) => ({ source, body: `waiting ${n}` })));
    const pill = page.getByRole("button", { name: "3 new" });
    await pill.waitFor();
    assert.equal(await row(page, "waiting").count(), 0);
    await pill.click();
    await row(page, "waiting 3").waitFor();
    assert.equal(await row(page, "waiting").count(), 3);
    assert.doesNotMatch(page.url(), /paused/);

    // Another question is not what somebody stopped to read.
    await page.keyboard.press("Space");
    await page.locator("#tail.paused").waitFor();
    await page.getByRole("searchbox", { name: "Search" }).fill("waiting");
    await page.keyboard.press("Enter");
    await page.locator("#tail.live").waitFor();
    assert.doesNotMatch(page.url(), /paused/);
  },
);

journey("scrolling up pauses, and scrolling to the end goes on", async ({ page, open, source }) => {
  await store(source, ...Array.from({ length: 300 }, (_, n) => ({ body: `line ${n}.` })));
  await open(`?source=${source}`);
  await row(page, "line 299.").waitFor();
  await page.locator("#tail.live").waitFor();
  await page.locator("#list").hover();
  await page.mouse.wheel(0, -400);
  await page.locator("#tail.paused").waitFor();
  const top = await page.locator("#list").evaluate((list) => list.scrollTop);
  await send({ source, body: "came meanwhile" });
  await page.getByRole("button", { name: "1 new" }).waitFor();
  assert.equal(await page.locator("#list").evaluate((list) => list.scrollTop), top);
  // Up to the very first: older pages come as they are needed.
  await until("the first line is here", async () => {
    await page.mouse.wheel(0, -3000);
    return row(page, "line 0.").isVisible();
  });
  await page.locator("#list").evaluate((list) => list.scrollTo(0, list.scrollHeight));
  await row(page, "came meanwhile").waitFor();
  await page.locator("#tail.live").waitFor();
});

journey("what is looked for is in the address, and back and forward work", async ({ page, open, source }) => {
  await store(
    source,
    { body: "card declined", severity: "error", attributes: { order: 1 } },
    { body: "card accepted", severity: "info", attributes: { order: 2 } },
    { body: "mail sent", severity: "debug", attributes: { order: 3 } },
  );
  await open(`?source=${source}`);
  await row(page, "mail sent").waitFor();
  await page.getByRole("searchbox", { name: "Search" }).fill("card");
  await page.keyboard.press("Enter");
  await until("only cards are here", async () => (await page.locator("article.row").count()) === 2);
  assert.equal(await page.locator("mark").first().textContent(), "card");
  assert.equal(await page.title(), "card · Warren");
  await page.getByRole("group", { name: "Severities" }).getByRole("button", { name: "error" }).click();
  await row(page, "card accepted").waitFor({ state: "detached" });
  const address = page.url();
  assert.match(address, /q=card/);
  assert.match(address, /severity=error/);

  await page.reload();
  await row(page, "card declined").waitFor();
  assert.equal(await page.locator("article.row").count(), 1);
  assert.equal(await page.getByRole("searchbox", { name: "Search" }).inputValue(), "card");

  await page.goBack();
  await row(page, "card accepted").waitFor();
  await page.goBack();
  await row(page, "mail sent").waitFor();
  assert.equal(await page.getByRole("searchbox", { name: "Search" }).inputValue(), "");
  await page.goForward();
  await page.goForward();
  await row(page, "card accepted").waitFor({ state: "detached" });
  assert.equal(page.url(), address);
});

journey(
  "a list that becomes lower is not taken for one that was scrolled",
  async ({ page, open, source }) => {
    await store(source, ...Array.from({ length: 100 }, (_, n) => ({ body: `line ${n}.` })));
    await open(`?source=${source}`);
    await page.locator("#tail.live").waitFor();
    for (const height of [500, 900, 420, 800]) {
      await page.setViewportSize({ width: 1280, height });
      await send({ source, body: `at ${height}` });
      await row(page, `at ${height}`).waitFor();
    }
    await page.getByRole("button", { name: "Syntax" }).click();
    await send({ source, body: "beneath the help" });
    await row(page, "beneath the help").waitFor();
    assert.doesNotMatch(page.url(), /paused/);
  },
);

journey("what somebody types stays while messages come", async ({ page, open, source }) => {
  await open(`?source=${source}`);
  await page.locator("#tail.live").waitFor();
  const box = page.getByRole("searchbox", { name: "Search" });
  await box.fill("half a wo");
  await page.getByRole("button", { name: "Pause" }).click();
  await send({ source, body: "came meanwhile" });
  await page.getByRole("button", { name: "1 new" }).click();
  await row(page, "came meanwhile").waitFor();
  assert.equal(await box.inputValue(), "half a wo");
});

journey(
  "what is wrong with a search is pointed at",
  async ({ page, open }) => {
    await open();
    await page.getByRole("searchbox", { name: "Search" }).fill('declined "x');
    await page.keyboard.press("Enter");
    const fault = page.locator("#search-error .fault");
    await fault.waitFor();
    assert.equal(await fault.textContent(), '"x');
    assert.match((await page.locator("#search-error").textContent()) ?? "", /column 10.*not closed/);
    assert.equal(await page.locator("#q").getAttribute("aria-invalid"), "true");
    await page.getByRole("searchbox", { name: "Search" }).fill("declined");
    await page.keyboard.press("Enter");
    await page.locator("#search-error").waitFor({ state: "hidden" });
  },
  { mayFail: /400/ },
);

journey(
  "a row opens to its attributes, and a value filters for it or against it",
  async ({ page, open, source }) => {
    await store(
      source,
      { body: "first", attributes: { order: 41, http: { status: 200 } } },
      { body: "second", attributes: { order: 42, http: { status: 402 }, big: 7 } },
    );
    await open(`?source=${source}`);
    await row(page, "second").locator(".body").click();
    await row(page, "second").getByText("http.status", { exact: true }).waitFor();
    assert.match(page.url(), /open=/);
    await page.getByRole("button", { name: "Only with http.status 402" }).click();
    await row(page, "first").waitFor({ state: "detached" });
    assert.equal(new URL(page.url()).searchParams.get("q"), "http.status=402");
    assert.equal(new URL(page.url()).searchParams.get("open"), null);
    await row(page, "second").getByRole("button", { name: "Details" }).click();
    await page.getByRole("button", { name: "Only without order 42" }).click();
    await page.getByText("No message is like this").waitFor();
    assert.equal(new URL(page.url()).searchParams.get("q"), "http.status=402 -order=42");
  },
);

journey("a link to a message shows it among its neighbours in time", async ({ page, open, source }) => {
  const [id] = await store(source, { body: `linked ${source}` }, { body: "neighbour" });
  await open(`?source=${source}&q=linked`);
  await row(page, "linked").getByRole("button", { name: "Details" }).click();
  await page.getByRole("button", { name: "link", exact: true }).click();
  const link = await until("the link is copied", () => clipboard(page));
  await page.goto(link);
  await row(page, `linked ${source}`).locator(".details").waitFor();
  await row(page, "neighbour").first().waitFor();
  assert.equal(new URL(link).searchParams.get("open"), id);
  await page.goBack();
  await page.locator("article.row").first().waitFor();
  await page.getByRole("button", { name: "Neighbours in time" }).click();
  await row(page, "neighbour").first().waitFor();
  assert.equal(new URL(page.url()).searchParams.get("open"), id);
});

journey(
  "a link to a message that is older than the range shows what was beside it then",
  async ({ page, open, source }) => {
    const taken = Date.now() - 3 * 3_600_000;
    const ids = [0, 1, 2].map((n) => {
      const time = (taken + n).toString(16).padStart(12, "0");
      return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-${source.slice(-10)}00`;
    });
    await store(source, ...ids.map((id, n) => ({ id, body: `old ${n}.` })), { body: "new" });
    await open(`?source=${source}&open=${ids[1]}`);
    await row(page, "old 1.").locator(".details").waitFor();
    await until("so are its neighbours, and nothing else", async () => {
      const bodies = await page.locator("article.row .body").allTextContents();
      return bodies.join() === "old 0.,old 1.,old 2.";
    });
    assert.ok(Date.parse(new URL(page.url()).searchParams.get("from") ?? "") < taken, page.url());
  },
);

journey(
  "a message is copied as JSON, as text, and as a curl that sends it again",
  async ({ page, open, source }) => {
    const body = `it's ${source} <b>"quoted"</b> $HOME`;
    await store(source, { body, severity: "warning", attributes: { order: 42, name: "o'clock" } });
    await open(`?source=${source}`);
    await row(page, source).getByRole("button", { name: "Details" }).click();
    const copied = async (/** @type {string} */ name) => {
      await page.evaluate(() => navigator.clipboard.writeText(""));
      await page.getByRole("button", { name, exact: true }).click();
      return until(`${name} is copied`, () => clipboard(page));
    };
    assert.equal(JSON.parse(await copied("JSON")).body, body);
    assert.match(await copied("text"), /warning .*\n(?: {4}.*\n)* {4}order=42/);
    run(await copied("curl"));
    await until("there are two of them", async () => {
      const found = await fetch(`${base}/v1/messages?source=${source}`).then((answer) => answer.json());
      if (found.messages.length < 2) return false;
      const [one, other] = found.messages;
      assert.deepEqual(
        [one.body, one.attributes, one.severity],
        [other.body, other.attributes, other.severity],
      );
      return true;
    });
  },
);

journey("everything is done with the keyboard alone", async ({ page, open, source }) => {
  await store(source, { body: "older error", severity: "error" }, { body: "newer info", severity: "info" });
  await open();
  await page.keyboard.press("/");
  await page.keyboard.type(`source:${source}`);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  await until("both are here", async () => (await page.locator("article.row").count()) === 2);
  await page.keyboard.press("k");
  await page.locator("article.selected", { hasText: "newer info" }).waitFor();
  await page.keyboard.press("k");
  await page.locator("article.selected", { hasText: "older error" }).waitFor();
  await page.keyboard.press("Enter");
  await row(page, "older error").locator(".details").waitFor();
  await page.keyboard.press("Escape");
  await page.locator(".details").waitFor({ state: "detached" });
  await page.keyboard.press("j");
  await page.locator("article.selected", { hasText: "newer info" }).waitFor();
  await page.keyboard.press("e");
  await row(page, "newer info").waitFor({ state: "detached" });
  await page.keyboard.press("e");
  await row(page, "newer info").waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog", { name: "Keys" }).waitFor({ state: "hidden" });
  await page.keyboard.press("g");
  await page.locator("#tail.live").waitFor();
  await page.keyboard.press("Space");
  await page.locator("#tail.paused").waitFor();
});

journey(
  "a click in the histogram picks a bar, a second one another, and a drag a stretch",
  async ({ page, open, source }) => {
    const [id = ""] = await store(source, { body: "counted", severity: "error" });
    const taken = parseInt(id.replace("-", "").slice(0, 12), 16);
    await open(`?source=${source}&from=-15m`);
    await page.locator("#histogram path.error[d^=M]").waitFor();
    const box = await page.locator("#histogram").boundingBox();
    assert.ok(box);
    const at = (/** @type {number} */ share) => [box.x + 44 + (box.width - 44) * share, box.y + 40];
    const part = () => new URL(page.url()).searchParams.get("part") ?? "";
    await page.mouse.click(.../** @type {[number, number]} */ (at(0.3)));
    await page.getByText("No message is like this").waitFor();
    const first = part();
    await page.mouse.click(.../** @type {[number, number]} */ (at(0.6)));
    await until("another part is picked", () => part() !== first && part() !== "");
    await page.mouse.move(.../** @type {[number, number]} */ (at(0.5)));
    await page.mouse.down();
    await page.mouse.move(.../** @type {[number, number]} */ (at(0.999)), { steps: 5 });
    await page.mouse.up();
    await row(page, "counted").waitFor();
    const [from = "", until_ = ""] = part().split("/");
    assert.ok(Date.parse(from) <= taken && taken < Date.parse(until_), `${part()} ${taken}`);
    await page.getByRole("button", { name: "Show the whole range again" }).click();
    assert.equal(part(), "");
    await page.locator("#tail.live").waitFor();
  },
);

journey("several severities can be chosen, and none is all", async ({ page, open, source }) => {
  const severities = ["debug", "info", "warning", "error", "critical"];
  await store(source, ...severities.map((severity) => ({ severity, body: `a ${severity}` })));
  await open(`?source=${source}`);
  const chip = (/** @type {string} */ name) =>
    page.getByRole("group", { name: "Severities" }).getByRole("button", { name: new RegExp(`^${name}`) });
  const shown = async (/** @type {string[]} */ ...names) =>
    until(`only ${names} are here`, async () => {
      const found = await page.locator("article.row .severity").allTextContents();
      return found.join() === names.join();
    });
  await shown(...severities);
  await until("the chip has its count", async () => (await chip("error").textContent()) === "error1");
  await chip("error").click();
  await shown("error");
  await chip("warning").click();
  await shown("warning", "error");
  assert.equal(new URL(page.url()).searchParams.get("severity"), "warning,error");
  await chip("error").click();
  await chip("warning").click();
  await shown(...severities);
});

journey(
  "bars and numbers that cannot be had are no longer those of another question",
  async ({ page, open, source }) => {
    await store(source, { body: "counted", severity: "error" });
    await open(`?source=${source}`);
    const count = page.locator("#severities .error .count");
    await until("it is counted", async () => (await count.textContent()) === "1");
    const counts = "**/v1/counts?*";
    await page.route(counts, (route) => route.fulfill({ status: 503 }));
    await page.locator("#source").fill("another");
    await page.keyboard.press("Enter");
    await page.getByText(/^The server answers 503.* The bars are old\.$/).waitFor();
    assert.equal(await count.textContent(), "");
    assert.equal(await page.locator("#histogram path.error").count(), 0);
    await page.unroute(counts);
    await page.goBack();
    await until("it is counted again", async () => (await count.textContent()) === "1");
    await page.getByText("The bars are old.").waitFor({ state: "hidden" });
  },
  { mayFail: /503/ },
);

journey(
  "a button is the same while its number changes, and one that goes leaves the focus to the list",
  async ({ page, open, source }) => {
    await store(source, { body: "one" });
    await open();
    const named = page.getByRole("group", { name: "Sources" }).getByRole("button", { name: source });
    await named.waitFor();
    const button = await named.elementHandle();
    await store(source, { body: "two" });
    // The sources are asked for at once.
    await page.getByRole("group", { name: "Severities" }).getByRole("button", { name: /^info/ }).click();
    await until("its number is another", async () => /2$/.test((await named.textContent()) ?? ""));
    assert.ok(await button?.evaluate((element) => element.isConnected));

    await page.locator("#list").focus();
    await page.keyboard.press("Space");
    await page.locator("#tail.paused").waitFor();
    await send({ source, body: "three" });
    const pill = page.getByRole("button", { name: /new$/ });
    await pill.focus();
    await page.keyboard.press("Enter");
    await pill.waitFor({ state: "hidden" });
    assert.equal(await page.evaluate(() => document.activeElement?.id), "list");
  },
);

journey("the bars are used with the keyboard", async ({ page, open, source }) => {
  await store(source, { body: "counted" });
  await open(`?source=${source}&from=-15m`);
  await page.locator("#histogram path.info[d^=M]").waitFor();
  const bars = page.getByRole("slider", { name: /^Time/ });
  await bars.focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowLeft");
  assert.match((await bars.getAttribute("aria-valuetext")) ?? "", /^\d\d-\d\d \d\d:\d\d, /);
  await page.keyboard.press("Home");
  await page.keyboard.press("Enter");
  await page.getByText("No message is like this").waitFor();
  assert.match(new URL(page.url()).searchParams.get("part") ?? "", /Z\/.*Z$/);
  await page.getByRole("button", { name: "Zoom in" }).click();
  await until("it is the range", () => new URL(page.url()).searchParams.get("until") !== null);
  assert.equal(new URL(page.url()).searchParams.get("part"), null);
});

journey("what goes when it is used leaves the focus beside it", async ({ page, open, source }) => {
  await store(source, { body: "x".repeat(30_000), attributes: { order: 42 } });
  await open(`?source=${source}&from=-15m`);
  const focus = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.className);
  const use = async (/** @type {string} */ name, key = "Enter") => {
    await page.getByRole("button", { name }).focus();
    await page.keyboard.press(key);
  };
  const bars = page.locator("#histogram");
  for (const name of ["Show the whole range again", "Zoom in"]) {
    await bars.locator("path.info[d^=M]").waitFor();
    const box = await bars.boundingBox();
    assert.ok(box);
    await page.mouse.click(box.x + box.width / 2, box.y + 40);
    await page.locator("#part").waitFor();
    assert.equal(await focus(), "histogram");
    await use(name);
    await page.locator("#part").waitFor({ state: "hidden" });
    assert.equal(await focus(), "histogram", name);
  }
  await use("Look at the last 30 days");
  await row(page, source).waitFor();
  assert.equal(await focus(), "list");
  await row(page, source).getByRole("button", { name: "Details" }).click();
  await use("Show all 30,000 characters");
  assert.equal(await focus(), "whole");
  await use("Only with order 42", "Escape");
  await page.locator(".details").waitFor({ state: "detached" });
  assert.match((await focus()) ?? "", /^row /);
  await row(page, source).getByRole("button", { name: "Details" }).click();
  await use("Only without order 42");
  await page.getByText("No message is like this").waitFor();
  assert.equal(await focus(), "list");
});

journey("a source that goes leaves the focus to another one", async ({ page, open, source }) => {
  await store(source, { body: "one" });
  await store(`${source}.grave`, { body: "two", severity: "error" });
  await open();
  const sources = page.getByRole("group", { name: "Sources" });
  await sources.getByRole("button", { name: `${source}.grave` }).waitFor();
  const going = sources.locator(`[data-key="${source}"]`);
  await going.focus();
  await page.keyboard.press("e");
  await going.waitFor({ state: "detached" });
  assert.ok(await sources.evaluate((group) => group.contains(document.activeElement)));
});

journey("a card stays as it is read while its numbers change", async ({ page, open, source }) => {
  await open();
  const all = card(page, "all");
  const before = await known(all.total);
  await page.getByRole("heading", { name: "all", exact: true, level: 3 }).evaluate((heading) => {
    const last = heading.closest("li")?.querySelector(".critical dt")?.firstChild;
    if (last) getSelection()?.setBaseAndExtent(heading, 0, last, 8);
  });
  await store(source, { body: "one", severity: "info" }, { body: "two", severity: "critical" });
  await until("they are counted", async () => (await all.total()) === before + 2);
  assert.match(await page.evaluate(() => String(getSelection())), /^all(.|\n)*info(.|\n)*critical$/);
});

journey("of very many attributes more are shown when they are asked for", async ({ page, open, source }) => {
  const attributes = Object.fromEntries(Array.from({ length: 450 }, (_, n) => [`key.${n}`, n]));
  await store(source, { body: "much", attributes });
  await open(`?source=${source}`);
  await row(page, "much").getByRole("button", { name: "Details" }).click();
  const shown = page.locator(".fields dt", { hasText: /^key/ });
  assert.equal(await shown.count(), 200);
  const more = page.getByRole("button", { name: /more$/ });
  for (const [left, count] of /** @type {const} */ ([
    ["250 more", 400],
    ["50 more", 450],
  ])) {
    assert.equal(await more.textContent(), left);
    await more.focus();
    await page.keyboard.press("Enter");
    assert.equal(await shown.count(), count);
  }
  assert.equal(await more.count(), 0);
  assert.match(await page.evaluate(() => document.activeElement?.className ?? ""), /^row /);
  const last = page.getByRole("button", { name: "Only with key.449 449" });
  await last.click();
  await until("it is looked for", () => new URL(page.url()).searchParams.get("q") === "key.449=449");
});

journey("what a message says is never taken for HTML", async ({ page, open, source }) => {
  const script = `<script>document.title="taken"</script><img src=x onerror="document.title='taken'">`;
  await store(source, {
    body: script,
    attributes: { [script]: script, "\u202eevil": "\u202etxt.exe" },
    severity: "critical",
  });
  await open(`?source=${source}&q=script`);
  const line = row(page, source);
  await line.waitFor();
  assert.match((await line.textContent()) ?? "", /<script>document\.title="taken"<\/script>/);
  await line.getByRole("button", { name: "Details" }).click();
  await line.locator(".details").waitFor();
  assert.equal(await page.locator("#list img, #list script").count(), 0);
  // What is written from right to left turns nothing around it.
  const turned = line.locator(".line .attribute", { hasText: "txt.exe" });
  assert.equal(await turned.locator("bdi").textContent(), "\u202etxt.exe");
  assert.equal(await turned.evaluate((attribute) => getComputedStyle(attribute).unicodeBidi), "isolate");
});

journey(
  "light and dark, local time and UTC stay as they were chosen",
  async ({ page, open, source }) => {
    await store(source, { body: "now" });
    await open(`?source=${source}`);
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.getByRole("button", { name: "Dark colours" }).click();
    const dark = await ground();
    assert.notEqual(dark, light);
    const time = () => row(page, "now").locator("time").first().textContent();
    const local = await time();
    await page.getByRole("button", { name: /^Times are/ }).click();
    assert.notEqual(await time(), local);
    await page.reload();
    await row(page, "now").waitFor();
    assert.equal(await ground(), dark);
    assert.notEqual(await time(), local);
  },
  { timezoneId: "Asia/Kolkata", colorScheme: "light" },
);

journey(
  "on a narrow screen nothing sticks out",
  async ({ page, open, source }) => {
    await store(source, { body: "x".repeat(3000), attributes: { long: "y".repeat(3000) } });
    await open(`?source=${source}`);
    await row(page, source).getByRole("button", { name: "Details" }).click();
    await page.locator(".details").waitFor();
    for (const place of ["html", "#list"]) {
      const wide = await page.locator(place).evaluate((element) => element.scrollWidth - element.clientWidth);
      assert.ok(wide <= 0, `${place}: ${wide} pixels`);
    }
  },
  { viewport: { width: 400, height: 800 } },
);
