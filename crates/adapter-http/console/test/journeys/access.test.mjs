import { accessible } from "./axe.mjs";
import { begin, row } from "./page.mjs";

const { journey, store } = await begin("warren");

for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
  journey(
    `axe finds nothing wrong in ${colorScheme}`,
    async ({ page, open, source }) => {
      const severities = ["debug", "info", "warning", "error", "critical"];
      await store(
        source,
        ...severities.map((severity) => ({ severity, body: `card ${severity}`, attributes: { order: 42 } })),
      );
      await open(`?source=${source}&q=card`);
      await row(page, "card critical").waitFor();
      await accessible(page, "the list");
      await row(page, "card error").getByRole("button", { name: "Details" }).click();
      await page.locator(".details").waitFor();
      await accessible(page, "an open row");
      await page.getByRole("button", { name: "Syntax" }).click();
      await page.getByLabel("Range of time").selectOption("custom");
      await page.getByRole("searchbox", { name: "Search" }).fill('"');
      await page.keyboard.press("Enter");
      await page.locator("#search-error").waitFor();
      await accessible(page, "a fault");
      await open(`?source=${source}&q=nothing`);
      await page.getByText("No message is like this").waitFor();
      await accessible(page, "an empty list");
      await page.keyboard.press("?");
      await accessible(page, "the help");
      await page.keyboard.press("Escape");
      await page.getByRole("link", { name: /^Dead letters/ }).click();
      await page.getByRole("heading", { name: /\d+ dead letters?/ }).waitFor();
      await accessible(page, "dead letters");
    },
    { colorScheme, mayFail: /400/ },
  );
}
