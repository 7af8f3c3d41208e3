// The server whose console is looked at.
//
// WARREN_TEST_CONSOLE_SERVER names a program that starts one and takes commands, crates/e2e/src/bin/console-server.rs; each file
// of journeys has one to itself then. Or WARREN_TEST_CONSOLE_URL says where one runs, such as http://127.0.0.1:8080.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/**
 * @typedef {object} Server
 * @property {string} url where it is, without a slash at its end; empty where there is none
 * @property {((command: string) => Promise<void>) | null} tell has it do something, where it can be told
 * @property {() => Promise<void>} stop
 */

/** @returns {Promise<Server>} */
export async function serve() {
  const program = process.env.WARREN_TEST_CONSOLE_SERVER;
  if (!program) {
    const url = (process.env.WARREN_TEST_CONSOLE_URL ?? "").replace(/\/$/, "");
    return { url, tell: null, stop: async () => {} };
  }
  const child = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    assert.ok(!done, `${program} has ended`);
    return /** @type {string} */ (value);
  };
  return {
    url: await line(),
    tell: async (command) => {
      child.stdin.write(`${command}\n`);
      assert.equal(await line(), "ok", command);
    },
    stop: async () => {
      child.stdin.end();
      if (child.exitCode === null) await once(child, "exit");
      assert.equal(child.exitCode, 0, `${program} has failed`);
    },
  };
}
