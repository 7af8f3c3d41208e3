// The live tail: a stream that is opened again, where it broke off, while it is wanted.
// Over fetch: EventSource shows neither the status nor the words of a refusal.

import { Problem, address, backoff, isAbort, parse, refusal } from "./api.js";

/** How long nothing may come, milliseconds; the server says something every 15 seconds. */
const SILENCE = 45_000;

/** The first pause before another try, milliseconds. */
const FIRST_PAUSE = 800;

/**
 * How long a page that nobody sees goes on listening, milliseconds: a browser has six connections for all pages of a
 * server, which forgotten ones must not use up. The cursor brings what came meanwhile.
 */
const UNSEEN = 120_000;

export class Tail {
  #listener;
  #abort = new AbortController();

  /** @param {TailListener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /**
   * Listens to what `filter` means, and to nothing else any more.
   *
   * @param {Record<string, string>} filter
   */
  start(filter) {
    this.#abort.abort();
    this.#abort = new AbortController();
    void this.#run(filter, this.#abort.signal);
  }

  stop() {
    this.#abort.abort();
    this.#listener.onstate("off");
  }

  /**
   * @param {Record<string, string>} filter
   * @param {AbortSignal} stopped
   */
  async #run(filter, stopped) {
    const place = { cursor: "" };
    for (let failures = 0; !stopped.aborted;) {
      this.#listener.onstate("connecting");
      let heard = false;
      /** @type {Problem} */
      let problem;
      try {
        await this.#listen(filter, place, stopped, () => {
          heard = true;
        });
        problem = new Problem({ title: "The live tail has ended", hint: "It is opened again." });
      } catch (error) {
        if (stopped.aborted) return;
        problem = isAbort(error)
          ? new Problem({ title: "The live tail has gone silent" })
          : Problem.of(error, true);
      }
      if (stopped.aborted) return;
      if (document.hidden) {
        await first([document, "visibilitychange"], [stopped, "abort"]);
        failures = 0;
        continue;
      }
      // Wrong parameters, or no tail, will not become right by themselves.
      if (/^4(?!08|29)/.test(String(problem.status))) {
        this.#listener.onstate("refused", problem);
        return;
      }
      failures = heard ? 1 : failures + 1;
      this.#listener.onstate("waiting", problem);
      await first([AbortSignal.timeout(backoff(failures, FIRST_PAUSE)), "abort"], [stopped, "abort"]);
    }
  }

  /**
   * Listens once, until the stream ends.
   *
   * @param {Record<string, string>} filter
   * @param {{ cursor: string }} place
   * @param {AbortSignal} stopped
   * @param {() => void} onheard
   */
  async #listen(filter, place, stopped, onheard) {
    const silent = new AbortController();
    /** @type {Timer} */
    let unseen;
    const look = () => {
      clearTimeout(unseen);
      unseen = setTimeout(() => document.hidden && silent.abort(), UNSEEN);
    };
    look();
    document.addEventListener("visibilitychange", look, { signal: silent.signal });
    let timer = setTimeout(() => silent.abort(), SILENCE);
    try {
      const headers = new Headers({ accept: "text/event-stream" });
      if (place.cursor) headers.set("last-event-id", place.cursor);
      const response = await fetch(address("/v1/tail", filter), {
        headers,
        cache: "no-store",
        signal: AbortSignal.any([stopped, silent.signal]),
      });
      const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
      if (!response.ok || !response.body || !isStream) throw await refusal(response);
      this.#listener.onstate("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new EventParser();
      for (;;) {
        const { value, done } = await reader.read();
        if (done || stopped.aborted) return;
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENCE);
        onheard();
        const events = parser.push(value);
        // Before they are looked at: one that cannot be read must not come again and again.
        place.cursor = parser.id || place.cursor;
        for (const { event, data } of events) {
          if (event === "message") this.#listener.onmessage(parse(data));
          else if (event === "gap") this.#listener.ongap(parse(data));
        }
      }
    } finally {
      clearTimeout(timer);
      clearTimeout(unseen);
      silent.abort();
    }
  }
}

/**
 * Waits for the first of some events.
 *
 * @param {[EventTarget, string][]} events
 */
function first(...events) {
  const over = new AbortController();
  return new Promise((resolve) => {
    over.signal.addEventListener("abort", resolve);
    for (const [target, name] of events) {
      target.addEventListener(name, () => over.abort(), { signal: over.signal });
    }
  });
}

/** Takes a stream apart into events, as the HTML standard says; what it holds is bounded. */
export class EventParser {
  #rest = "";
  /** How far `#rest` was searched for the end of a line. */
  #searched = 0;
  /** @type {string[]} */
  #data = [];
  #size = 0;
  #event = "";
  #id = "";
  /** The id of the last event, also of one without data. */
  id = "";
  #most;

  /** @param {number} most how many characters one event may have */
  constructor(most = 8 << 20) {
    this.#most = most;
  }

  /**
   * @param {string} text
   * @returns {ServerEvent[]} the events that it completes
   * @throws {RangeError} when an event is over the bound
   */
  push(text) {
    this.#rest += text;
    /** @type {ServerEvent[]} */
    const events = [];
    const end = /\r\n|\n|\r/g;
    end.lastIndex = this.#searched;
    let start = 0;
    for (;;) {
      const found = end.exec(this.#rest);
      // A CR at the very end may be half of a CRLF.
      if (!found || (found[0] === "\r" && end.lastIndex === this.#rest.length)) break;
      this.#line(this.#rest.slice(start, found.index), events);
      start = end.lastIndex;
    }
    this.#rest = this.#rest.slice(start);
    this.#searched = Math.max(0, this.#rest.length - 1);
    if (this.#rest.length + this.#size > this.#most) {
      throw new RangeError(`an event of more than ${this.#most} characters`);
    }
    return events;
  }

  /**
   * @param {string} line
   * @param {ServerEvent[]} events
   */
  #line(line, events) {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      }
      this.id = this.#id;
      this.#data = [];
      this.#size = 0;
      this.#event = "";
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length + 1;
    } else if (field === "event") {
      this.#event = value;
    } else if (field === "id" && !value.includes("\0")) {
      this.#id = value;
    }
  }
}
