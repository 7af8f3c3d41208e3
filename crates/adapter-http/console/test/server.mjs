// The server whose console is looked at.
//
// WARREN_TEST_CONSOLE_SERVER names a program that starts one and takes commands, crates/e2e/src/bin/console-server.rs; each file
// of journeys has one to itself then. Or WARREN_TEST_CONSOLE_URL says where one runs that takes messages itself, such as
// http://127.0.0.1:8080.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/**
 * @typedef {object} Server
 * @property {string} url where it is, without a slash at its end; empty where there is none
 * @property {string} intake where messages are sent to, likewise
 * @property {((command: string) => Promise<void>) | null} tell has it do something, where it can be told
 * @property {() => Promise<void>} stop
 */

/**
 * @param {"warren" | "services"} kind `warren` alone, or all the programs beside RabbitMQ and PostgreSQL
 * @returns {Promise<Server>}
 */
export async function serve(kind) {
  const program = process.env.WARREN_TEST_CONSOLE_SERVER;
  if (!program) {
    const given = (process.env.WARREN_TEST_CONSOLE_URL ?? "").replace(/\/$/, "");
    const url = kind === "warren" ? given : "";
    return { url, intake: url, tell: null, stop: async () => {} };
  }
  const child = spawn(program, [kind], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    assert.ok(!done, `${program} has ended`);
    return /** @type {string} */ (value);
  };
  const [url = "", intake = url] = (await line()).split(" ");
  return {
    url,
    intake,
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
