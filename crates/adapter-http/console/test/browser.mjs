// Chromium, as it has to be started where there is neither a screen nor an account of somebody.

import { chromium } from "playwright-core";

/** Starts the one that WARREN_TEST_CHROMIUM names, /usr/bin/chromium unless it is set. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.WARREN_TEST_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      // Its sandbox refuses to work for root, who runs tests in containers.
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
