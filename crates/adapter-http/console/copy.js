// @ts-check
// A message as something to paste elsewhere.

/** @import { Message } from "./types.js" */
import { print } from "./json.js";
import { flattened } from "./query.js";
import { timeOfId } from "./time.js";

/** What a shell takes as one argument on every system, with room to spare. */
const MOST_ARGUMENT = 100_000;

/** How much time before and after a message its link shows, milliseconds. */
const AROUND = 15 * 60_000;

/** @param {Message} message */
export function asJson(message) {
  return print(message, 2);
}

/** @param {Message} message */
export function asText(message) {
  const lines = [`${message.occurred_at} ${message.severity} ${message.source} ${message.body}`];
  for (const { key, value } of flattened(message.attributes)) {
    lines.push(`    ${key}=${typeof value === "string" ? value : print(value)}`);
  }
  return lines.join("\n");
}

/**
 * Writes a command that sends the same again. It leaves the id out: under its id a message is stored once, however
 * often it is sent.
 *
 * @param {Message} message
 * @param {string} origin
 */
export function asCurl({ severity, source, body, attributes, occurred_at }, origin) {
  const record = { severity, source, body, attributes, occurred_at };
  return curl(print(record), origin);
}

/**
 * Writes a command that sends a record.
 *
 * @param {string} json on one line
 * @param {string} origin
 */
export function curl(json, origin) {
  const address = `${origin}/v1/messages`;
  const head = "curl -H 'content-type: application/json'";
  if (json.length > MOST_ARGUMENT) {
    // The record is one line that begins with a brace, so it cannot end the document early.
    return `${head} --data-binary @- ${address} <<'END'\n${json}\nEND\n`;
  }
  return `${head} -d '${json.replaceAll("'", "'\\''")}' ${address}`;
}

/**
 * Returns the part of the address that shows a message among its neighbours in time.
 *
 * @param {Message} message
 */
export function around(message) {
  const taken = timeOfId(message.id);
  const time = Number.isNaN(taken) ? Date.parse(message.received_at) : taken;
  return {
    from: new Date(time - AROUND).toISOString(),
    until: new Date(time + AROUND).toISOString(),
    open: message.id,
  };
}
