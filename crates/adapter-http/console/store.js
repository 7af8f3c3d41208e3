// What is looked at, which the address mirrors; what the browser keeps; and the query language, as far as a page has to know
// it: what a query means, the server alone says.

import { Exact } from "./api.js";

/** @type {readonly Severity[]} */
export const SEVERITIES = ["debug", "info", "warning", "error", "critical"];

/** What the address says (docs/console.md). */
export const DEFAULTS = Object.freeze({
  view: "messages",
  q: "",
  severity: "",
  source: "",
  reason: "",
  from: "-1h",
  until: "",
  part: "",
  since: "",
  before: "",
  open: "",
  paused: "",
});

const KEYS = /** @type {(keyof State)[]} */ (Object.keys(DEFAULTS));

/** What is looked for; the rest of the state is how. */
const QUESTION = KEYS.filter((key) => !/view|open|paused/.test(key));

/**
 * @param {string} search
 * @returns {State}
 */
export function fromAddress(search) {
  const given = new URLSearchParams(search);
  /** @type {State} */
  const state = { ...DEFAULTS };
  for (const key of KEYS) state[key] = given.get(key) ?? DEFAULTS[key];
  return state;
}

/**
 * Writes the query of an address, without what is as it is anyway.
 *
 * @param {State} state
 */
export function toAddress(state) {
  const written = new URLSearchParams();
  for (const key of KEYS) {
    if (state[key] !== DEFAULTS[key]) written.set(key, state[key]);
  }
  // These may stand there as they are.
  const text = String(written).replace(/%3A/g, ":").replace(/%2F/g, "/").replace(/%2C/g, ",");
  return text ? `/?${text}` : "/";
}

/**
 * Returns the range of time that messages are listed of.
 *
 * @param {State} state
 */
export function listed({ from, until, part }) {
  const [first, last, more] = part.split("/");
  return first && last && more === undefined ? { from: first, until: last } : { from, until };
}

/**
 * Tells whether new messages belong to what is looked at.
 *
 * @param {State} state
 */
export function isLive(state) {
  return state.view === "messages" && listed(state).until === "";
}

/** @param {Counts} counts */
export const total = (counts) => SEVERITIES.reduce((sum, severity) => sum + counts[severity], 0);

/**
 * Reads a set of severities as the server does; none stands for all of them.
 *
 * @param {string} text
 * @returns {Set<Severity>}
 */
export function severities(text) {
  const chosen = new Set();
  for (const word of text.split(",").map((part) => part.trim())) {
    const least = SEVERITIES.findIndex((severity) => severity === word.replace(/\+$/, ""));
    if (least < 0) continue;
    for (const severity of SEVERITIES.slice(least, word.endsWith("+") ? undefined : least + 1)) {
      chosen.add(severity);
    }
  }
  return chosen;
}

/**
 * Writes a set of severities; all of them, and none, are no condition.
 *
 * @param {Set<Severity>} chosen
 */
export function severityText(chosen) {
  const all = chosen.size === SEVERITIES.length;
  return all ? "" : SEVERITIES.filter((severity) => chosen.has(severity)).join(",");
}

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
 * Cuts `text` where one of `needles` stands, in whatever case.
 *
 * @param {string} text
 * @param {string[]} needles
 */
export function parts(text, needles) {
  const patterns = needles.filter(Boolean).map((needle) =>
    needle
      .replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
      // Only these letters, as in the store; a flag would fold others, too.
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
 * Tells whether a text would be read otherwise without quotes.
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
 */
export function flattened(attributes) {
  /** @type {{ key: string, value: Json, findable: boolean }[]} */
  const found = [];
  /** @type {(members: { [key: string]: Json }, before: string, findable: boolean) => void} */
  const walk = (members, before, findable) => {
    for (const [key, value] of Object.entries(members)) {
      const path = before ? `${before}.${key}` : key;
      // A path is split at its dots: a key with a dot is found at the top only.
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

export class Store {
  /** @type {State} */
  #state;
  /** @type {((state: State, before: State) => void)[]} */
  #listeners = [];

  constructor() {
    this.#state = fromAddress(location.search);
    addEventListener("popstate", () => this.#become(fromAddress(location.search)));
  }

  get state() {
    return this.#state;
  }

  /** @param {(state: State, before: State) => void} listener */
  subscribe(listener) {
    this.#listeners.push(listener);
  }

  /**
   * @param {Partial<State>} patch
   * @param {"push" | "replace"} how whether the address before stays in the history
   */
  set(patch, how = "push") {
    const next = { ...this.#state, ...patch };
    // What is asked anew is not what somebody stopped to read, or has open.
    if (QUESTION.some((key) => next[key] !== this.#state[key])) {
      next.paused = patch.paused ?? "";
      next.open = patch.open ?? "";
    }
    const address = toAddress(next);
    if (address === toAddress(this.#state)) return;
    if (how === "push") history.pushState(null, "", address);
    else history.replaceState(null, "", address);
    this.#become(next);
  }

  /** @param {State} next */
  #become(next) {
    const before = this.#state;
    this.#state = next;
    for (const listener of this.#listeners) listener(next, before);
  }
}

/** @type {(() => void)[]} */
const listeners = [];

/** @param {"zone" | "theme"} key */
function stored(key) {
  try {
    return localStorage.getItem(`warren.${key}`) ?? "";
  } catch {
    // Storage may be switched off: a choice lasts as long as the page.
    return "";
  }
}

const chosen = { zone: stored("zone"), theme: stored("theme") };

/**
 * @param {"zone" | "theme"} key
 * @param {string} value
 */
function keep(key, value) {
  chosen[key] = value;
  try {
    localStorage.setItem(`warren.${key}`, value);
  } catch {
    // As above.
  }
  for (const listener of listeners) listener();
}

export const preferences = {
  /**
   * The zone in which times are written.
   *
   * @returns {Zone}
   */
  get zone() {
    return chosen.zone === "utc" ? "utc" : "local";
  },

  toggleZone() {
    keep("zone", this.zone === "utc" ? "local" : "utc");
  },

  /** `light`, `dark`, or empty for what the system says. */
  get theme() {
    return /^(light|dark)$/.test(chosen.theme) ? chosen.theme : "";
  },

  get isDark() {
    return this.theme ? this.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  toggleTheme() {
    keep("theme", this.isDark ? "light" : "dark");
  },

  /** @param {() => void} listener */
  subscribe(listener) {
    listeners.push(listener);
  },
};
