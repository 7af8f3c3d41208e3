// What is looked at, which the address of the page mirrors: what is in here is in there, and back and forward work.
// And what belongs to whoever looks, which is kept in this browser.

/** @type {readonly Severity[]} */
export const SEVERITIES = ["debug", "info", "warning", "error", "critical"];

/** What the address says, as it says it, which docs/console.md describes; an empty text is no condition. */
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

/** @typedef {{ -readonly [key in keyof typeof DEFAULTS]: string }} State */

const KEYS = /** @type {(keyof State)[]} */ (Object.keys(DEFAULTS));

/** What decides which messages are listed. */
const QUESTION = /** @type {const} */ (["q", "severity", "source", "from", "until", "part"]);

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
 * Writes the query of an address, shortest first: what is as it is anyway is left out.
 *
 * @param {State} state
 */
export function toAddress(state) {
  const written = new URLSearchParams();
  for (const key of KEYS) {
    if (state[key] !== DEFAULTS[key]) written.set(key, state[key]);
  }
  // These may stand in a query as they are, and are easier to read so.
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
    // What is asked anew is not what somebody stopped to read.
    if (QUESTION.some((key) => next[key] !== this.#state[key])) next.paused = patch.paused ?? "";
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
    // Storage may be switched off; then a choice lasts as long as the page.
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
