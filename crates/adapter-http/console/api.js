// Requests: each has a timeout, and each failure is a Problem.
// And JSON with every digit: attributes hold ids of 64 bits, which a JavaScript number would round.

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

/** What marks such an integer; no message can hold U+0000. */
const MARK = "\u0000n:";

/** The end of a text, what is escaped in one, or a number; a whole text may be too long for an expression. */
const TOKEN = /"|\\.|-?\d[\d.eE+-]*/g;

/** What a terminal or an editor might act upon, or hide. */
const INVISIBLE = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/**
 * @param {string} text
 * @returns {any} as the caller says what was asked for
 */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  let quoted = false;
  const marked = text.replace(TOKEN, (token) => {
    if (token === '"') quoted = !quoted;
    const exact = !quoted && /^-?\d{16,}$/.test(token) && BigInt(token) !== BigInt(Number(token));
    return exact ? JSON.stringify(MARK + token) : token;
  });
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? new Exact(value.slice(MARK.length)) : value,
  );
}

/**
 * Writes JSON, with what cannot be seen escaped: what is pasted is what was read.
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

/** How long an answer may take, milliseconds. */
const TIMEOUT = 20_000;

/** A fault, as RFC 9457 has it. */
export class Problem extends Error {
  status = 0;
  title = "";
  detail = "";
  hint = "";
  parameter = "";
  column = 0;
  length = 1;

  /** @param {Partial<Fault>} document */
  constructor(document) {
    super(document.detail || document.title);
    Object.assign(this, document);
  }

  /**
   * Makes one of whatever was thrown.
   *
   * @param {unknown} error
   * @param {boolean} [byNetwork] whether a request threw it
   */
  static of(error, byNetwork = false) {
    if (error instanceof Problem) return error;
    if (error instanceof DOMException && error.name === "TimeoutError") {
      return new Problem({ title: "The server does not answer" });
    }
    if (byNetwork && error instanceof TypeError) {
      return new Problem({
        title: "The server cannot be reached",
        hint: "Does it run, and is there a network?",
      });
    }
    if (!isAbort(error)) console.error(error);
    return new Problem({
      title: byNetwork ? "The answer cannot be understood" : "This page has a fault",
      detail: String(error),
    });
  }
}

/**
 * Tells whether somebody just wanted no answer any more.
 *
 * @param {unknown} error
 */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/**
 * @param {string} path
 * @param {Record<string, string | number>} parameters
 */
export function address(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "");
  const query = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
  return given.length > 0 ? `${path}?${query}` : path;
}

/**
 * @param {string} path
 * @param {Record<string, string | number>} [parameters]
 * @param {AbortSignal} [signal]
 */
export function get(path, parameters = {}, signal) {
  return request(address(path, parameters), {}, signal);
}

/**
 * @param {"POST" | "DELETE"} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {AbortSignal} [signal]
 */
export function send(method, path, body, signal) {
  const headers = { "content-type": "application/json" };
  const init = body === undefined ? { method } : { method, headers, body: JSON.stringify(body) };
  return request(path, init, signal);
}

/**
 * @param {string} url
 * @param {RequestInit} init
 * @param {AbortSignal} [signal]
 */
async function request(url, init, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT);
  const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
  try {
    const response = await fetch(url, { ...init, signal: either, cache: "no-store" });
    if (!response.ok) throw await refusal(response);
    return parse(await response.text());
  } catch (error) {
    throw isAbort(error) ? error : Problem.of(error, true);
  }
}

/** @param {Response} response */
export async function refusal(response) {
  const { status } = response;
  const is = response.headers.get("content-type") ?? "";
  if (is.includes("json")) {
    const document = await response.json().catch(() => null);
    if (document?.title) return new Problem({ ...document, status });
  }
  return new Problem({ status, title: `The server answers ${status} ${response.statusText}`.trim() });
}

/** The longest pause between two tries, milliseconds. */
const MOST_PAUSE = 30_000;

/**
 * Returns how long to wait before another try: longer each time, and never the same for two pages.
 *
 * @param {number} failures from 1
 * @param {number} first milliseconds
 */
export function backoff(failures, first) {
  const most = Math.min(MOST_PAUSE, first * 2 ** (failures - 1));
  return Math.round((most * (1 + Math.random())) / 2);
}

/**
 * Does something now and then, one after the other, while the page can be seen.
 *
 * @param {(signal: AbortSignal) => Promise<void>} ask
 * @param {number} every milliseconds
 * @param {(problem: Problem | null) => void} [tell] hears what is the matter, or that nothing is
 */
export function poll(ask, every, tell) {
  let failures = 0;
  /** @type {Timer} */
  let timer;
  let abort = new AbortController();
  let running = false;

  const round = async () => {
    clearTimeout(timer);
    if (!running || document.hidden) return;
    abort.abort();
    abort = new AbortController();
    const { signal } = abort;
    /** @type {Problem | null} */
    let problem = null;
    try {
      await ask(signal);
    } catch (error) {
      problem = Problem.of(error);
    }
    if (signal.aborted) return;
    failures = problem ? failures + 1 : 0;
    tell?.(problem);
    timer = setTimeout(round, failures ? backoff(failures + 1, every) : every);
  };
  document.addEventListener("visibilitychange", round);

  return {
    /** Asks now, and from now on. */
    start() {
      running = true;
      failures = 0;
      void round();
    },
    stop() {
      running = false;
      clearTimeout(timer);
      abort.abort();
    },
  };
}

/** Stands for an address that the server does not know. */
const PLACEHOLDER = "http://ADDRESS-OF-INGEST-API/v1/messages";

/** @type {Promise<About> | undefined} */
let asked;

/**
 * Tells what the server says of itself; asked again only where that failed.
 *
 * @returns {Promise<About>}
 */
export function about() {
  asked ??= get("/version").then(
    ({ service, version, intake }) => {
      const url = intake === null ? PLACEHOLDER : new URL(intake, location.origin).href;
      return { service, version, intake: { url, known: intake !== null } };
    },
    (error) => {
      asked = undefined;
      throw error;
    },
  );
  return asked;
}
