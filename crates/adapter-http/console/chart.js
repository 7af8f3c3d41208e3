// @ts-check
// Drawings of numbers: how time is cut into buckets and axes, and small lines of what a number was lately.

import { svg } from "./dom.js";

/** Widths that divide an hour or a day, so that buckets begin where people look for them; minutes. */
const WIDTHS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080];

/** Distances of the labels of an axis, minutes. */
const STEPS = [...WIDTHS, 20_160, 43_200];

const MINUTE = 60_000;

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
 * Widens a range to whole buckets; a click is the one bucket that it is in.
 *
 * @param {number} a one end, milliseconds since 1970
 * @param {number} b the other end
 * @param {number} width of a bucket, milliseconds
 */
export function snapped(a, b, width) {
  const from = Math.floor(Math.min(a, b) / width) * width;
  const until = Math.max(from + width, Math.ceil(Math.max(a, b) / width) * width);
  return { from, until };
}

/**
 * @param {number} from milliseconds since 1970
 * @param {number} until
 * @param {number} most how many labels there is room for
 * @param {number} offset what is added to UTC for the time that is shown, minutes
 */
export function ticks(from, until, most, offset) {
  const span = (until - from) / MINUTE;
  const step = (STEPS.find((width) => span / width <= most) ?? Math.ceil(span / most / 1440) * 1440) * MINUTE;
  /** @type {number[]} */
  const found = [];
  const shift = offset * MINUTE;
  for (let at = Math.ceil((from + shift) / step) * step - shift; at < until; at += step) found.push(at);
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

/** How many readings a line has; one every two seconds makes two minutes. */
const MOST = 60;

const WIDTH = 96;
const HEIGHT = 24;

export class Sparkline {
  /** @type {(number | null)[]} */
  #readings = [];
  #line = svg("path", { class: "line" });
  #area = svg("path", { class: "area" });
  element = svg(
    "svg",
    {
      class: "sparkline",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    this.#area,
    this.#line,
  );

  /** @param {number | null | undefined} reading */
  push(reading) {
    this.#readings.push(reading ?? null);
    if (this.#readings.length > MOST) this.#readings.shift();
    const { line, area } = sparkPaths(this.#readings, MOST, WIDTH, HEIGHT);
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
  }
}

/**
 * Draws readings from the right edge backwards; where one is not known the line is broken.
 *
 * @param {(number | null)[]} readings
 * @param {number} most
 * @param {number} width
 * @param {number} height
 */
export function sparkPaths(readings, most, width, height) {
  const top = niceTop(Math.max(0, ...readings.map((reading) => reading ?? 0)));
  const step = width / (most - 1);
  const start = width - (readings.length - 1) * step;
  let [line, area] = ["", ""];
  for (const [n, reading] of readings.entries()) {
    if (reading === null) continue;
    const x = (start + n * step).toFixed(1);
    const y = (height - 1 - (reading / top) * (height - 3)).toFixed(1);
    const [first, last] = [n - 1, n + 1].map((beside) => typeof readings[beside] !== "number");
    line += `${first ? "M" : "L"}${x} ${y}`;
    area += `${first ? `M${x} ${height}` : ""}L${x} ${y}${last ? `L${x} ${height}Z` : ""}`;
  }
  return { line, area };
}
