// The query language, as far as a page has to know it: what to mark in a body, and how a term is written.
// The server alone says what a query means, and what is wrong with one.

import { Exact } from "./api.js";

/** `key` or `"key"`, an operator, and perhaps a quoted value; a phrase; or a word. */
const TERM =
  /(-(?=\S))?(?:((?:[\p{L}\p{N}_\-./@$]+|"(?:[^"\\]|\\.)*")(?:!=|<=|>=|=|<|>)|(?:severity|source|id):)("(?:[^"\\]|\\.)*"(?!\S)|\S*)|"((?:[^"\\]|\\.)*)"(?!\S)|(\S+))/gu;

/** @param {string} query */
export function terms(query) {
  return Array.from(query.matchAll(TERM), (match) => match[0]);
}

/** @param {string} query */
export function words(query) {
  /** @type {string[]} */
  const found = [];
  for (const [, minus, key, , phrase, word] of query.matchAll(TERM)) {
    const text = phrase === undefined ? word : phrase.replace(/\\(["\\])/g, "$1");
    if (!minus && !key && text) found.push(text);
  }
  return found;
}

/**
 * Cuts `text` at the places where one of `needles` stands, in whatever case its letters from A to Z are.
 *
 * @param {string} text
 * @param {string[]} needles
 * @returns {{ text: string, hit: boolean }[]}
 */
export function parts(text, needles) {
  const patterns = needles.filter(Boolean).map((needle) =>
    needle
      .replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
      // Only these letters are taken for one another, as in the store; a flag would fold others, too.
      .replace(/[a-zA-Z]/g, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`),
  );
  if (patterns.length === 0) return text ? [{ text, hit: false }] : [];
  const cut = text.split(new RegExp(`(${patterns.join("|")})`));
  return cut.map((part, n) => ({ text: part, hit: n % 2 === 1 })).filter((part) => part.text !== "");
}

/** @param {string} text */
export function quoted(text) {
  return `"${text.replace(/[\\"]/g, "\\$&")}"`;
}

/**
 * Writes the term that finds an attribute with this value.
 *
 * @param {string} key
 * @param {null | boolean | number | string | Exact} value
 */
export function attributeTerm(key, value) {
  const reserved = key === "severity" || key === "source" || key === "id";
  const plain = /^[\p{L}\p{N}_\-./@$]+$/u.test(key) && !key.startsWith("-") && !reserved;
  const written = typeof value === "string" && needsQuotes(value) ? quoted(value) : String(value);
  return `${plain ? key : quoted(key)}=${written}`;
}

/**
 * Tells whether a text would be read as something else, or not to its end, without quotes.
 *
 * @param {string} text
 */
function needsQuotes(text) {
  return text === "" || /[\s\u0085]|^"/.test(text) || /^(?:true|false|null|-?\d[\d.eE+-]*)$/.test(text);
}

/**
 * Adds a term to a query, instead of its opposite where that stands there.
 *
 * @param {string} query
 * @param {string} term
 */
export function withTerm(query, term) {
  const opposite = term.startsWith("-") ? term.slice(1) : `-${term}`;
  const kept = terms(query).filter((other) => other !== term && other !== opposite);
  return [...kept, term].join(" ");
}

/**
 * Lists attributes by the keys under which a query finds them.
 *
 * @param {{ [key: string]: Json }} attributes
 * @returns {{ key: string, value: Json, findable: boolean }[]}
 */
export function flattened(attributes) {
  /** @type {{ key: string, value: Json, findable: boolean }[]} */
  const found = [];
  /** @type {(members: { [key: string]: Json }, before: string, findable: boolean) => void} */
  const walk = (members, before, findable) => {
    for (const [key, value] of Object.entries(members)) {
      const path = before ? `${before}.${key}` : key;
      // A path is split at its dots, so a key with a dot is found at the top only, by its whole name.
      const reachable = findable && key !== "" && !(before && key.includes("."));
      const object =
        value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Exact);
      if (object && Object.keys(value).length > 0) {
        walk(value, path, reachable && !(key.includes(".") && !before));
      } else {
        found.push({ key: path, value, findable: reachable && !object && !Array.isArray(value) });
      }
    }
  };
  walk(attributes, "", true);
  return found;
}
