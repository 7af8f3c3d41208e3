// @ts-check
// JSON with every digit: ids of 64 bits are common in attributes, and a JavaScript number would round them.

/** An integer that no JavaScript number holds. */
export class Exact {
  /** @param {string} digits */
  constructor(digits) {
    this.digits = digits;
  }

  toString() {
    return this.digits;
  }
}

/** What marks such an integer while JSON.parse and JSON.stringify are at work; no message can hold U+0000. */
const MARK = "\u0000n:";

/** A text or a number, as JSON writes them. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

/** What a terminal or an editor might act upon, or hide. */
const INVISIBLE = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/**
 * Reads JSON.
 *
 * @param {string} text
 * @returns {any} as the caller says what was asked for
 */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKEN, (token) => (rounds(token) ? JSON.stringify(MARK + token) : token));
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? new Exact(value.slice(MARK.length)) : value,
  );
}

/** @param {string} token */
function rounds(token) {
  return /^-?\d{16,}$/.test(token) && BigInt(token) !== BigInt(Number(token));
}

/**
 * Writes JSON; characters that cannot be seen are escaped, so that what is pasted is what was read.
 *
 * @param {unknown} value
 * @param {number} [indent]
 */
export function print(value, indent) {
  const text = JSON.stringify(
    value,
    (_, part) => (part instanceof Exact ? MARK + part.digits : part),
    indent,
  );
  return text
    .replace(/"\\u0000n:(-?\d+)"/g, "$1")
    .replace(INVISIBLE, (hidden) => "\\u" + hidden.charCodeAt(0).toString(16).padStart(4, "0"));
}
