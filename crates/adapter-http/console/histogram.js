// How many messages there were when; a click or a drag picks a part of the time.

import { get, poll } from "./api.js";
import { byId, h, onClick, setText, svg } from "./dom.js";
import { SEVERITIES, preferences, severities } from "./store.js";
import { clock, instant, number, short } from "./time.js";

const MINUTE = 60_000;

/** How often the counts are asked for, milliseconds. */
const EVERY = 4_000;

/** The least width of a bar, and the most bars, so that bars can be hit. */
const BAR = 9;
const MOST_BARS = 120;

/** Room for the labels, pixels. */
const LEFT = 44;
const BOTTOM = 18;
const TOP = 6;

/** How many bars each key goes. */
const STEPS = /** @type {Record<string, number>} */ ({
  ArrowLeft: -1,
  ArrowRight: 1,
  Home: -Infinity,
  End: Infinity,
});

export class Histogram {
  #store;
  #oncounts;
  #place = byId("histogram");
  #tip = h("div", { class: "tip", hidden: true });
  /** @type {HistogramAnswer | null} */
  #answer = null;
  /** Where a drag began, and where it is, milliseconds since 1970, as all times here. */
  /** @type {{ from: number, to: number } | null} */
  #drag = null;
  /** Where the bucket begins that the keyboard is at. */
  #cursor = /** @type {number | null} */ (null);
  #asked = "";
  #problem = "";
  #poll = poll(
    (signal) => this.#ask(signal),
    EVERY,
    (problem) => {
      this.#problem = problem ? `${problem.title}. The bars are old.` : "";
      this.redraw();
    },
  );

  /**
   * @param {Store} store
   * @param {(counts: Counts | null) => void} oncounts
   */
  constructor(store, oncounts) {
    this.#store = store;
    this.#oncounts = oncounts;
    const place = this.#place;
    place.addEventListener("pointerdown", (event) => this.#down(event));
    place.addEventListener("pointermove", (event) => this.#moved(event));
    place.addEventListener("pointerup", (event) => this.#up(event));
    place.addEventListener("pointercancel", () => {
      this.#drag = null;
      this.#draw();
    });
    place.addEventListener("pointerleave", () => this.#point(this.#cursor));
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("blur", () => {
      this.#cursor = null;
      this.#point(null);
      this.#draw();
    });
    new ResizeObserver(() => this.#draw()).observe(place);
    onClick("part-clear", () => store.set({ part: "" }), "histogram");
    onClick(
      "part-zoom",
      () => {
        const [from = "", until = ""] = store.state.part.split("/");
        store.set({ from, until, part: "" });
      },
      "histogram",
    );
  }

  /** @param {State} state */
  update(state) {
    const asked = [state.view, state.source, state.from, state.until].join("\n");
    if (state.view !== "messages") this.#poll.stop();
    else if (asked !== this.#asked) {
      // What is shown is the answer to another question.
      this.#answer = this.#cursor = null;
      this.#oncounts(null);
      this.#place.replaceChildren();
      this.#poll.start();
    }
    this.#asked = asked;
    this.redraw();
  }

  redraw() {
    this.#draw();
    const note = this.#store.state.q ? "The bars are without the search text." : "";
    setText(byId("counts-note"), this.#problem || note);
    this.#place.classList.toggle("stale", this.#problem !== "");
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    const { source, from, until } = this.#store.state;
    const width = Math.max(200, this.#place.clientWidth - LEFT);
    const most = Math.min(MOST_BARS, Math.floor(width / BAR));
    const now = Date.now();
    const span = instant(until, now) - instant(from, now);
    // Where the range is none, the server says so.
    const bucket = span > 0 ? bucketText(bucketMinutes(span, most)) : "";
    this.#answer = await get("/v1/counts", { source, from, until, bucket }, signal);
    this.#draw();
  }

  /** The ends of the axis. */
  #ends() {
    if (!this.#answer) return { from: 0, until: 1 };
    return { from: Date.parse(this.#answer.from), until: Date.parse(this.#answer.until) };
  }

  #draw() {
    const answer = this.#answer;
    const { clientWidth: width, clientHeight: height } = this.#place;
    if (!answer || width < 80 || height < 30) return;
    const { from, until } = this.#ends();
    const [plot, floor] = [width - LEFT, height - BOTTOM];
    const x = (/** @type {number} */ time) => LEFT + ((time - from) / (until - from)) * plot;
    const top = niceTop(Math.max(0, ...answer.buckets.map(({ counts }) => this.#sum(counts))));
    const y = (/** @type {number} */ count) => TOP + (floor - TOP) * (1 - count / top);
    const paths = this.#bars(answer, x, y);
    const drawing = svg(
      "svg",
      { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
      svg("path", {
        class: "grid",
        d: `M${LEFT} ${y(top) + 0.5}H${width}M${LEFT} ${Math.round(y(top / 2)) + 0.5}H${width}`,
      }),
      svg("text", { class: "axis", x: LEFT - 6, y: y(top) + 8, "text-anchor": "end" }, short(top)),
      svg("text", { class: "axis", x: LEFT - 6, y: floor, "text-anchor": "end" }, "0"),
      ...SEVERITIES.map((severity) => svg("path", { class: `bar ${severity}`, d: paths[severity] })),
      svg("path", { class: "floor", d: `M${LEFT} ${floor + 0.5}H${width}` }),
      ...this.#labels(x, plot, height),
      ...this.#picked(x, floor),
    );
    this.#place.replaceChildren(drawing, this.#tip);
    this.#tell(answer);
  }

  #shown() {
    const chosen = severities(this.#store.state.severity);
    return SEVERITIES.filter((severity) => chosen.size === 0 || chosen.has(severity));
  }

  /**
   * Counts those of the severities that are shown.
   *
   * @param {Counts} counts
   */
  #sum(counts) {
    return this.#shown().reduce((sum, severity) => sum + counts[severity], 0);
  }

  /**
   * @param {HistogramAnswer} answer
   * @param {(time: number) => number} x
   * @param {(count: number) => number} y
   */
  #bars({ buckets }, x, y) {
    const paths = { debug: "", info: "", warning: "", error: "", critical: "" };
    for (const { start, counts } of buckets) {
      const at = Date.parse(start);
      const left = Math.max(LEFT, x(at) + 0.5);
      const right = Math.max(left + 1, x(at + this.#width) - 0.5);
      let below = 0;
      // The gravest at the bottom, where a few can be seen beside many.
      for (const severity of this.#shown().toReversed()) {
        const count = counts[severity];
        if (count === 0) continue;
        const [bottom, top] = [y(below), Math.min(y(below) - 1, y(below + count))];
        const [a, b, c, d] = [left, bottom, top, right].map((place) => place.toFixed(1));
        paths[severity] += `M${a} ${b}V${c}H${d}V${b}Z`;
        below += count;
      }
    }
    return paths;
  }

  /**
   * @param {(time: number) => number} x
   * @param {number} plot
   * @param {number} height
   */
  #labels(x, plot, height) {
    const { from, until } = this.#ends();
    const utc = preferences.zone === "utc";
    const offset = (/** @type {number} */ time) => (utc ? 0 : -new Date(time).getTimezoneOffset());
    const days = until - from > 2 * 86_400_000;
    return ticks(from, until, Math.max(2, Math.floor(plot / 90)), offset).map((time) => {
      const at = clock(time, preferences.zone);
      const midnight = at.time.startsWith("00:00");
      const text = midnight ? at.date : `${days ? `${at.date} ` : ""}${at.time.slice(0, 5)}`;
      const place = x(time);
      const anchor = place < LEFT + 20 ? "start" : place > LEFT + plot - 24 ? "end" : "middle";
      return svg("text", { class: "axis", x: place, y: height - 4, "text-anchor": anchor }, text);
    });
  }

  /**
   * Draws what is picked, what is being picked, and where the keyboard is.
   *
   * @param {(time: number) => number} x
   * @param {number} floor
   */
  #picked(x, floor) {
    const [from, until] = this.#store.state.part.split("/").map((time) => Date.parse(time));
    const drag = this.#drag && snapped(this.#drag.from, this.#drag.to, this.#width);
    const range = drag ?? (from && until ? { from, until } : null);
    const boxes = [];
    const box = (/** @type {number} */ a, /** @type {number} */ b, /** @type {string} */ name) =>
      svg("rect", { class: name, x: a, y: 0, width: Math.max(1, b - a), height: floor });
    const right = this.#place.clientWidth;
    if (range) {
      const [a, b] = [Math.max(LEFT, x(range.from)), Math.min(right, x(range.until))];
      boxes.push(box(LEFT, a, "outside"), box(b, right, "outside"), box(a, b, "inside"));
    }
    if (this.#cursor !== null)
      boxes.push(box(Math.max(LEFT, x(this.#cursor)), x(this.#cursor + this.#width), "cursor"));
    return boxes;
  }

  /** @param {HistogramAnswer} answer */
  #tell({ buckets }) {
    const sum = (/** @type {Severity} */ severity) =>
      buckets.reduce((before, { counts }) => before + counts[severity], 0);
    const counts = /** @type {Counts} */ (
      Object.fromEntries(SEVERITIES.map((severity) => [severity, sum(severity)]))
    );
    this.#oncounts(counts);
    const all = this.#sum(counts);
    setText(byId("histogram-sum"), `${number(all)} messages, ${bucketText(this.#width / MINUTE)} a bar`);
    const [first = 0, last = 0] = this.#reach;
    this.#place.setAttribute("aria-valuemax", String((last - first) / this.#width));
    if (this.#cursor === null) this.#place.setAttribute("aria-valuetext", `${number(all)} messages`);
  }

  /** The width of a bucket, milliseconds. */
  get #width() {
    return (this.#answer?.bucket_minutes ?? 1) * MINUTE;
  }

  /** Where the first and the last bucket begin. */
  get #reach() {
    const { from, until } = this.#ends();
    return [from, until - 1].map((time) => snapped(time, time, this.#width).from);
  }

  /** @param {PointerEvent} event */
  #timeAt(event) {
    const { from, until } = this.#ends();
    const { left, width } = this.#place.getBoundingClientRect();
    const share = (event.clientX - left - LEFT) / (width - LEFT);
    // Not the very end, which would be the bucket after it.
    return Math.min(until - 1, from + Math.max(0, share) * (until - from));
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0 || !this.#answer) return;
    this.#place.setPointerCapture(event.pointerId);
    const time = this.#timeAt(event);
    this.#drag = { from: time, to: time };
    this.#draw();
  }

  /** @param {PointerEvent} event */
  #moved(event) {
    if (!this.#answer) return;
    const time = this.#timeAt(event);
    if (this.#drag) {
      this.#drag.to = time;
      this.#draw();
    }
    this.#point(snapped(time, time, this.#width).from);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (!this.#drag || !this.#answer) return;
    const { from } = this.#drag;
    const picked = snapped(from, this.#timeAt(event), this.#width);
    this.#drag = null;
    this.#pick(picked.from, picked.until);
  }

  /**
   * Picks a part instead of the one before; the same one again is none.
   *
   * @param {number} from
   * @param {number} until
   */
  #pick(from, until) {
    const part = `${iso(from)}/${iso(until)}`;
    this.#store.set({ part: part === this.#store.state.part ? "" : part });
    this.#draw();
  }

  /** @param {number | null} start where the bucket begins that is told of */
  #point(start) {
    this.#tip.hidden = start === null || !this.#answer;
    if (start === null || !this.#answer) return;
    const found = this.#answer.buckets.find((other) => Date.parse(other.start) === start);
    const at = clock(start, preferences.zone);
    const lines = this.#shown()
      .toReversed()
      .map((severity) => ({ severity, count: found?.counts[severity] }));
    this.#tip.replaceChildren(
      h("strong", {}, `${at.date} ${at.time.slice(0, 5)}`),
      ...lines.map(({ severity, count }) =>
        count ? h("span", { class: severity }, `${severity} ${number(count)}`) : "",
      ),
      found ? "" : h("span", {}, "nothing"),
    );
    const { from, until } = this.#ends();
    const [share, plot] = [(start - from) / (until - from), this.#place.clientWidth - LEFT];
    const left = share < 0.5;
    this.#tip.style.left = left ? `${LEFT + share * plot + 16}px` : "auto";
    this.#tip.style.right = left ? "auto" : `${(1 - share) * plot + 8}px`;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const [first = 0, last = 0] = this.#reach;
    const step = STEPS[event.key];
    if (step) {
      event.preventDefault();
      this.#cursor = Math.max(
        first,
        Math.min(last, (this.#cursor ?? last) + (this.#cursor ? step * this.#width : 0)),
      );
      this.#point(this.#cursor);
      this.#place.setAttribute("aria-valuenow", String((this.#cursor - first) / this.#width));
      this.#place.setAttribute(
        "aria-valuetext",
        Array.from(this.#tip.children, (part) => part.textContent).join(", "),
      );
      this.#draw();
    } else if (event.key === "Enter" && this.#cursor !== null) {
      event.preventDefault();
      event.stopPropagation();
      this.#pick(this.#cursor, this.#cursor + this.#width);
    }
  }
}

/** @param {number} time */
const iso = (time) => new Date(time).toISOString().replace(".000", "");

/** Widths that divide an hour or a day: buckets begin where people look for them; minutes. */
const WIDTHS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080];

/** Distances of the labels of an axis, minutes. */
const DISTANCES = [...WIDTHS, 20_160, 43_200];

/**
 * @param {number} span milliseconds
 * @param {number} most how many buckets there is room for
 * @returns {number} minutes
 */
export function bucketMinutes(span, most) {
  const minutes = span / MINUTE;
  const fits = WIDTHS.find((width) => minutes / width <= most);
  return fits ?? Math.ceil(minutes / most / 1440) * 1440;
}

/**
 * Writes a width as the interface takes it.
 *
 * @param {number} minutes
 */
export function bucketText(minutes) {
  if (minutes % 1440 === 0) return `${minutes / 1440}d`;
  return minutes % 60 === 0 ? `${minutes / 60}h` : `${minutes}m`;
}

/**
 * Widens a range to whole buckets.
 *
 * @param {number} a one end
 * @param {number} b the other end
 * @param {number} width of a bucket
 */
export function snapped(a, b, width) {
  const from = Math.floor(Math.min(a, b) / width) * width;
  const until = Math.max(from + width, Math.ceil(Math.max(a, b) / width) * width);
  return { from, until };
}

/**
 * @param {number} from
 * @param {number} until
 * @param {number} most how many labels there is room for
 * @param {(time: number) => number} offset what is added to UTC for the time that is shown, minutes
 */
export function ticks(from, until, most, offset) {
  const span = (until - from) / MINUTE;
  const step =
    (DISTANCES.find((width) => span / width <= most) ?? Math.ceil(span / most / 1440) * 1440) * MINUTE;
  /** @type {number[]} */
  const found = [];
  const shift = offset(until) * MINUTE;
  for (let at = Math.ceil((from + shift) / step) * step - shift; at < until; at += step) {
    // Before the clocks were changed, the same time of the day was at another one.
    found.push(step > 60 * MINUTE ? at + shift - offset(at) * MINUTE : at);
  }
  return found;
}

/** @param {number} most */
export function niceTop(most) {
  if (most <= 4) return Math.max(1, Math.ceil(most));
  const size = 10 ** Math.floor(Math.log10(most));
  for (const factor of [1, 1.5, 2, 3, 4, 5, 6, 8]) {
    if (factor * size >= most) return factor * size;
  }
  return 10 * size;
}
